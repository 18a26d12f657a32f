"""Parquet as Hugging Face data sets lay it out, on a disk or in a bucket: encoded pictures and labels."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from simsiam import buckets
from simsiam.data import arrow, classes
from simsiam.data.arrow import File
from simsiam.data.parquet_columns import names_in, rows, unlabelled
from simsiam.data.parquet_files import name_of, open_place, splits
from simsiam.data.parquet_rows import batches
from simsiam.data.pictures import TEST, TRAIN, DataError, Pictures
from simsiam.data.source import READING, SPLIT_NAMES, Asked, Hashed, Source, both, digest

T = TypeVar("T")

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
    if path is None or not {name for names in SPLIT_NAMES.values() for name in names} & splits(place).keys():
        return None
    label = asked.label_column
    files = _files(place, label)
    train, test = (
        sum(_of_each(place, files[split], functools.partial(rows, place, label=label))) for split in (TRAIN, TEST)
    )
    names = _class_names(place, files, label)
    if names[TRAIN] and names[TEST]:
        classes.check(names, buckets.shown(place))
    every = [*files[TRAIN], *files[TEST]]
    hashed = [*(_hashed(place, file) for file in every), *([(label.encode(), 0, bytes)] if label else [])]
    made = arrow.remembered(place, every, _kind(READING, label), lambda: digest(hashed, ours=True))
    return Source(
        "parquet",
        made,
        train,
        test,
        path,
        label_column=label,
        encoded_bytes=sum(file.size for file in every),
        notes=tuple(classes.notes(names)) if names[TRAIN] and names[TEST] else (),
    )


def read(source: Source, split: str) -> Pictures:
    """One split, from its copy on this node.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    place, label = str(source.path), source.label_column
    every = _files(place, label)
    files = every[split]
    reader = functools.partial(batches, label=label, most=source.max_bytes)
    by_file = [arrow.content(path) for path in arrow.fetch(place, files, reader, _copies(source))]
    parts = [part for each in by_file for part in each]
    starts = np.cumsum([0, *(part.num_rows for part in parts)])
    firsts = np.cumsum([0, *(sum(part.num_rows for part in each) for each in by_file)])

    def encoded(i: int) -> bytes:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        content: bytes = parts[part]["image"][i - int(starts[part])].as_py()
        return content

    def where(i: int) -> str:
        part = int(np.searchsorted(firsts, i, side="right")) - 1
        return f"{name_of(place, files[part])}, row {i - firsts[part]}"

    labels = [part["label"].fill_null(-1).to_numpy() for part in parts]
    names = _class_names(place, every, label)
    numbered = _numbered(np.concatenate([np.empty(0, np.int64), *labels]), split, names)
    return Pictures(
        labels=numbered, where=where, encoded=encoded, classes=list(dict.fromkeys(names[TRAIN] + names[TEST]))
    )


def first(source: Source) -> bytes:
    """The first training picture, encoded, without a copy of the others; empty if there is none."""
    place, label = str(source.path), source.label_column
    files = _files(place, label)[TRAIN]

    def attempt() -> bytes:
        for file in files:
            for batch in batches(place, file, label=label, most=source.max_bytes):
                content: bytes = batch["image"][0].as_py()
                return content
        return b""

    return buckets.patiently(place, attempt)


def forget(source: Source) -> None:
    """Remove the copies of data that are refused from this node."""
    place = str(source.path)
    for files in _files(place, source.label_column).values():
        arrow.forget(place, files, _copies(source))


def _copies(source: Source) -> str:
    return f"{source.label_column}.arrow" if source.label_column else "arrow"


def _kind(what: str, label: str | None) -> str:
    """What is kept on a node of a file, which hangs on the label column."""
    return what if label is None else f"{hashlib.sha256(label.encode()).hexdigest()[:12]}.{what}"


def _files(place: str, label: str | None) -> dict[str, list[File]]:
    """Split -> its files. A test split without labels, as Hugging Face's ImageNet has, is passed over."""
    named = splits(place)
    for name in SPLIT_NAMES[TEST]:
        if name in named and all(_of_each(place, named[name], lambda file: unlabelled(place, file, label))):
            if any(other in named for other in SPLIT_NAMES[TEST] if other != name):
                del named[name]
                continue
            _of_each(
                place, named[name], functools.partial(rows, place, label=label)
            )  # which misses the column, if there is none
            raise DataError(
                f"The {name} split of {buckets.shown(place)} has no labels: they are null, or below 0, "
                f"which stands for unknown ones. Add a split with labels: {' or '.join(SPLIT_NAMES[TEST])}."
            )
    return both(named, place)


def _class_names(place: str, files: dict[str, list[File]], label: str | None) -> dict[str, list[str]]:
    """Split -> the names of its classes 0, 1, ..., as Hugging Face writes them into its files; none where it has not.

    Raises DataError if the files of a split disagree.
    """
    found = {}
    for split, each in files.items():
        told = _of_each(place, each, lambda file: names_in(place, file, label))
        if any(names != told[0] for names in told):
            raise DataError(
                f"The files of the {split} split of {buckets.shown(place)} number their classes in "
                "different orders. Write them again from one data set."
            )
        found[split] = told[0]
    return found


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
