"""What a person sees. Best effort: a terminal that is gone, or that cannot show a letter, decides nothing."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from collections.abc import Sequence
from typing import IO
from unicodedata import combining, east_asian_width

from simsiam.text import printable


def say(text: str, *, error: bool = False) -> None:
    """Print lines, if that is possible."""
    stream = sys.stderr if error else sys.stdout
    try:
        _print(text, stream)
    except (OSError, ValueError):
        _silence(stream)


def answer(text: str) -> bool:
    """Print what a command was asked for -> whether somebody still reads it.

    Raises OSError where it is lost otherwise, as on a disk that is full.
    """
    try:
        _print(text, sys.stdout)
    except (OSError, ValueError) as error:
        _silence(sys.stdout)
        if isinstance(error, OSError) and error.errno not in _GONE:
            raise
        return False
    return True


def _print(text: str, stream: IO[str]) -> None:
    print("\n".join(shown(line) for line in text.split("\n")), file=stream, flush=True)


def is_terminal() -> bool:
    """Whether standard output is one; a process may have none at all."""
    with contextlib.suppress(ValueError):  # closed
        return sys.stdout is not None and sys.stdout.isatty()
    return False


def shown(line: str) -> str:
    """A line as standard output can show it: other letters, and what a terminal would act on, are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(line).encode(encoding, "backslashreplace").decode(encoding)


def some(names: Sequence[str], most: int) -> str:
    """The first of them in a line, and that there are more."""
    return ", ".join(names[:most]) + ", ..." * (len(names) > most)


def width(line: str) -> int:
    """The columns of a terminal that it takes: letters of East Asia take two, accents that combine with one none."""
    return sum(0 if combining(letter) else 2 if east_asian_width(letter) in "WF" else 1 for letter in line)


_GONE = {errno.EPIPE, errno.EIO, errno.EBADF}  # the reader of a pipe, the terminal, the stream itself

_REMEDIES = {
    errno.ENOSPC: "Make room there, or name another folder",
    errno.EDQUOT: "Make room there, or name another folder",
    errno.EACCES: "Let it be read and written by you, or name another",
    errno.EPERM: "Let it be read and written by you, or name another",
    errno.EROFS: "Name a folder that can be written",
    errno.EMFILE: "Allow more open files: ulimit -n 65536",
    errno.ENFILE: "Too much else is running on this machine",
}


def reason(error: OSError) -> str:
    """What the system said, where, and what to do about it."""
    if error.errno is None or error.strerror is None:
        return str(error)
    place = f": {error.filename}" if error.filename else ""
    remedy = f". {_REMEDIES[error.errno]}" if error.errno in _REMEDIES else ""
    return f"{error.strerror}{place}{remedy}"


def _silence(stream: IO[str]) -> None:
    """Let all that is still written to it vanish, also at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
