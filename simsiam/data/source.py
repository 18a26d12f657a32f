"""Which data, how much of it, and where; and how it is named."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

from simsiam import buckets
from simsiam.config import MAX_PIXELS
from simsiam.data.pictures import TEST, TRAIN, DataError, largest
from simsiam.text import printable

T = TypeVar("T")

# How a split may be called on the disk. Of several test splits, the first that is there is taken.
SPLIT_NAMES = {TRAIN: ("train",), TEST: ("test", "validation", "val", "valid", "dev", "eval")}

# Part of the digest where a reader of ours decides what the pixels and labels become: files that are now read otherwise
# are other data. 2: upright by their EXIF orientation, over white, classes matched by name.
READING = "reading-2"
_HASHED = 512 << 20  # bytes: folders up to this size are named by what is in the files, larger ones by names and sizes


@dataclass(frozen=True)
class Asked:
    """What `--data` names, with how it is to be split."""

    path: Path | str | None
    test_fraction: float | None = None
    label_column: str | None = None


@dataclass(frozen=True)
class Source:
    """Which data, how much of it, and where.

    `name` is the identity that a Config holds: layout and digest, never the path.

    Args:
        path: where they are read: a folder of this node, a bucket's URI as a str, None for data within a package.
        asked: what every node is told: the same, or the name of public data.
        test_fraction: of the pictures that are for testing, where the data have no split; else None.
        label_column: of Parquet, where it was named; else None.
        encoded_bytes: of the files with pictures that are decoded by us; 0 for others.
        max_pixels: of the largest picture that is read.
        notes: what a person should know of how they are read, a line each.
    """

    layout: str
    digest: str
    train_images: int
    test_images: int
    path: Path | str | None = None
    test_fraction: float | None = None
    label_column: str | None = None
    asked: str | None = None
    encoded_bytes: int = 0
    max_pixels: int = MAX_PIXELS
    notes: tuple[str, ...] = field(default=(), compare=False)

    @property
    def place(self) -> str:
        """As a person may see it."""
        return buckets.shown(str(self.asked or self.path))

    @property
    def is_public(self) -> bool:
        """Whether its pictures are anybody's: the digits, or fetched by their public name. On the Hub some are not."""
        named = self.asked is not None and self.asked != str(self.path)
        return self.path is None or (named and not str(self.asked).startswith("hf://"))

    @property
    def max_bytes(self) -> int:
        """Of one encoded picture."""
        return largest(self.max_pixels)

    @property
    def name(self) -> str:
        return f"{self.layout}@{self.digest}"


Hashed = tuple[bytes, int, Callable[[], bytes]]  # a file's name, size, and what reads it


def digest(files: Sequence[Hashed], *, ours: bool) -> str:
    """Over the names and sizes of files, and over what is in them unless that is too much to read for a name.

    Args:
        ours: whether a reader of ours makes pixels and labels of them, and not torchvision's.
    """
    made = hashlib.sha256(READING.encode() if ours else b"")
    small = sum(size for _, size, _ in files) <= _HASHED
    for name, size, content in files:
        made.update(name + f" {size}\n".encode())
        if small:
            made.update(content())
    return made.hexdigest()[:16]


def on_disk(root: Path, files: Iterable[Path]) -> list[Hashed]:
    """Files for `digest`. A name need not be UTF-8. Raises DataError for what is not there behind a link."""
    return [
        (
            os.fsencode(file.relative_to(root).as_posix()),
            asked_of(file, Path.stat).st_size,
            functools.partial(asked_of, file, Path.read_bytes),
        )
        for file in sorted(files)
    ]


def asked_of(file: Path, what: Callable[[Path], T]) -> T:
    """What a call gives for a file. Raises DataError where the file cannot be read."""
    try:
        return what(file)
    except OSError as error:
        raise DataError(f"{printable(str(file))} cannot be read: {error.strerror}. Replace or remove it.") from None


def both(named: Mapping[str, list[T]], path: Path | str) -> dict[str, list[T]]:
    """Split -> its files, of those that stand under each name. Raises DataError for a split that is not there."""
    files = {}
    for split, names in SPLIT_NAMES.items():
        files[split] = next((named[name] for name in names if named.get(name)), [])
        if not files[split]:
            raise DataError(
                f"The data folder {buckets.shown(str(path))} has no {split} split. Name it {' or '.join(names)}."
            )
    return files
