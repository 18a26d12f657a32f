"""What a person sees. Best effort: a terminal that is gone, or that cannot show a letter, decides nothing."""

from __future__ import annotations

import contextlib
import os
import sys
from typing import IO

from simsiam.text import printable


def say(text: str, *, error: bool = False) -> None:
    """Print lines, if that is possible."""
    stream = sys.stderr if error else sys.stdout
    try:
        print("\n".join(shown(line) for line in text.split("\n")), file=stream, flush=True)
    except (OSError, ValueError):  # the reader of a pipe has gone, the terminal is closed
        _silence(stream)


def shown(line: str) -> str:
    """A line as standard output can show it: other letters, and what a terminal would act on, are escaped."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return printable(line).encode(encoding, "backslashreplace").decode(encoding)


def _silence(stream: IO[str]) -> None:
    """Let all that is still written to it vanish, also at the interpreter's end."""
    with contextlib.suppress(OSError, ValueError):
        nothing = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nothing, stream.fileno())
        os.close(nothing)
