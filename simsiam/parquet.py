"""Pictures as Hugging Face data sets keep them, on a disk or in a bucket: Parquet with encoded pictures and labels.

To read one picture out of Parquet is to decode a whole row group. So each file is copied once a node into one of Arrow,
which all processes of the node map into memory and share.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import fs

from simsiam import buckets
from simsiam.pictures import DataError, Pictures

_COLUMNS = {"image": ("image", "img"), "label": ("label", "labels")}
_ROWS = 256  # of a batch of the Arrow file
_AT_ONCE = 16  # files asked at the same time: a bucket answers each after some hundredths of a second
_COPIES = 4  # files copied at the same time: one stream from a bucket is slower than a disk
_ARROW = pa.schema([("image", pa.binary()), ("label", pa.int64())])


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


def check_answers(place: str) -> None:
    """Raises DataError for a bucket that does not answer. It asks once: a wrong key must not cost minutes."""
    try:
        files, root = _open(place)
        files.get_file_info(f"{root}/train.parquet")  # there or not: a bucket itself may be asked by fewer people
    except OSError as error:
        raise DataError(
            f"The data in {buckets.shown(place)} cannot be read: {error}. Give others with --data."
        ) from None


def splits(place: str) -> dict[str, list[File]]:
    """The Parquet files of a folder or a bucket, here or in data/: split as it is named there -> its files.

    train.parquet, or train-00000-of-00002.parquet and so on. Raises DataError if some of a split's files are missing.
    """
    found: dict[str, list[File]] = {}
    shown = buckets.shown(place)
    for file in _listing(place):
        if match := re.fullmatch(r"(\w+?)(-\d+-of-(\d+).*)?", Path(file.name).stem):
            found.setdefault(match[1], []).append(file)
    for split, files in found.items():
        if len({Path(file.name).parent for file in files}) > 1:
            raise DataError(f"{shown} has split {split} twice, beside data/ and in it. Remove one.")
        shards = re.search(r"-of-(\d+)", Path(files[0].name).stem)
        if shards and int(shards[1]) != len(files):
            raise DataError(
                f"{buckets.shown(place)} has {len(files)} of the {int(shards[1])} Parquet files of split {split}."
            )
    return found


def rows(place: str, files: Sequence[File]) -> int:
    """How many pictures there are, from the files' footers alone. Raises DataError."""

    def count(file: File) -> int:
        with _opened(place, file) as parquet:
            _columns(place, file, parquet)
            return parquet.metadata.num_rows

    return sum(_of_each(place, files, count))


def unlabelled(place: str, files: Sequence[File]) -> bool:
    """Whether all labels are below 0, as far as the files' footers say. Raises DataError."""

    def largest(file: File) -> int:
        with _opened(place, file) as parquet:
            _, label = _columns(place, file, parquet)
            if not pa.types.is_integer(parquet.schema_arrow.field(label).type):
                return 0
            groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
            columns = [group.column(i) for group in groups for i in range(group.num_columns)]
            told = [column.statistics for column in columns if column.path_in_schema == label]
            return max((each.max if each and each.has_min_max else 0 for each in told), default=0)

    return all(label < 0 for label in _of_each(place, files, largest))


def _of_each(place: str, files: Sequence[File], ask: Callable[[File], int]) -> list[int]:
    def attempt() -> list[int]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, files))

    return buckets.patiently(place, attempt)


def content(place: str, file: File) -> bytes:
    """What is in a file."""

    def attempt() -> bytes:
        files, root = _open(place)
        with files.open_input_stream(f"{root}/{file.name}") as stream:
            return stream.read()

    return buckets.patiently(place, attempt)


def first(place: str, files: Sequence[File]) -> bytes:
    """The first picture that is there, encoded, without a copy of the others; empty if there is none."""
    return buckets.patiently(place, lambda: next((_encoded(place, file) for file in files), b""))


def _encoded(place: str, file: File) -> bytes:
    for batch in _batches(place, file):
        return batch["image"][0].as_py() or b""
    return b""


def remembered(place: str, files: Sequence[File], make: Callable[[], str]) -> str:
    """What `make` gives, asked once a node for files of a bucket that have not changed since."""
    if not buckets.is_bucket(place):
        return make()
    memory = _kept(place, files, "digest")
    if not memory.exists():
        memory.parent.mkdir(parents=True, exist_ok=True)
        temporary = memory.with_suffix(f".{os.getpid()}.tmp")
        temporary.write_text(make())
        os.replace(temporary, memory)
    return memory.read_text()


def fetch(place: str, files: Sequence[File]) -> list[Path]:
    """The copies of files on this node, made now where no process has made them.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    # What the network breaks off is gone on with below, one by one and patiently.
    with contextlib.suppress(OSError), ThreadPoolExecutor(_COPIES) as pool:
        for _ in pool.map(functools.partial(_on_this_node, place), files):
            pass
    return [buckets.patiently(place, functools.partial(_on_this_node, place, file)) for file in files]


def read(place: str, files: Sequence[File]) -> Pictures:
    """One split. Raises as `fetch`."""
    by_file = [_content(path) for path in fetch(place, files)]
    batches = [batch for each in by_file for batch in each]
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    firsts = np.cumsum([0, *(sum(batch.num_rows for batch in each) for each in by_file)])

    def encoded(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return batches[part]["image"][i - int(starts[part])].as_py() or b""

    def where(i: int) -> str:
        part = int(np.searchsorted(firsts, i, side="right")) - 1
        return f"{_name(place, files[part])}, row {i - firsts[part]}"

    labels = [batch["label"].fill_null(-1).to_numpy() for batch in batches]
    return Pictures(labels=np.concatenate([np.empty(0, np.int64), *labels]), where=where, encoded=encoded)


def cache() -> Path:
    """The folder of copies on this node's disk: $SIMSIAM_CACHE, or one in the user's home."""
    return Path(os.environ.get("SIMSIAM_CACHE") or Path.home() / ".cache" / "simsiam-ablations")


def _kept(place: str, files: Sequence[File], kind: str) -> Path:
    """Where what is kept of these files on this node is, or will be."""
    return cache() / f"{hashlib.sha256(repr((place, list(files))).encode()).hexdigest()[:20]}.{kind}"


def _on_this_node(place: str, file: File) -> Path:
    """The copy of a file, made now if no process of this node has made it."""
    path = _kept(place, [file], "arrow")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path.with_suffix(".lock"), "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                _copy(place, file, path)
    except OSError as error:
        if _of_the_network(error):
            raise
        raise DataError(
            f"The pictures of {buckets.shown(place)} cannot be copied into {path.parent}: {error}. Make room, or "
            "name another folder in $SIMSIAM_CACHE."
        ) from None
    return path


def _content(path: Path) -> list[pa.RecordBatch]:
    """The batches of an Arrow file. They stay mapped into memory when it is closed: a data set has hundreds of them."""
    with pa.memory_map(str(path)) as file:
        arrow = pa.ipc.open_file(file)
        return [arrow.get_batch(i) for i in range(arrow.num_record_batches)]


def _copy(place: str, file: File, path: Path) -> None:
    temporary = path.with_suffix(".tmp")
    try:
        with pa.OSFile(str(temporary), "wb") as sink, pa.ipc.new_file(sink, _ARROW) as writer:
            for batch in _batches(place, file):
                writer.write_batch(batch)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)  # on a disk that is full, it would keep it so


def _batches(place: str, file: File) -> Iterator[pa.RecordBatch]:
    with _opened(place, file) as parquet:
        image, label = _columns(place, file, parquet)
        try:
            for batch in parquet.iter_batches(_ROWS, columns=[image, label], use_threads=False):
                pictures, labels = batch[image], batch[label]
                if pa.types.is_struct(pictures.type):
                    pictures = pictures.field("bytes")
                if not pa.types.is_integer(labels.type):
                    raise ValueError(f"the labels must be whole numbers; they are {labels.type}")
                yield pa.record_batch([pictures.cast(pa.binary()), labels.cast(pa.int64())], schema=_ARROW)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise _unreadable(error, f"{_name(place, file)} cannot be read: {error}") from None


def _opened(place: str, file: File) -> pq.ParquetFile:
    files, root = _open(place)
    try:
        return pq.ParquetFile(f"{root}/{file.name}", filesystem=files)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(error, f"{_name(place, file)} is no readable Parquet file: {error}") from None


def _unreadable(error: Exception, message: str) -> Exception:
    """A DataError; but what the network did stays as it is, which is worth another attempt."""
    return error if _of_the_network(error) else DataError(message)


def _of_the_network(error: Exception) -> bool:
    return (isinstance(error, OSError) and "AWS Error" in str(error)) or "google::cloud" in str(error)


def _name(place: str, file: File) -> str:
    return f"{buckets.shown(place)}/{file.name}"


def _columns(place: str, file: File, parquet: pq.ParquetFile) -> tuple[str, str]:
    """The names of the image and the label column."""
    names, found = parquet.schema_arrow.names, []
    for what, known in _COLUMNS.items():
        column = next((name for name in known if name in names), None)
        if column is None:
            raise DataError(
                f"{_name(place, file)} has no {what} column. Known names: {', '.join(known)}. Its columns: "
                f"{', '.join(names)}."
            )
        found.append(column)
    return found[0], found[1]


def _listing(place: str) -> list[File]:
    def attempt() -> list[File]:
        files, root = _open(place)
        found = []
        for folder in ("", "data/"):
            selector = fs.FileSelector(f"{root}/{folder}".rstrip("/"), allow_not_found=True)
            for info in files.get_file_info(selector):
                if info.type == fs.FileType.File and info.base_name.endswith(".parquet"):
                    found.append(File(folder + info.base_name, info.size, info.mtime_ns or 0))
        return sorted(found, key=lambda file: file.name)

    return buckets.patiently(place, attempt)


def _open(place: str) -> tuple[Any, str]:
    """The pyarrow filesystem of a place, and the root in it."""
    try:
        return buckets.opened(place)
    except pa.ArrowException as error:
        raise DataError(f"{buckets.shown(place)} cannot be opened: {error}") from None
