"""Folders of small pictures that a test writes, and knows by their numbers."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from PIL import Image

from simsiam.data import Pictures


def picture(seed: int, height: int = 9, width: int = 7) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encoded(seed: int, height: int = 9, width: int = 7) -> bytes:
    """A PNG, which keeps every pixel."""
    buffer = io.BytesIO()
    Image.fromarray(picture(seed, height, width)).save(buffer, "PNG")
    return buffer.getvalue()


def write_parquet(
    file: Path,
    seeds: Sequence[int],
    *,
    image: str = "image",
    label: str = "label",
    struct: bool = True,
    known: bool = True,
) -> None:
    """Picture `seed` with label seed mod 3 in each row, or -1."""
    images: list[Any] = [encoded(seed) for seed in seeds]
    if struct:
        images = [{"bytes": content, "path": f"{i}.png"} for i, content in enumerate(images)]
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({image: images, "other": list(seeds), label: [seed % 3 if known else -1 for seed in seeds]}), file
    )


def write_both_splits(
    folder: Path, images: Sequence[bytes | None], *, image: str = "image", label: str = "label"
) -> Path:
    """These pictures, whatever they are, as the training and as the test split, with labels 0 and 1 in turn."""
    folder.mkdir(parents=True, exist_ok=True)
    column, labels = [{"bytes": content, "path": None} for content in images], [i % 2 for i in range(len(images))]
    for split in ("train", "test"):
        pq.write_table(pa.table({image: column, label: labels}), folder / f"{split}.parquet")
    return folder


def write_images(root: Path, files: dict[str, int]) -> None:
    for name, seed in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(encoded(seed))


def assert_holds(pictures: Pictures, seeds: Sequence[int]) -> None:
    assert len(pictures) == len(seeds)
    assert pictures.labels.dtype == np.int64
    assert pictures.labels.tolist() == [seed % 3 for seed in seeds]
    for i, seed in enumerate(seeds):
        assert np.array_equal(np.asarray(pictures.decode(i)), picture(seed))
