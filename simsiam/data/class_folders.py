"""A folder of pictures for each class, in train/ and val/; or without a split, which their hashes then make."""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simsiam.data import classes
from simsiam.data.pictures import SUFFIXES, TEST, TRAIN, DataError, Pictures
from simsiam.data.source import SPLIT_NAMES, Asked, Hashed, Source, asked_of, both, digest, on_disk
from simsiam.text import printable


@dataclass
class _Found:
    """What is in a folder of class folders: pictures of classes, and what is left out."""

    pictures: list[Path] = field(default_factory=list)
    without_class: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find(asked: Asked) -> Source | None:
    root, fraction = asked.path, asked.test_fraction
    if not isinstance(root, Path):
        return None
    scanned = _scanned(root, None)
    if any(found.pictures for found in scanned.values()):
        fraction = None
    elif fraction is not None:
        scanned = _scanned(root, fraction)
    elif any(file.suffix.lower() in SUFFIXES for file in root.glob("[!.]*/[!.]*")):
        raise DataError(
            f"{printable(str(root))} has folders with pictures, but no train and test split. Name two of them train "
            "and val, with a folder for each class in them; or, if each is a class, give --test-fraction 0.2."
        )
    else:
        return None
    files = _splits(root, fraction, scanned)
    names = {split: {_class(root, file, fraction) for file in files[split]} for split in files}
    classes.check(names, printable(str(root)))
    used = {"" if fraction is not None else file.relative_to(root).parts[0] for each in files.values() for file in each}
    hashed = {split: on_disk(root, files[split]) for split in files}
    return Source(
        "images",
        digest([*hashed[TRAIN], *_mark(fraction), *hashed[TEST]], ours=True),
        len(files[TRAIN]),
        len(files[TEST]),
        root,
        fraction,
        encoded_bytes=sum(size for each in hashed.values() for _, size, _ in each),
        notes=(*classes.notes(names), *_left_out(root, [found for name, found in scanned.items() if name in used])),
    )


def read(source: Source, split: str) -> Pictures:
    """A class has one number in both splits: its place among all their names in order."""
    root, fraction = Path(str(source.path)), source.test_fraction
    files = _splits(root, fraction, _scanned(root, fraction))
    names = sorted({_class(root, file, fraction) for part in files.values() for file in part})
    numbers = {name: i for i, name in enumerate(names)}
    mine = files[split]
    return Pictures(
        labels=np.array([numbers[_class(root, file, fraction)] for file in mine], np.int64),
        where=lambda i: printable(str(mine[i])),
        encoded=lambda i: _content(mine[i], source.max_bytes),
        classes=names,
    )


def first(source: Source) -> bytes:
    """The first training picture, encoded."""
    root, fraction = Path(str(source.path)), source.test_fraction
    return _content(_splits(root, fraction, _scanned(root, fraction))[TRAIN][0], source.max_bytes)


def _scanned(root: Path, fraction: float | None) -> dict[str, _Found]:
    """Name of a split as it may stand on the disk -> what is in its folder; with a fraction, all under no name."""
    if fraction is not None:
        return {"": _scan(root)}
    return {name: _scan(root / name) for name in itertools.chain.from_iterable(SPLIT_NAMES.values())}


def _splits(root: Path, fraction: float | None, scanned: dict[str, _Found]) -> dict[str, list[Path]]:
    """Split -> its pictures in order.

    With a fraction they are in no split, and about so many of them are for testing: those whose bytes' hash is low. So
    equal pictures are on one side, and it is the same on every machine.
    """
    if fraction is None:
        return both({name: found.pictures for name, found in scanned.items()}, root)
    files: dict[str, list[Path]] = {TRAIN: [], TEST: []}
    for file in scanned[""].pictures:
        low = int.from_bytes(hashlib.sha256(asked_of(file, Path.read_bytes)).digest()[:8]) < fraction * 2**64
        files[TEST if low else TRAIN].append(file)
    for split, each in files.items():
        if not each:
            raise DataError(
                f"--test-fraction {fraction:g} of {printable(str(root))} leaves no picture to {split} with."
            )
    return files


def _mark(fraction: float | None) -> list[Hashed]:
    """The same files with a split of their own and with one that is made are other data."""
    return [] if fraction is None else [(f"test fraction {fraction!r}".encode(), 0, bytes)]


def _content(file: Path, most: int) -> bytes:
    """What is in a file; of one that is too large, enough to tell."""
    with open(file, "rb") as stream:
        return stream.read(most + 1)


def _class(root: Path, file: Path, fraction: float | None) -> str:
    return file.relative_to(root).parts[1 if fraction is None else 0]  # train/<class>/..., or <class>/...


def _scan(folder: Path) -> _Found:
    """What is in a folder of class folders, in order."""
    found = _Found()
    for file in sorted(_files(folder, set())):
        if file.suffix.lower() not in SUFFIXES:
            found.others.append(file)
        elif file.parent == folder:
            found.without_class.append(file)
        else:
            found.pictures.append(file)
    return found


def _files(folder: Path, above: set[str]) -> Iterator[Path]:
    """All files below a folder but hidden ones. Links are followed, and one that leads back up is not.

    Args:
        above: the folders that this one is in, as the system knows them.
    """
    here = os.path.realpath(folder)
    if here in above or not folder.is_dir():
        return
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
    except OSError as error:
        raise DataError(f"{printable(str(folder))} cannot be read: {error.strerror}. Let it be read.") from None
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            yield from _files(folder / entry.name, above | {here})
        else:
            yield folder / entry.name


def _left_out(root: Path, scanned: list[_Found]) -> Iterator[str]:
    """A line for each kind of file that is left out, with an example."""
    for what, kind in (("without a class", "without_class"), ("that are no pictures that we read", "others")):
        if files := [file for found in scanned for file in getattr(found, kind)]:
            example = printable(min(files).relative_to(root).as_posix())
            yield f"left out {len(files)} file{'s' * (len(files) > 1)} {what}, as {example}"
