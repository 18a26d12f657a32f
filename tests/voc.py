"""A folder in Pascal VOC's layout, of squares to be found on noise."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

COLOURS = {"red": (255, 0, 0), "blue": (0, 0, 255)}
SIZE = 64, 48  # width, height


def write(folder: Path, splits: dict[str, Sequence[int]]) -> Path:
    """Pictures by their numbers in each list, as trainval and test: one or two squares, the second one difficult."""
    for name in ("JPEGImages", "Annotations", "ImageSets/Main"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for split, numbers in splits.items():
        (folder / "ImageSets" / "Main" / f"{split}.txt").write_text("".join(f"{number:06}\n" for number in numbers))
        for number in numbers:
            _picture(folder, number)
    return folder


def _picture(folder: Path, number: int) -> None:
    rng = np.random.default_rng(number)
    pixels = rng.integers(100, 156, (SIZE[1], SIZE[0], 3), dtype=np.uint8)
    text = f"<annotation><size><width>{SIZE[0]}</width><height>{SIZE[1]}</height></size>"
    for i in range(1 + number % 2):
        side = int(rng.integers(14, 22))
        left, top = int(rng.integers(32 * i, 32 * i + 32 - side)), int(rng.integers(0, SIZE[1] - side))
        name = list(COLOURS)[int(rng.integers(2))]
        pixels[top : top + side, left : left + side] = COLOURS[name]
        box = dict(xmin=left + 1, ymin=top + 1, xmax=left + side, ymax=top + side)
        sides = "".join(f"<{key}>{value}</{key}>" for key, value in box.items())
        text += f"<object><name>{name}</name><difficult>{i}</difficult><bndbox>{sides}</bndbox></object>"
    Image.fromarray(pixels).save(folder / "JPEGImages" / f"{number:06}.jpg", quality=95)
    (folder / "Annotations" / f"{number:06}.xml").write_text(f"{text}</annotation>")
