"""train/ and val/ with a folder of pictures for each class."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from simsiam.data import classes
from simsiam.data.pictures import SUFFIXES, TEST, TRAIN, DataError, Pictures
from simsiam.data.source import SPLIT_NAMES, Source, both, digest, on_disk
from simsiam.text import printable


@dataclass
class _Split:
    """What is in the folder of a split: pictures of classes, and what is left out."""

    pictures: list[Path] = field(default_factory=list)
    without_class: list[Path] = field(default_factory=list)
    others: list[Path] = field(default_factory=list)


def find(path: Path | str | None) -> Source | None:
    if not isinstance(path, Path):
        return None
    scanned = _scan(path)
    if not any(split.pictures for split in scanned.values()):
        return None
    files = both({name: split.pictures for name, split in scanned.items()}, path)
    names = {split: {_class(path, file) for file in files[split]} for split in files}
    classes.check(names, printable(str(path)))
    every = [*files[TRAIN], *files[TEST]]
    return Source(
        "images",
        digest(on_disk(path, files[TRAIN]) + on_disk(path, files[TEST]), ours=True),
        len(files[TRAIN]),
        len(files[TEST]),
        path,
        encoded_bytes=sum(file.stat().st_size for file in every),
        notes=(*classes.notes(names), *_left_out(path, scanned, every)),
    )


def read(source: Source, split: str) -> Pictures:
    """A class has one number in both splits: its place among all their names in order."""
    root = Path(str(source.path))
    files = both({name: part.pictures for name, part in _scan(root).items()}, root)
    names = sorted({_class(root, file) for part in files.values() for file in part})
    numbers = {name: i for i, name in enumerate(names)}
    mine = files[split]
    return Pictures(
        labels=np.array([numbers[_class(root, file)] for file in mine], np.int64),
        where=lambda i: printable(str(mine[i])),
        encoded=lambda i: _content(mine[i]),
    )


def first(source: Source) -> bytes:
    """The first training picture, encoded."""
    root = Path(str(source.path))
    return _content(both({name: part.pictures for name, part in _scan(root).items()}, root)[TRAIN][0])


def _content(file: Path) -> bytes:
    return file.read_bytes()


def _class(root: Path, file: Path) -> str:
    return file.relative_to(root).parts[1]  # train/<class>/...


def _scan(root: Path) -> dict[str, _Split]:
    """Name of a split as it stands on the disk -> what is in its folder, in order."""
    found = {}
    for name in itertools.chain.from_iterable(SPLIT_NAMES.values()):
        found[name] = split = _Split()
        for file in sorted(_files(root / name, set())):
            if file.suffix.lower() not in SUFFIXES:
                split.others.append(file)
            elif file.parent == root / name:
                split.without_class.append(file)
            else:
                split.pictures.append(file)
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


def _left_out(root: Path, scanned: dict[str, _Split], used: list[Path]) -> Iterator[str]:
    """A line for each kind of file that is left out, with an example. Splits that are not used are nobody's loss."""
    names = {file.relative_to(root).parts[0] for file in used}
    for what, kind in (("without a class", "without_class"), ("that are no pictures that we read", "others")):
        files = [file for name in names for file in getattr(scanned[name], kind)]
        if files:
            example = printable(min(files).relative_to(root).as_posix())
            yield f"left out {len(files)} file{'s' * (len(files) > 1)} {what}, as {example}"
