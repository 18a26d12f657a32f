"""A public file, fetched by HTTP: whole, with its published checksum, from where an earlier try has ended."""

from __future__ import annotations

import hashlib
import http.client
import urllib.error
import urllib.request
from pathlib import Path

_TRIES = 3
_SECONDS = 60.0  # without a byte
_CHUNK = 1 << 20


def download(url: str, file: Path, *, checksum: str) -> None:
    """Fetch a file, unless it is there. What a try has of it stays beside it, as .part, for the next to go on with.

    Args:
        checksum: MD5 or SHA-256, hex digits; by their number.

    Raises OSError for what cannot be fetched, RuntimeError for another checksum.
    """
    part = file.with_name(f"{file.name}.part")
    for tried in range(1, _TRIES + 1):
        try:
            if not file.exists():
                _go_on(url, part)
                part.rename(file)
            break
        except (OSError, http.client.HTTPException) as error:
            if tried == _TRIES or isinstance(error, urllib.error.HTTPError):
                raise OSError(f"{url}: {error}") from None
    with open(file, "rb") as content:
        found = hashlib.file_digest(content, "md5" if len(checksum) == 32 else "sha256").hexdigest()
    if found != checksum:
        file.unlink()  # the next try fetches it anew
        raise RuntimeError(f"{url} has the checksum {found}, and not the published {checksum}")


def _go_on(url: str, part: Path) -> None:
    """The rest of a file. Raises OSError if it is cut off."""
    from torch.hub import tqdm  # type: ignore[attr-defined]

    done = part.stat().st_size if part.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={done}-"} if done else {})
    try:
        answer = urllib.request.urlopen(request, timeout=_SECONDS)
    except urllib.error.HTTPError as error:
        if error.code == 416 and done:  # there is no more of it
            return
        raise
    with answer:
        if answer.status != 206:  # all of it, from the start
            done = 0
        length = answer.headers.get("Content-Length")
        whole = None if length is None else done + int(length)
        with (
            open(part, "ab" if done else "wb") as out,
            tqdm(total=whole, initial=done, unit="B", unit_scale=True) as bar,
        ):
            while chunk := answer.read(_CHUNK):
                done += out.write(chunk)
                bar.update(len(chunk))
    if whole is not None and done < whole:
        raise OSError(f"cut off after {done:,} of {whole:,} bytes; the same command goes on from there")
