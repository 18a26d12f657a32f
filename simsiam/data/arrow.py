"""Copies of Parquet on a node, in Arrow, which all processes of the node map into memory and share.

To read one picture out of Parquet is to decode a whole row group. So each file is copied once a node.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from simsiam import buckets
from simsiam.data.pictures import DataError

SCHEMA = pa.schema([("image", pa.binary()), ("label", pa.int64())])

_COPIES = 4  # files copied at the same time: one stream from a bucket is slower than a disk

Batches = Callable[[str, "File"], Iterator[pa.RecordBatch]]  # the content of a file, in the schema


@dataclass(frozen=True)
class File:
    """A Parquet file.

    Args:
        name: within its folder.
        size: bytes.
        modified: ns since 1970.
    """

    name: str
    size: int
    modified: int


def remembered(place: str, files: Sequence[File], kind: str, make: Callable[[], str]) -> str:
    """What `make` gives, asked once a node for files of a bucket that have not changed since, and for this kind."""
    if not buckets.is_bucket(place):
        return make()
    memory = _kept(place, files, kind)
    if not memory.exists():
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(make())
        os.replace(temporary, memory)
    return memory.read_text()


def fetch(place: str, files: Sequence[File], batches: Batches, kind: str) -> list[Path]:
    """The copies of files on this node, of one kind, made now where no process has made them.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    # What the network breaks off is gone on with below, one by one and patiently.
    with contextlib.suppress(OSError), ThreadPoolExecutor(_COPIES) as pool:
        for _ in pool.map(functools.partial(_on_this_node, batches, kind, place), files):
            pass
    return [buckets.patiently(place, functools.partial(_on_this_node, batches, kind, place, file)) for file in files]


def forget(place: str, files: Sequence[File], kind: str) -> None:
    """Remove the copies of files, where they are."""
    for file in files:
        _kept(place, [file], kind).unlink(missing_ok=True)


def cache() -> Path:
    """The folder of copies on this node's disk: $SIMSIAM_CACHE, or one in the user's home."""
    return Path(os.environ.get("SIMSIAM_CACHE") or Path.home() / ".cache" / "simsiam-ablations")


def _kept(place: str, files: Sequence[File], kind: str) -> Path:
    """Where what is kept of these files on this node is, or will be."""
    return cache() / f"{hashlib.sha256(repr((place, list(files))).encode()).hexdigest()[:20]}.{kind}"


def _on_this_node(batches: Batches, kind: str, place: str, file: File) -> Path:
    """The copy of a file, made now if no process of this node has made it."""
    path = _kept(place, [file], kind)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _copy(batches(place, file), path)
    except OSError as error:
        if of_the_network(error):
            raise
        raise DataError(
            f"The pictures of {buckets.shown(place)} cannot be copied into {path.parent}: {error}. Make room, or "
            "name another folder in $SIMSIAM_CACHE."
        ) from None
    return path


def content(path: Path) -> list[pa.RecordBatch]:
    """The batches of an Arrow file. They stay mapped into memory when it is closed: a data set has hundreds of them."""
    with pa.memory_map(str(path)) as file:
        arrow = pa.ipc.open_file(file)
        return [arrow.get_batch(i) for i in range(arrow.num_record_batches)]


def _copy(batches: Iterator[pa.RecordBatch], path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
            for batch in batches:
                writer.write_batch(batch)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # on a disk that is full, it would keep it so


def of_the_network(error: Exception) -> bool:
    return (isinstance(error, OSError) and "AWS Error" in str(error)) or "google::cloud" in str(error)
