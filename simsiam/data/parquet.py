"""Parquet as Hugging Face data sets lay it out, on a disk or in a bucket: encoded pictures and labels."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from simsiam import buckets
from simsiam.data import arrow, classes
from simsiam.data.arrow import File
from simsiam.data.parquet_files import name_of, open_place, splits
from simsiam.data.pictures import TEST, TRAIN, DataError, Pictures
from simsiam.data.source import READING, SPLIT_NAMES, Asked, Hashed, Source, both, digest
from simsiam.text import printable

T = TypeVar("T")

_COLUMNS = {"image": ("image", "img"), "label": ("label", "labels")}
_ROWS = 256  # of a batch of the Arrow file
_AT_ONCE = 16  # files asked at the same time: a bucket answers each after some hundredths of a second


def check_answers(place: str) -> None:
    """Raises DataError for a bucket that does not answer. It asks once: a wrong key must not cost minutes."""
    try:
        files, root = open_place(place)
        files.get_file_info(f"{root}/train.parquet")  # there or not: a bucket itself may be asked by fewer people
    except OSError as error:
        raise DataError(
            f"The data in {buckets.shown(place)} cannot be read: {error}. Give others with --data."
        ) from None


def find(asked: Asked) -> Source | None:
    path, place = asked.path, str(asked.path)
    if path is None or not any(name in splits(place) for names in SPLIT_NAMES.values() for name in names):
        return None
    files = _files(place)
    train, test = (sum(_of_each(place, files[split], lambda file: _rows(place, file))) for split in (TRAIN, TEST))
    names = _class_names(place, files)
    if names[TRAIN] and names[TEST]:
        classes.check(names, printable(buckets.shown(place)))
    every = [*files[TRAIN], *files[TEST]]
    made = arrow.remembered(place, every, READING, lambda: digest([_hashed(place, file) for file in every], ours=True))
    return Source(
        "parquet",
        made,
        train,
        test,
        path,
        encoded_bytes=sum(file.size for file in every),
        notes=tuple(classes.notes(names)) if names[TRAIN] and names[TEST] else (),
    )


def read(source: Source, split: str) -> Pictures:
    """One split, from its copy on this node.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    place = str(source.path)
    every = _files(place)
    files = every[split]
    by_file = [arrow.content(path) for path in arrow.fetch(place, files, _batches)]
    batches = [batch for each in by_file for batch in each]
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    firsts = np.cumsum([0, *(sum(batch.num_rows for batch in each) for each in by_file)])

    def encoded(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return batches[part]["image"][i - int(starts[part])].as_py() or b""

    def where(i: int) -> str:
        part = int(np.searchsorted(firsts, i, side="right")) - 1
        return f"{name_of(place, files[part])}, row {i - firsts[part]}"

    labels = [batch["label"].fill_null(-1).to_numpy() for batch in batches]
    names = _class_names(place, every)
    numbered = _numbered(np.concatenate([np.empty(0, np.int64), *labels]), split, names)
    return Pictures(
        labels=numbered, where=where, encoded=encoded, classes=list(dict.fromkeys(names[TRAIN] + names[TEST]))
    )


def first(source: Source) -> bytes:
    """The first training picture, encoded, without a copy of the others; empty if there is none."""
    place = str(source.path)
    files = _files(place)[TRAIN]
    return buckets.patiently(place, lambda: next((_encoded(place, file) for file in files), b""))


def _encoded(place: str, file: File) -> bytes:
    for batch in _batches(place, file):
        return batch["image"][0].as_py() or b""
    return b""


def _files(place: str) -> dict[str, list[File]]:
    """Split -> its files. A test split without labels, as Hugging Face's ImageNet has, is passed over."""
    named = splits(place)
    for name in SPLIT_NAMES[TEST]:
        if name in named and all(_of_each(place, named[name], lambda file: _unlabelled(place, file))):
            if any(other in named for other in SPLIT_NAMES[TEST] if other != name):
                del named[name]
                continue
            _of_each(place, named[name], lambda file: _rows(place, file))  # which misses the column, if there is none
            raise DataError(
                f"The {name} split of {printable(buckets.shown(place))} has no labels: they are null, or below 0, "
                f"which stands for unknown ones. Add a split with labels: {' or '.join(SPLIT_NAMES[TEST])}."
            )
    return both(named, place)


def _rows(place: str, file: File) -> int:
    """How many pictures there are, from the file's footer alone."""
    with _opened(place, file) as parquet:
        _columns(place, file, parquet)
        return parquet.metadata.num_rows


def _unlabelled(place: str, file: File) -> bool:
    """Whether there is no label, or none but nulls and numbers below 0, as far as the file's footer says."""
    with _opened(place, file) as parquet:
        label = _column(parquet, "label")
        if label is None:
            return True
        kind = parquet.schema_arrow.field(label).type
        if not pa.types.is_integer(kind):
            return pa.types.is_null(kind)
        groups = [parquet.metadata.row_group(i) for i in range(parquet.metadata.num_row_groups)]
        columns = [group.column(i) for group in groups for i in range(group.num_columns)]
        return all(_is_unknown(column) for column in columns if column.path_in_schema == label)


def _is_unknown(column: Any) -> bool:
    """Of a row group's labels. Statistics may be left out of a file; then they are known to be read only."""
    told = column.statistics
    if told is None:
        return False
    return told.null_count == column.num_values if not told.has_min_max else told.max < 0


def _class_names(place: str, files: dict[str, list[File]]) -> dict[str, list[str]]:
    """Split -> the names of its classes 0, 1, ..., as Hugging Face writes them into its files; none where it has not.

    Raises DataError if the files of a split disagree.
    """
    found = {}
    for split, each in files.items():
        told = _of_each(place, each, lambda file: _names_in(place, file))
        if any(names != told[0] for names in told):
            raise DataError(
                f"The files of the {split} split of {printable(buckets.shown(place))} number their classes in "
                "different orders. Write them again from one data set."
            )
        found[split] = told[0]
    return found


def _names_in(place: str, file: File) -> list[str]:
    with _opened(place, file) as parquet:
        label, metadata = _column(parquet, "label"), parquet.schema_arrow.metadata or {}
    try:
        names = json.loads(metadata[b"huggingface"])["info"]["features"][label]["names"]
    except (KeyError, TypeError, ValueError):
        return []
    return [str(name) for name in names] if isinstance(names, list) else []


def _numbered(labels: npt.NDArray[np.int64], split: str, names: dict[str, list[str]]) -> npt.NDArray[np.int64]:
    """Labels with the training split's number for each class; those of the test split alone come after."""
    if split == TRAIN or not (names[TRAIN] and names[TEST]) or labels.max(initial=-1) >= len(names[TEST]):
        return labels
    numbers = {name: i for i, name in enumerate(names[TRAIN])}
    table = np.array([numbers.setdefault(name, len(numbers)) for name in names[TEST]], np.int64)
    return np.where(labels < 0, labels, table[labels])


def _of_each(place: str, files: Sequence[File], ask: Callable[[File], T]) -> list[T]:
    def attempt() -> list[T]:
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(ask, files))

    return buckets.patiently(place, attempt)


def _hashed(place: str, file: File) -> Hashed:
    return file.name.encode(errors="surrogateescape"), file.size, lambda: _content(place, file)


def _content(place: str, file: File) -> bytes:
    def attempt() -> bytes:
        files, root = open_place(place)
        with files.open_input_stream(f"{root}/{file.name}") as stream:
            return stream.read()

    return buckets.patiently(place, attempt)


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
                yield pa.record_batch([pictures.cast(pa.binary()), labels.cast(pa.int64())], schema=arrow.SCHEMA)
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise _unreadable(error, f"{name_of(place, file)} cannot be read: {error}") from None


def _opened(place: str, file: File) -> pq.ParquetFile:
    files, root = open_place(place)
    try:
        return pq.ParquetFile(f"{root}/{file.name}", filesystem=files)
    except (pa.ArrowInvalid, OSError) as error:
        raise _unreadable(error, f"{name_of(place, file)} is no readable Parquet file: {error}") from None


def _unreadable(error: Exception, message: str) -> Exception:
    """A DataError; but what the network did stays as it is, which is worth another attempt."""
    return error if arrow.of_the_network(error) else DataError(message)


def _columns(place: str, file: File, parquet: pq.ParquetFile) -> tuple[str, str]:
    """The names of the image and the label column."""
    image, label = (_column(parquet, what) for what in _COLUMNS)
    for what, column in (("image", image), ("label", label)):
        if column is None:
            raise DataError(
                f"{name_of(place, file)} has no {what} column. Known names: {', '.join(_COLUMNS[what])}. Its columns: "
                f"{printable(', '.join(parquet.schema_arrow.names))}. Rename the one that is meant."
            )
    return str(image), str(label)


def _column(parquet: pq.ParquetFile, what: str) -> str | None:
    return next((name for name in _COLUMNS[what] if name in parquet.schema_arrow.names), None)
