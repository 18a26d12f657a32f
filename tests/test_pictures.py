"""What the bytes of a picture become: what any viewer shows. Against numpy, and known pixels."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from pictures import picture
from PIL import Image, features

from simsiam.data import DataError, Pictures, pictures
from simsiam.text import printable

# What a viewer does to the stored pixels for each value of the EXIF orientation (EXIF 2.3, tag 0x0112).
UPRIGHT = {
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a),
}
RED, WHITE = (255, 0, 0), (255, 255, 255)


def one(content: bytes) -> Pictures:
    return Pictures(labels=np.zeros(1, np.int64), where=lambda i: "x.png", encoded=lambda i: content)


def saved(image: Any, kind: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.mark.parametrize("orientation", UPRIGHT)
@pytest.mark.parametrize(
    ("kind", "options"), [("PNG", {}), ("TIFF", {}), ("WEBP", {"lossless": True}), ("JPEG", {"quality": 100})]
)
def test_a_turned_picture_is_upright_and_its_header_says_its_size(
    kind: str, options: dict[str, Any], orientation: int
) -> None:
    stored = np.repeat(np.repeat(picture(3, 3, 2), 16, 0), 16, 1)  # blocks, which JPEG keeps
    exif = Image.Exif()
    exif[0x0112] = orientation
    split = one(saved(Image.fromarray(stored), kind, exif=exif, **options))
    expected = UPRIGHT[orientation](stored)
    width, height = split.size(0, split.open(0))
    seen = np.asarray(split.decode(0))
    assert (height, width, 3) == expected.shape == seen.shape
    assert np.abs(seen.astype(int) - expected).mean() < (6 if kind == "JPEG" else 1e-9)


def test_what_is_transparent_is_white() -> None:
    pixels = np.array([[[255, 0, 0, 0], [255, 0, 0, 255], [255, 0, 0, 51]]], np.uint8)
    for kind in ("PNG", "WEBP", "TIFF"):
        options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
        seen = np.asarray(one(saved(Image.fromarray(pixels), kind, **options)).decode(0))
        mixed = 255 - 51  # a fifth red, and white
        assert np.abs(seen[0].astype(int) - [WHITE, RED, (255, mixed, mixed)]).max() <= 1


@pytest.mark.parametrize("mode", ["P", "RGB", "L", "LA", "PA"])
def test_every_way_to_be_transparent_is_one(mode: str) -> None:
    rgba = Image.fromarray(np.array([[[255, 0, 0, 255], [90, 90, 90, 0]]], np.uint8))
    if mode in ("LA", "PA"):
        image, options = rgba.convert(mode), {}
        kind = "PNG" if mode == "LA" else "TIFF"
        if mode == "PA":
            image, kind = rgba.convert("LA"), "TIFF"
    else:
        image, kind = rgba.convert("RGB").convert(mode), "PNG"
        options = {"transparency": image.getpixel((1, 0))}
    seen = np.asarray(one(saved(image, kind, **options)).decode(0))
    assert tuple(seen[0, 1]) == WHITE
    assert tuple(seen[0, 0]) != WHITE


@pytest.mark.parametrize("kind", ["PNG", "TIFF"])
def test_more_than_8_bits_are_refused_with_the_remedy(kind: str) -> None:
    deep = one(saved(Image.fromarray(np.full((4, 4), 40_000, np.uint16)), kind))
    with pytest.raises(DataError, match=r"Corrupt image in x\.png: mode I;16 has more than 8 bits.*convert it to 8"):
        deep.decode(0)


@pytest.mark.parametrize("kind", pictures.FORMATS)
def test_every_format_is_read(kind: str) -> None:
    if kind == "AVIF" and not features.check("avif"):
        pytest.skip("this Pillow has no AVIF")
    flat = Image.new("RGB", (16, 16), (200, 40, 90))
    seen = np.asarray(one(saved(flat, kind)).decode(0))
    assert np.abs(seen.astype(int) - (200, 40, 90)).max() < 8


def test_of_several_frames_the_first_is_taken() -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ((250, 0, 0), (0, 250, 0))]
    for kind in ("GIF", "TIFF"):
        content = saved(frames[0], kind, save_all=True, append_images=frames[1:])
        assert np.asarray(one(content).decode(0))[0, 0].argmax() == 0


@pytest.mark.parametrize("content", [b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n", b"<html>", b""])
def test_what_is_no_picture_of_ours_is_refused_without_an_address(content: bytes) -> None:
    with pytest.raises(DataError, match=r"Corrupt image in x\.png: it is in no known format \(JPEG, PNG") as caught:
        one(content).decode(0)
    assert "object at" not in str(caught.value)


def test_text_for_a_terminal_has_nothing_that_it_would_act_on() -> None:
    assert printable("\x1b[31mred\x07\n\udcf1 ñ 🐈") == "\\x1b[31mred\\x07\\n\\udcf1 ñ 🐈"
