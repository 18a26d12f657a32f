"""One split of a data set as its readers hand it over, and what the bytes of a picture become."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from simsiam.config import MAX_PIXELS
from simsiam.text import printable

TRAIN, TEST = "train", "test"

# The formats that are read, as Pillow calls them, and how their files end. Not EPS, which starts Ghostscript.
FORMATS = {
    "JPEG": (".jpg", ".jpeg", ".jpe", ".jfif"),
    "PNG": (".png", ".apng"),
    "WEBP": (".webp",),
    "GIF": (".gif",),
    "BMP": (".bmp", ".dib"),
    "TIFF": (".tif", ".tiff"),
    "PPM": (".ppm", ".pgm", ".pbm", ".pnm"),
    "JPEG2000": (".jp2", ".j2k", ".jpf", ".jpx", ".j2c", ".jpc"),
    "AVIF": (".avif", ".avifs"),
}
SUFFIXES = frozenset(suffix for each in FORMATS.values() for suffix in each)

_BYTES = 4  # that a pixel takes at most where nothing is compressed

_ORIENTATION = 0x0112  # the EXIF tag
_TURNED = (5, 6, 7, 8)  # its values that change width and height


class DataError(ValueError):
    """The data at a path cannot be used. The message names the file, and the row where there is one."""


@dataclass(frozen=True)
class Objects:
    """What is to be detected in a picture.

    Args:
        boxes: float32 (k, 4), left, top, right, bottom in pixels.
        labels: int64 (k,).
        difficult: bool (k,), those that a test does not count.
    """

    boxes: npt.NDArray[np.float32]
    labels: npt.NDArray[np.int64]
    difficult: npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Pictures:
    """One split. Either `pixels` holds every picture, uint8 (N, H, W, 3), or `encoded` reads picture i when asked.

    `labels` is (N,) int64, -1 where there is none. `where(i)` names picture i for an error message. `classes` has the
    name of each label, where labels have names; `objects` reads those of picture i, where there are boxes. Pictures of
    more than `max_pixels`, width times height, are refused.
    """

    labels: npt.NDArray[np.int64]
    where: Callable[[int], str]
    pixels: npt.NDArray[np.uint8] | None = None
    encoded: Callable[[int], bytes] | None = None
    classes: Sequence[str] = ()
    objects: Callable[[int], Objects] | None = None
    max_pixels: int = MAX_PIXELS

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, ids: npt.NDArray[np.integer]) -> Pictures:
        """The pictures `ids`, renumbered from 0."""
        encoded, where = self.encoded, self.where
        return dataclasses.replace(
            self,
            labels=self.labels[ids],
            where=lambda i: where(int(ids[i])),
            pixels=None if self.pixels is None else self.pixels[ids],
            encoded=None if encoded is None else lambda i: encoded(int(ids[i])),
        )

    def open(self, i: int) -> Any:
        """Picture i as a PIL image whose pixels are not decoded yet. Raises DataError."""
        assert self.encoded is not None
        try:
            return opened(self.encoded(i), self.max_pixels)
        except Exception as error:  # foreign bytes: what PIL raises for them is no fixed set
            raise self.corrupt(i, error) from None

    def decode(self, i: int) -> Any:
        """Picture i as a decoded RGB PIL image. Raises DataError naming the file, and the row where there is one."""
        return self.convert(i, self.open(i))

    def convert(self, i: int, picture: Any) -> Any:
        """`decode` of picture i that is open already."""
        try:
            return as_seen(picture)
        except Exception as error:
            raise self.corrupt(i, error) from None

    def size(self, i: int, picture: Any) -> tuple[int, int]:
        """Width and height that picture i, open already, has once it is decoded. It costs only the header."""
        try:
            return size(picture)
        except Exception as error:
            raise self.corrupt(i, error) from None

    def corrupt(self, i: int, error: Exception) -> DataError:
        return DataError(f"Corrupt image in {self.where(i)}: {printable(_reason(error))}. Replace or remove it.")


def largest(max_pixels: int) -> int:
    """Bytes that an encoded picture of so many pixels may have."""
    return _BYTES * max_pixels


def opened(content: bytes, max_pixels: int = MAX_PIXELS) -> Any:
    """Encoded bytes as a PIL image whose pixels are not decoded yet.

    Raises ValueError for too many bytes or pixels, and what PIL does.
    """
    from PIL import Image

    if len(content) > largest(max_pixels):
        raise ValueError(f"it has more than {largest(max_pixels):,} bytes; --max-pixels allows more")
    picture = Image.open(io.BytesIO(content), formats=tuple(FORMATS))
    width, height = picture.size
    if width * height > max_pixels:
        raise ValueError(
            f"it has {width} x {height} pixels, and at most {max_pixels:,} are read; --max-pixels allows more"
        )
    return picture


def size(picture: Any) -> tuple[int, int]:
    """Width and height of what `as_seen` gives for a picture that may not be decoded yet."""
    width, height = picture.size
    # Pillow turns TIFF by itself, and says its size accordingly.
    if picture.format != "TIFF" and picture.getexif().get(_ORIENTATION) in _TURNED:
        return height, width
    return width, height


def as_seen(picture: Any) -> Any:
    """A PIL image in RGB as a viewer shows it: turned as its EXIF says, transparency over white.

    Raises ValueError for more than 8 bits, whose black and white are the camera's affair, and what PIL does for broken
    bytes.
    """
    from PIL import Image, ImageOps

    picture.load()
    ImageOps.exif_transpose(picture, in_place=True)
    if picture.mode.startswith(("I", "F")):
        raise ValueError(f"mode {picture.mode} has more than 8 bits a channel: convert it to 8")
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture)
    return picture if picture.mode == "RGB" else picture.convert("RGB")


def _reason(error: Exception) -> str:
    from PIL import UnidentifiedImageError

    if isinstance(error, UnidentifiedImageError):  # its text has an object's address
        return f"it is in no known format ({', '.join(FORMATS)})"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
