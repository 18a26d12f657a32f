"""One split of a data set as its readers hand it over."""

from __future__ import annotations

import io
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

TRAIN, TEST = "train", "test"


class DataError(ValueError):
    """The data at a path cannot be used. The message names the file, and the row where there is one."""


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
        return self.convert(i, self.open(i))

    def convert(self, i: int, picture: Any) -> Any:
        """`decode` of picture i that is open already."""
        if picture.mode.startswith(("I", "F")):
            raise self.corrupt(i, ValueError(f"mode {picture.mode} has more than 8 bits a channel"))
        try:
            return picture.convert("RGB")
        except Exception as error:
            raise self.corrupt(i, error) from None

    def corrupt(self, i: int, error: Exception) -> DataError:
        return DataError(f"Corrupt image in {self.where(i)}: {error}. Replace or remove it.")
