"""scikit-learn's 1,797 handwritten digits of 8 x 8, shuffled once and split 1,437 / 360."""

from __future__ import annotations

import hashlib

import numpy as np

from simsiam import randomness
from simsiam.data.pictures import TRAIN, DataError, Pictures
from simsiam.data.source import Asked, Source

# SHA-256 over the pixels, labels and split, checked when they are loaded.
_DIGEST = "15bec4e102d14cf1"
_TRAIN, _TEST = 1437, 360


def find(asked: Asked) -> Source | None:
    """They are there where no path is given."""
    return Source("digits", _DIGEST, _TRAIN, _TEST) if asked.path is None else None


def read(source: Source, split: str) -> Pictures:
    from sklearn.datasets import load_digits

    bunch = load_digits()
    gray = np.rint(bunch.images * (255 / 16)).astype(np.uint8)
    order = randomness.permutation(len(gray), "digits split")
    digest = hashlib.sha256(gray.tobytes() + bunch.target.astype(np.int64).tobytes() + order.tobytes()).hexdigest()
    if digest[:16] != source.digest:
        raise DataError(
            f"The embedded digits differ from the ones results are named by: digest {digest[:16]}, expected "
            f"{source.digest}. Install scikit-learn within the bounds of pyproject.toml."
        )
    ids = order[:_TRAIN] if split == TRAIN else order[_TRAIN:]
    pixels = np.repeat(gray[ids][..., None], 3, axis=3)
    return Pictures(labels=bunch.target[ids].astype(np.int64), where=lambda i: f"digits, row {i}", pixels=pixels)
