"""The folders in which torchvision keeps CIFAR-10, CIFAR-100 and STL-10, read by torchvision."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from simsiam.data.pictures import TRAIN, DataError, Pictures
from simsiam.data.source import Asked, Source, digest, on_disk

# Its folder -> (name, training pictures, test pictures).
FOLDERS = {
    "cifar-10-batches-py": ("cifar10", 50_000, 10_000),
    "cifar-100-python": ("cifar100", 50_000, 10_000),
    "stl10_binary": ("stl10", 105_000, 8_000),
}


def find(asked: Asked) -> Source | None:
    path = asked.path
    if not isinstance(path, Path):
        return None
    for folder, (layout, train, test) in FOLDERS.items():
        if (path / folder).is_dir():
            files = on_disk(path / folder, (path / folder).iterdir())
            return Source(layout, digest(files, ours=False), train, test, path)
    return None


def read(source: Source, split: str) -> Pictures:
    """STL-10's training split is its labelled and unlabelled pictures together."""
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
        raise DataError(f"{source.place} is no complete {source.layout} as torchvision keeps it: {error}") from None
    return Pictures(
        labels=np.asarray(labels, np.int64),
        where=lambda i: f"{source.place}, {source.layout} {split} picture {i}",
        pixels=np.ascontiguousarray(pixels),
    )
