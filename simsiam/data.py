"""Where pictures come from: digits, Parquet on a disk or in a bucket, torchvision's CIFAR-10/100 and STL-10, a folder
of images.

`locate` says which data a path holds, from names and sizes alone; `read` opens one split. Nothing here needs torch, so
a plan is made without it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from simsiam import buckets, parquet, randomness
from simsiam.pictures import TEST, TRAIN, DataError, Pictures

__all__ = ["TEST", "TRAIN", "DataError", "Pictures", "Source", "check", "encoded_bytes", "locate", "read"]

T = TypeVar("T")

# SHA-256 over the pixels, labels and split of the embedded digits, checked when they are loaded.
_DIGITS_DIGEST = "15bec4e102d14cf1"
_DIGITS_TRAIN, _DIGITS_TEST = 1437, 360

_SPLIT_NAMES = {TRAIN: ("train",), TEST: ("test", "validation", "val")}
_MOST_CLASSES = 1 << 20
_HASHED = 512 << 20  # bytes: folders up to this size are named by what is in the files, larger ones by names and sizes
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
# Layouts that torchvision reads: its folder -> (name, training pictures, test pictures).
_TORCHVISION = {
    "cifar-10-batches-py": ("cifar10", 50_000, 10_000),
    "cifar-100-python": ("cifar100", 50_000, 10_000),
    "stl10_binary": ("stl10", 105_000, 8_000),
}


@dataclass(frozen=True)
class Source:
    """Which data, how much of it, and where.

    `name` is the identity that a Config holds: layout and digest, never the path.
    """

    layout: str
    digest: str
    train_images: int
    test_images: int
    path: Path | str | None = None  # a str for a bucket's URI

    @property
    def place(self) -> str:
        """As a person may see it."""
        return buckets.shown(str(self.path))

    @property
    def name(self) -> str:
        return f"{self.layout}@{self.digest}"


def locate(path: Path | str | None) -> Source:
    """The data in a folder or at the URI of a bucket, or the embedded digits for None.

    Raises DataError for what cannot be used.
    """
    if path is None:
        return Source("digits", _DIGITS_DIGEST, _DIGITS_TRAIN, _DIGITS_TEST)
    if isinstance(path, str) and buckets.is_bucket(path):
        if found := _parquet(path):
            return found
        raise DataError(
            f"{buckets.shown(path)} holds nothing that can be read. A bucket holds train*.parquet and test*.parquet."
        )
    path = Path(path)
    if not path.exists():
        raise DataError(f"The data folder {path} does not exist. Give --data a folder of Parquet files or of images.")
    if not path.is_dir():
        raise DataError(f"--data must be a folder. Got the file {path} instead: name the folder it is in.")
    for folder, (layout, train, test) in _TORCHVISION.items():
        if (path / folder).is_dir():
            return Source(layout, _digest(_on_disk(path / folder, (path / folder).iterdir())), train, test, path)
    if found := _parquet(path):
        return found
    if any(images := _images(path)):
        files = _both(images, path)
        digest = _digest(_on_disk(path, files[TRAIN]) + _on_disk(path, files[TEST]))
        return Source("images", digest, len(files[TRAIN]), len(files[TEST]), path)
    raise DataError(
        f"The data folder {path} holds nothing that can be read. Known layouts: train*.parquet and test*.parquet (here "
        f"or in data/), {', '.join(_TORCHVISION)}, or train/ and val/ with a folder of images for each class."
    )


def _parquet(path: Path | str) -> Source | None:
    place = str(path)
    named = parquet.splits(place)
    if not any(name in named for names in _SPLIT_NAMES.values() for name in names):
        return None
    files = _parquet_files(place)
    train, test = (parquet.rows(place, files[split]) for split in (TRAIN, TEST))
    every = [*files[TRAIN], *files[TEST]]
    digest = parquet.remembered(place, every, lambda: _digest([_of_parquet(place, file) for file in every]))
    return Source("parquet", digest, train, test, path)


def read(source: Source, split: str, images: int | None = None) -> Pictures:
    """One split, `train` or `test`, of located data; with `images`, that many of it: a fixed random choice."""
    pictures = _read(source, split)
    if not len(pictures):
        raise DataError(f"The {split} split of {source.place} has no pictures.")
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


def _read(source: Source, split: str) -> Pictures:
    if source.path is None:
        return _read_digits(split)
    if source.layout == "parquet":
        return parquet.read(str(source.path), _parquet_files(str(source.path))[split])
    if source.layout == "images":
        return _read_folder(Path(source.path), split)
    return _read_torchvision(source, split)


def fetch(source: Source) -> None:
    """Have Parquet copied to this node, which may take long.

    Raises DataError for what cannot be read, OSError for a bucket that stays out of reach.
    """
    if source.layout == "parquet":
        for files in _parquet_files(str(source.path)).values():
            parquet.fetch(str(source.path), files)


def first(source: Source) -> bytes | None:
    """The first training picture of Parquet, encoded, without a copy of the others; None for other layouts."""
    if source.layout != "parquet":
        return None
    return parquet.first(str(source.path), _parquet_files(str(source.path))[TRAIN])


def check(source: Source) -> None:
    """Decode every picture once. Raises DataError at the first that is broken."""
    from concurrent.futures import ThreadPoolExecutor

    for split in (TRAIN, TEST):
        pictures = read(source, split)
        if pictures.encoded is not None:
            with ThreadPoolExecutor() as pool:  # PIL lets go of the interpreter lock while it decodes
                for _ in pool.map(pictures.decode, range(len(pictures)), chunksize=64):
                    pass


def encoded_bytes(source: Source) -> int:
    """The size of the files with the pictures that `check` would decode."""
    if source.path is None:
        return 0
    if source.layout == "parquet":
        files = _parquet_files(str(source.path))
        return sum(file.size for each in files.values() for file in each)
    if source.layout == "images":
        return sum(file.stat().st_size for files in _images(Path(source.path)).values() for file in files)
    return 0


_Hashed = tuple[str, int, Callable[[], bytes]]  # a file's name, size, and what reads it


def _digest(files: Sequence[_Hashed]) -> str:
    """Over the names and sizes of files, and over what is in them unless that is too much to read for a name."""
    digest = hashlib.sha256()
    small = sum(size for _, size, _ in files) <= _HASHED
    for name, size, content in files:
        digest.update(f"{name} {size}\n".encode())
        if small:
            digest.update(content())
    return digest.hexdigest()[:16]


def _on_disk(root: Path, files: Iterable[Path]) -> list[_Hashed]:
    return [(file.relative_to(root).as_posix(), file.stat().st_size, file.read_bytes) for file in sorted(files)]


def _of_parquet(place: str, file: parquet.File) -> _Hashed:
    return file.name, file.size, lambda: parquet.content(place, file)


def _both(named: Mapping[str, list[T]], path: Path | str) -> dict[str, list[T]]:
    """Split -> its files. Of `test`, `validation` and `val`, the first that is there is the test split."""
    files = {}
    for split, names in _SPLIT_NAMES.items():
        files[split] = next((named[name] for name in names if named.get(name)), [])
        if not files[split]:
            raise DataError(
                f"The data folder {buckets.shown(str(path))} has no {split} split. Name it {' or '.join(names)}."
            )
    return files


def _parquet_files(place: str) -> dict[str, list[parquet.File]]:
    """Split -> its files. A test split without labels, as Hugging Face's ImageNet has, is passed over."""
    named = parquet.splits(place)
    for name in _SPLIT_NAMES[TEST]:
        if name in named and parquet.unlabelled(place, named[name]):
            del named[name]
            if not any(other in named for other in _SPLIT_NAMES[TEST]):
                raise DataError(
                    f"The {name} split of {buckets.shown(place)} has labels below 0 alone, which stand for unknown "
                    f"ones. Add a split with labels: {' or '.join(_SPLIT_NAMES[TEST])}."
                )
    return _both(named, place)


def _images(path: Path) -> dict[str, list[Path]]:
    """Name of a split as it stands on the disk -> its files, train/<class>/<name>.jpg and so on."""
    return {
        name: files
        for names in _SPLIT_NAMES.values()
        for name in names
        if (files := sorted(f for f in path.glob(f"{name}/*/**/*") if f.suffix.lower() in _IMAGE_SUFFIXES))
    }


def _read_folder(root: Path, split: str) -> Pictures:
    files = _both(_images(root), root)

    def name(file: Path) -> str:
        return file.relative_to(root).parts[1]  # train/<class>/...

    numbers = {each: i for i, each in enumerate(sorted({name(file) for part in files.values() for file in part}))}
    mine = files[split]
    labels = np.array([numbers[name(file)] for file in mine], np.int64)
    return Pictures(labels=labels, where=lambda i: str(mine[i]), encoded=lambda i: mine[i].read_bytes())


def _read_digits(split: str) -> Pictures:
    """scikit-learn's 1,797 handwritten digits of 8 x 8, shuffled once and split 1,437 / 360."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    gray = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    order = randomness.permutation(len(gray), "digits split")
    digest = hashlib.sha256(gray.tobytes() + bunch.target.astype(np.int64).tobytes() + order.tobytes()).hexdigest()
    if digest[:16] != _DIGITS_DIGEST:
        raise DataError(
            f"The embedded digits differ from the ones results are named by: digest {digest[:16]}, expected "
            f"{_DIGITS_DIGEST}. Install scikit-learn within the bounds of pyproject.toml."
        )
    ids = order[:_DIGITS_TRAIN] if split == TRAIN else order[_DIGITS_TRAIN:]
    pixels = np.repeat(gray[ids][..., None], 3, axis=3)
    return Pictures(labels=bunch.target[ids].astype(np.int64), where=lambda i: f"digits, row {i}", pixels=pixels)


def _read_torchvision(source: Source, split: str) -> Pictures:
    """torchvision's own readers. STL-10's training split is its labelled and unlabelled pictures together."""
    from torchvision import datasets

    root, train = str(source.path), split == TRAIN
    try:
        if source.layout == "stl10":
            stl = datasets.STL10(root, split="train+unlabeled" if train else "test")
            pixels, labels = stl.data.transpose(0, 2, 3, 1), stl.labels
        else:
            kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[source.layout]
            cifar = kind(root, train=train)
            pixels, labels = cifar.data, cifar.targets
    except (RuntimeError, OSError, ValueError, EOFError) as error:
        raise DataError(f"{source.path} is no complete {source.layout} as torchvision keeps it: {error}") from None
    return Pictures(
        labels=np.asarray(labels, np.int64),
        where=lambda i: f"{source.path}, {source.layout} {split} picture {i}",
        pixels=np.ascontiguousarray(pixels),
    )
