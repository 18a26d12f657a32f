"""Where pictures come from: one small file a layout, each of which finds its data at a path and reads a split.

`locate` says which data a path holds, from names and sizes alone; `read` opens one split. Nothing here needs torch, so
a plan is made without it. A new layout is one file, and one line below.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from simsiam import buckets, randomness
from simsiam.config import MAX_PIXELS, Runtime
from simsiam.data import class_folders, classes, decoding, digits, parquet, public, torchvision_folders, voc
from simsiam.data.parquet import check_answers
from simsiam.data.pictures import TEST, TRAIN, DataError, Pictures, opened, size
from simsiam.data.public import is_public
from simsiam.data.source import Asked, Source
from simsiam.text import printable

__all__ = [
    "TEST",
    "TRAIN",
    "DataError",
    "Pictures",
    "Source",
    "check",
    "check_answers",
    "check_classes",
    "fetch",
    "first",
    "is_public",
    "locate",
    "of",
    "opened",
    "read",
    "size",
    "unchanged",
]

# Layout -> the file that finds and reads it, in the order in which they are asked: what the first finds is taken.
LAYOUTS: dict[str, Any] = {
    "digits": digits,
    **dict.fromkeys((layout for layout, *_ in torchvision_folders.FOLDERS.values()), torchvision_folders),
    "parquet": parquet,
    "voc": voc,
    "images": class_folders,
}

_MOST_CLASSES = 1 << 20
_NAMED = 3  # broken pictures that a message names


def locate(
    path: Path | str | None,
    test_fraction: float | None = None,
    label_column: str | None = None,
    max_pixels: int = MAX_PIXELS,
) -> Source:
    """The data in a folder, at the URI of a bucket, or of a public name; or the embedded digits for None.

    Args:
        test_fraction: of the pictures that are for testing, for a folder of class folders without a split.
        label_column: of Parquet that has several.
        max_pixels: of the largest picture that is read.

    Raises DataError for what cannot be used.
    """
    asked = None if path is None else str(path)
    if isinstance(path, str) and public.is_public(path):
        asked = public.pinned(path)
        path, fraction = public.fetched(asked)
        test_fraction = test_fraction or fraction
    elif isinstance(path, str) and not buckets.is_bucket(path):
        path = Path(path)
    if isinstance(path, Path):
        shown = printable(str(path))
        if not path.exists():
            raise DataError(
                f"The data folder {shown} does not exist. Give --data a folder of Parquet files or of images."
            )
        if not path.is_dir():
            raise DataError(f"--data must be a folder. Got the file {shown} instead: name the folder it is in.")
    for layout in dict.fromkeys(LAYOUTS.values()):
        if source := layout.find(Asked(path, test_fraction, label_column)):
            if source.test_fraction != test_fraction:
                raise DataError("--test-fraction is for pictures without a split, and these have one. Leave it out.")
            if source.label_column != label_column:
                raise DataError("--label-column is of Parquet, and these data are none. Leave it out.")
            return dataclasses.replace(source, asked=asked, max_pixels=max_pixels)
    if isinstance(path, str):
        raise DataError(
            f"{buckets.shown(path)} holds nothing that can be read. A bucket holds train*.parquet and test*.parquet."
        )
    raise DataError(
        f"The data folder {shown} holds nothing that can be read. Known layouts: train*.parquet and test*.parquet "
        f"(here, in data/ or in one other folder), {', '.join(torchvision_folders.FOLDERS)}, train/ and val/ with a "
        "folder of images for each class, or Pascal VOC's JPEGImages, Annotations and ImageSets."
    )


def of(runtime: Runtime) -> Source:
    """The data of a run, as this node finds them. Raises DataError."""
    return locate(runtime.data_path, runtime.test_fraction, runtime.label_column, runtime.max_pixels)


def read(source: Source, split: str, images: int | None = None) -> Pictures:
    """One split, `train` or `test`, of located data; with `images`, that many of it: a fixed random choice."""
    pictures: Pictures = LAYOUTS[source.layout].read(source, split)
    pictures = dataclasses.replace(pictures, max_pixels=source.max_pixels)
    if not len(pictures):
        raise DataError(f"The {split} split of {source.place} has no pictures.")
    if pictures.objects is None:
        _check_labels(pictures, split, source)
    if images is None:
        return pictures
    if images >= len(pictures):
        raise DataError(
            f"train_images must be below the {len(pictures)} pictures there are (none = all). Got {images} instead."
        )
    return pictures.subset(np.sort(randomness.permutation(len(pictures), "subset")[:images]))


def _check_labels(pictures: Pictures, split: str, source: Source) -> None:
    """Of the test split every label must be known; of the training split some must be. Classes count from 0."""
    known = pictures.labels[pictures.labels >= 0]
    if len(known) < len(pictures) and (split == TEST or not len(known)):
        raise DataError(f"The {split} split of {source.place} has labels below 0, which stand for unknown ones.")
    if known.max() >= _MOST_CLASSES:
        raise DataError(f"The labels of {source.place} must be below {_MOST_CLASSES}. Got {known.max()}: count from 0.")


def fetch(source: Source) -> None:
    """Have pictures of a bucket, or in Parquet, copied to this node, which may take long.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    if source.encoded_bytes:
        for split in (TRAIN, TEST):
            read(source, split)


def first(source: Source) -> bytes | None:
    """The first training picture, encoded, without a copy of the others; None where none is encoded."""
    return LAYOUTS[source.layout].first(source) if source.encoded_bytes else None


def check_classes(
    place: str, train: np.ndarray[Any, Any], test: np.ndarray[Any, Any], names: Sequence[str] = ()
) -> list[str]:
    """What to say of the classes, by the labels of both splits. Raises DataError if they are too few, or differ."""
    called = dict(enumerate(names))
    labels = {
        split: [called.get(label, str(label)) if names else label for label in np.unique(each[each >= 0]).tolist()]
        for split, each in ((TRAIN, train), (TEST, test))
    }
    classes.check(labels, place)
    return list(classes.notes(labels))


def check(source: Source) -> list[str]:
    """Decode every picture once -> what to say of them besides the source's notes.

    Raises DataError for classes that cannot be judged, and if pictures are broken: how many, and the first of them.
    """
    splits = {split: read(source, split) for split in (TRAIN, TEST)}
    notes: list[str] = []
    if splits[TRAIN].objects is None:
        notes = check_classes(source.place, splits[TRAIN].labels, splits[TEST].labels, splits[TRAIN].classes)
    found = [fault for pictures in splits.values() if pictures.encoded for fault in decoding.faults(pictures)]
    broken = [fault for fault in found if isinstance(fault, DataError)]
    moving = [fault for fault in found if isinstance(fault, str)]
    if broken and source.layout == "parquet":
        parquet.forget(source)
    if len(broken) == 1:
        raise broken[0]
    if broken:
        shown = " ".join(str(each).removesuffix(" Replace or remove it.") for each in broken[:_NAMED])
        more = f" And {len(broken) - _NAMED} more." if len(broken) > _NAMED else ""
        raise DataError(f"{source.place} has {len(broken)} broken pictures. {shown}{more} Replace or remove them.")
    if moving:
        notes.append(f"of {len(moving)} pictures with several frames the first is taken, as of {moving[0]}")
    return [note for note in notes if note not in source.notes]


def unchanged(source: Source) -> None:
    """Raises DataError if the files are no longer those that were located, by names and sizes or what is in them."""
    if source.path is None:
        return
    now = locate(source.path, source.test_fraction, source.label_column)
    if now.name != source.name:
        raise DataError(
            f"The data in {source.place} have changed since the trial was planned: {source.name}, "
            f"{source.train_images} + {source.test_images} pictures, are now {now.name}, {now.train_images} + "
            f"{now.test_images}. Give the same command again: it plans with what is there."
        )
