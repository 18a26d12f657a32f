"""Buckets, s3:// and gs://: how they are opened, waited for and named."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar
from urllib.parse import unquote

from pyarrow import ArrowInvalid, fs

from simsiam.text import printable

T = TypeVar("T")

BUCKETS = ("s3://", "gs://")

PATIENCE = 300.0  # seconds that a bucket may be out of reach before that is an error
GOOGLE_SECONDS = 20  # that Google's client tries by itself; its own limit is a quarter of an hour without a word
PAUSES = (0.5, 1, 2, 4, 8, 16)  # seconds between two attempts; the last one repeats


def is_bucket(place: str) -> bool:
    return place.startswith(BUCKETS)


def shown(place: str) -> str:
    """A place as a terminal shows it: without its query, and without a key and its secret before the bucket."""
    place = printable(place)
    kind, address, path = place.partition("://")
    if not address:
        return place
    path = path.partition("?")[0]
    if not {"@", ":"} & set(path.partition("/")[0]):
        return f"{kind}://{path}"
    return f"{kind}://{path.rpartition('@')[2] if '@' in path else '***'}"


def opened(place: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a path or of a bucket's URI, and the root in it.

    Raises pyarrow.ArrowInvalid, also for a URI with a secret: URIs are written down by Ray, and shown.
    """
    if not is_bucket(place):
        return fs.LocalFileSystem(), place
    if _has_a_secret(place):
        raise ArrowInvalid(_SECRET)
    if "#" in place:  # pyarrow takes the rest for a fragment, and two places for one
        raise ArrowInvalid("a # in a bucket's URI must be written %23")
    path = place.partition("?")[0].partition("://")[2]
    if not path or path.startswith("/") or "//" in path:
        raise ArrowInvalid("it must be BUCKET/FOLDER behind s3:// or gs://, with one / between two names")
    return _filesystem(place)


def patiently(place: str, attempt: Callable[[], T]) -> T:
    """What `attempt` gives; where it is about a bucket, tried until it works: minutes out of reach cost no result.

    It runs in another thread and ends there: a signal in the middle of an upload would make pyarrow complete the part.
    """
    if not is_bucket(place):
        return attempt()
    failed, number = None, 0
    while True:
        try:
            with ThreadPoolExecutor(1) as pool:
                return pool.submit(attempt).result()
        except OSError:
            failed = failed or time.monotonic()  # not from the start: an attempt may be a copy of minutes
            if time.monotonic() - failed > PATIENCE:
                raise
            time.sleep(PAUSES[min(number, len(PAUSES) - 1)])
            number += 1


_SECRET = (
    "a key or a password stands in it, and addresses are kept in logs. Leave it out, and set AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY, or GOOGLE_APPLICATION_CREDENTIALS, for run.py and, on each node, for `ray start`"
)


def _has_a_secret(uri: str) -> bool:
    """Whether anything stands before the name of the bucket, or of a server, but the `anonymous` of Google's."""
    path, _, query = uri.partition("://")[2].removeprefix("anonymous@").partition("?")
    return bool({"@", ":"} & set(path.partition("/")[0])) or "@" in unquote(query)


@functools.cache
def _filesystem(uri: str) -> tuple[Any, str]:
    if uri.startswith("gs://") and "retry_limit_seconds=" not in uri:
        uri += f"{'&' if '?' in uri else '?'}retry_limit_seconds={GOOGLE_SECONDS}"
    return fs.FileSystem.from_uri(uri)
