"""Public data by name, or of Hugging Face's Hub as hf://datasets/OWNER/NAME: fetched once a node, into the cache.

What is fetched is an ordinary folder, which a layout then reads: the data's identity is the digest of what is read.
"""

from __future__ import annotations

import contextlib
import fcntl
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from simsiam.data import hub
from simsiam.data.arrow import cache
from simsiam.data.download import download
from simsiam.data.pictures import DataError


@dataclass(frozen=True)
class _Public:
    """How a data set is fetched into a folder, or where on the Hub it is; and how much of it is for testing."""

    fetch: Callable[[Path], None] | None = None
    hub: str = ""
    test_fraction: float | None = None


def _torchvision(kind: str, **options: str) -> _Public:
    def fetch(folder: Path) -> None:
        from torchvision import datasets

        made: Any = getattr(datasets, kind)
        url, md5 = made._ARCHIVES[options["size"]] if kind == "Imagenette" else (made.url, made.tgz_md5)
        download(url, folder / Path(url).name, checksum=md5)  # which torchvision does not go on with
        made(str(folder), download=True, **options)

    return _Public(fetch)


_FLOWERS = "https://storage.googleapis.com/download.tensorflow.org/example_images/flower_photos.tgz"
_FLOWERS_SHA256 = "4c54ace7911aaffe13a365c34f650e71dd5bf1be0a58b464e5a7183e3e595d9c"


def _flowers(folder: Path) -> None:
    """TF Flowers, 3,670 pictures of 5 classes."""
    from torchvision.datasets.utils import extract_archive

    archive = folder / "flower_photos.tgz"
    download(_FLOWERS, archive, checksum=_FLOWERS_SHA256)
    extract_archive(str(archive))


NAMES = {
    "cifar10": _torchvision("CIFAR10"),
    "cifar100": _torchvision("CIFAR100"),
    "stl10": _torchvision("STL10", split="test"),
    "imagenette": _torchvision("Imagenette", size="160px"),
    "flowers": _Public(_flowers, test_fraction=0.15),
    "tiny-imagenet": _Public(hub=f"{hub.PREFIX}zh-plus/tiny-imagenet"),
    "imagenet": _Public(hub=f"{hub.PREFIX}ILSVRC/imagenet-1k"),
}


def is_public(place: str) -> bool:
    """Whether a place is a name of public data, or on the Hub."""
    return place in NAMES or place.startswith(hub.PREFIX)


def pinned(place: str) -> str:
    """A place that gives the same data on every node: on the Hub, with its revision. Raises DataError."""
    named = NAMES.get(place)
    if named and named.fetch:
        return place
    return hub.pinned(named.hub if named else place)


def fetched(place: str) -> tuple[Path, float | None]:
    """The folder of a place on this node, and the fraction for testing if it has no split. Raises DataError."""
    named = NAMES.get(place)
    if named is None or named.fetch is None:
        return hub.fetched(pinned(place), cache() / "hub"), None
    folder = cache() / "public" / place
    with _locked(folder):
        if not folder.exists():
            _fetch(place, named.fetch, folder)
    inner = [each for each in folder.iterdir() if each.is_dir()]
    # An archive of class folders, or of train and val, is one folder of them.
    return (inner[0] if place in ("flowers", "imagenette") else folder), named.test_fraction


def _fetch(name: str, fetch: Callable[[Path], None], folder: Path) -> None:
    """Fetch into a folder beside this one, which then gets its name: what is there is complete."""
    partial = folder.with_suffix(".partial")
    partial.mkdir(exist_ok=True)
    for each in [each for each in partial.iterdir() if each.is_dir()]:
        shutil.rmtree(each)  # half unpacked; its archive is gone on with if it is whole
    try:
        fetch(partial)
    except (OSError, RuntimeError, EOFError) as error:
        raise DataError(
            f"{name} cannot be fetched: {error}. Give the command again with a network, or fetch it yourself and give "
            "its folder with --data."
        ) from None
    for archive in [each for each in partial.iterdir() if each.is_file()]:
        archive.unlink()
    partial.rename(folder)


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """One process of this node at a time."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
