"""Where pictures come from: digits, a folder of Parquet, torchvision's CIFAR-10/100 and STL-10, a folder of images.

`locate` says which data a path holds, from names and sizes alone; `read` opens one split. Nothing here needs torch, so
a plan is made without it.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq

from simsiam import randomness

TRAIN, TEST = "train", "test"

# SHA-256 over the pixels, labels and split of the embedded digits, checked when they are loaded.
_DIGITS_DIGEST = "15bec4e102d14cf1"
_DIGITS_TRAIN, _DIGITS_TEST = 1437, 360

_SPLIT_NAMES = {TRAIN: ("train",), TEST: ("test", "validation", "val")}
_MOST_CLASSES = 1 << 20
_HASHED = 512 << 20  # bytes: folders up to this size are named by what is in the files, larger ones by names and sizes
_IMAGE_COLUMNS, _LABEL_COLUMNS = ("image", "img"), ("label", "labels")
_IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"}
# Layouts that torchvision reads: its folder -> (name, training pictures, test pictures).
_TORCHVISION = {
    "cifar-10-batches-py": ("cifar10", 50_000, 10_000),
    "cifar-100-python": ("cifar100", 50_000, 10_000),
    "stl10_binary": ("stl10", 105_000, 8_000),
}


class DataError(ValueError):
    """The data at a path cannot be used. The message names the file, and the row where there is one."""


@dataclass(frozen=True)
class Source:
    """Which data, how much of it, and where.

    `name` is the identity that a Config holds: layout and digest, never the path.
    """

    layout: str
    digest: str
    train_images: int
    test_images: int
    path: Path | None = None

    @property
    def name(self) -> str:
        return f"{self.layout}@{self.digest}"


@dataclass(frozen=True)
class Pictures:
    """One split. Either `pixels` holds every picture, uint8 (N, H, W, 3), or `encoded` reads picture i when asked.

    `labels` is (N,) int64, -1 where there is none. `where(i)` names picture i for an error message.
    """

    labels: npt.NDArray[np.int64]
    where: Callable[[int], str]
    pixels: npt.NDArray[np.uint8] | None = None
    encoded: Callable[[int], bytes] | None = None

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, ids: npt.NDArray[np.integer]) -> Pictures:
        """The pictures `ids`, renumbered from 0."""
        encoded, where = self.encoded, self.where
        return Pictures(
            labels=self.labels[ids],
            where=lambda i: where(int(ids[i])),
            pixels=None if self.pixels is None else self.pixels[ids],
            encoded=None if encoded is None else lambda i: encoded(int(ids[i])),
        )

    def open(self, i: int) -> Any:
        """Picture i as a PIL image whose pixels are not decoded yet: its size costs only the header."""
        from PIL import Image

        assert self.encoded is not None
        try:
            return Image.open(io.BytesIO(self.encoded(i)))
        except Exception as error:  # foreign bytes: what PIL raises for them is no fixed set
            raise self.corrupt(i, error) from None

    def decode(self, i: int) -> Any:
        """Picture i as a decoded RGB PIL image. Raises DataError naming the file, and the row where there is one."""
        picture = self.open(i)
        if picture.mode.startswith(("I", "F")):
            raise self.corrupt(i, ValueError(f"mode {picture.mode} has more than 8 bits a channel"))
        try:
            return picture.convert("RGB")
        except Exception as error:
            raise self.corrupt(i, error) from None

    def corrupt(self, i: int, error: Exception) -> DataError:
        return DataError(f"Corrupt image in {self.where(i)}: {error}. Replace or remove it.")


def locate(path: Path | None) -> Source:
    """The data in a folder, or the embedded digits for None. Raises DataError for what cannot be used."""
    if path is None:
        return Source("digits", _DIGITS_DIGEST, _DIGITS_TRAIN, _DIGITS_TEST)
    if not path.exists():
        raise DataError(f"The data folder {path} does not exist. Give --data a folder of Parquet files or of images.")
    if not path.is_dir():
        raise DataError(f"--data must be a folder. Got the file {path} instead: name the folder it is in.")
    for folder, (layout, train, test) in _TORCHVISION.items():
        if (path / folder).is_dir():
            return Source(layout, _digest(path / folder, sorted((path / folder).iterdir())), train, test, path)
    for layout in ("parquet", "images"):
        if any(_named_files(path, layout).values()):
            files = _files(path, layout)
            train, test = (_count(layout, files[split]) for split in (TRAIN, TEST))
            return Source(layout, _digest(path, files[TRAIN] + files[TEST]), train, test, path)
    raise DataError(
        f"The data folder {path} holds nothing that can be read. Known layouts: train*.parquet and test*.parquet (here "
        f"or in data/), {', '.join(_TORCHVISION)}, or train/ and val/ with a folder of images for each class."
    )


def read(source: Source, split: str, images: int | None = None) -> Pictures:
    """One split, `train` or `test`, of located data; with `images`, that many of it: a fixed random choice."""
    pictures = _read(source, split)
    if not len(pictures):
        raise DataError(f"The {split} split of {source.path} has no pictures.")
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
        raise DataError(f"The {split} split of {source.path} has labels below 0, which stand for unknown ones.")
    if known.max() >= _MOST_CLASSES:
        raise DataError(f"The labels of {source.path} must be below {_MOST_CLASSES}. Got {known.max()}: count from 0.")


def _read(source: Source, split: str) -> Pictures:
    if source.path is None:
        return _read_digits(split)
    if source.layout == "parquet":
        return _read_parquet(_files(source.path, "parquet")[split])
    if source.layout == "images":
        return _read_folder(source.path, _files(source.path, "images"), split)
    return _read_torchvision(source, split)


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
    """The size on disk of the pictures that `check` would decode."""
    if source.path is None or source.layout not in ("parquet", "images"):
        return 0
    return sum(file.stat().st_size for files in _files(source.path, source.layout).values() for file in files)


def _digest(root: Path, files: Sequence[Path]) -> str:
    """Over the names and sizes of files, and over what is in them unless that is too much to read for a name."""
    digest = hashlib.sha256()
    sizes = [file.stat().st_size for file in files]
    for file, size in zip(files, sizes, strict=True):
        digest.update(f"{file.relative_to(root).as_posix()} {size}\n".encode())
        if sum(sizes) <= _HASHED:
            digest.update(file.read_bytes())
    return digest.hexdigest()[:16]


def _files(path: Path, layout: str) -> dict[str, list[Path]]:
    """Split -> its files. Of `test`, `validation` and `val`, the first that is there is the test split."""
    named = _named_files(path, layout)
    files = {}
    for split, names in _SPLIT_NAMES.items():
        files[split] = next((named[name] for name in names if named.get(name)), [])
        if not files[split]:
            raise DataError(f"The data folder {path} has no {split} split. Name it {' or '.join(names)}.")
    return files


def _named_files(path: Path, layout: str) -> dict[str, list[Path]]:
    """Name of a split as it stands on the disk -> its files.

    Parquet: train.parquet or train-00000-of-00002.parquet, here or in data/. Images: train/<class>/<name>.jpg.
    """
    files: dict[str, list[Path]] = {}
    shards: dict[str, int] = {}
    if layout == "parquet":
        for file in sorted([*path.glob("*.parquet"), *path.glob("data/*.parquet")]):
            if match := re.fullmatch(r"(\w+?)(-\d+-of-(\d+).*)?", file.stem):
                files.setdefault(match[1], []).append(file)
                shards[match[1]] = int(match[3] or 0)
        for name, found in files.items():
            if len({file.parent for file in found}) > 1:
                raise DataError(f"{path} has split {name} twice, beside data/ and in it. Remove one.")
            if shards[name] and shards[name] != len(found):
                raise DataError(f"{path} has {len(found)} of the {shards[name]} Parquet files of split {name}.")
        return {name: found for name, found in files.items() if name in sum(_SPLIT_NAMES.values(), ())}
    for name in sum(_SPLIT_NAMES.values(), ()):
        files[name] = sorted(f for f in path.glob(f"{name}/*/**/*") if f.suffix.lower() in _IMAGE_SUFFIXES)
    return files


def _count(layout: str, files: list[Path]) -> int:
    return sum(_parquet_rows(file) for file in files) if layout == "parquet" else len(files)


def _columns(file: Path) -> tuple[str, str]:
    """The names of the image and the label column."""
    try:
        names = pq.read_schema(file).names
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{file} is no readable Parquet file: {error}") from None
    found = []
    for what, known in (("image", _IMAGE_COLUMNS), ("label", _LABEL_COLUMNS)):
        column = next((name for name in known if name in names), None)
        if column is None:
            raise DataError(
                f"{file} has no {what} column. Known names: {', '.join(known)}. Its columns: {', '.join(names)}."
            )
        found.append(column)
    return found[0], found[1]


def _parquet_rows(file: Path) -> int:
    _columns(file)
    return pq.read_metadata(file).num_rows


def _read_parquet(files: list[Path]) -> Pictures:
    images: list[pa.ChunkedArray] = []
    labels, starts = [], [0]
    for file in files:
        image, label = _columns(file)
        try:
            table = pq.read_table(file, columns=[image, label])
            column = table[image].combine_chunks()
            images.append(column.field("bytes") if pa.types.is_struct(column.type) else column)
            if not pa.types.is_integer(table[label].type):
                raise ValueError(f"the labels must be whole numbers; they are {table[label].type}")
            labels.append(table[label].fill_null(-1).to_numpy().astype(np.int64))
        except (pa.ArrowException, OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(f"{file} cannot be read: {error}") from None
        starts.append(starts[-1] + table.num_rows)

    def place(i: int) -> tuple[int, int]:
        part = int(np.searchsorted(starts, i, side="right")) - 1
        return part, i - starts[part]

    def where(i: int) -> str:
        part, row = place(i)
        return f"{files[part]}, row {row}"

    def encoded(i: int) -> bytes:
        part, row = place(i)
        return images[part][row].as_py() or b""

    return Pictures(labels=np.concatenate(labels), where=where, encoded=encoded)


def _read_folder(root: Path, files: dict[str, list[Path]], split: str) -> Pictures:
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
