"""What the data are, before any training: for a person to see that they are read as meant."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from ablations.table import UserError
from simsiam import data
from simsiam.config import Config, Runtime
from simsiam.data import TEST, TRAIN, Pictures, Source
from simsiam.text import printable

_CLASSES = 20  # that are listed
_SHOWN, _COLUMNS, _CELL = 12, 3, 128  # pictures of the sheet, beside each other, and pixels of a side


def report(source: Source) -> str:
    """Layout, splits, classes with their counts, sizes, and what is left out. Decodes every picture.

    Raises DataError for data that cannot be used.
    """
    notes = [*source.notes, *data.check(source)]
    splits = {split: data.read(source, split) for split in (TRAIN, TEST)}
    lines = [f"Data: {'within a package' if source.path is None else source.place}: {source.name}"]
    for split, pictures in splits.items():
        unknown = int((pictures.labels < 0).sum())
        without = f", {unknown} without a label" if unknown else ""
        lines.append(f"  {split}: {len(pictures)} pictures, {_sizes(pictures)}{without}")
    lines += _classes(splits)
    return "\n".join([*lines, *(f"  {note}" for note in notes)])


def _sizes(pictures: Pictures) -> str:
    """Width x height in pixels."""
    if pictures.pixels is not None:
        _, height, width, _ = pictures.pixels.shape
        return f"all {width} x {height}"
    sizes = np.array([pictures.size(i, pictures.open(i)) for i in range(len(pictures))])
    (w, h), (wide, high) = sizes.min(0), sizes.max(0)
    return f"all {w} x {h}" if (w, h) == (wide, high) else f"{w} to {wide} wide, {h} to {high} high"


def _classes(splits: dict[str, Pictures]) -> list[str]:
    counts = {split: Counter(each.labels[each.labels >= 0].tolist()) for split, each in splits.items()}
    numbers = sorted(counts[TRAIN] | counts[TEST])
    names = splits[TRAIN].classes
    lines = [f"  {len(numbers)} classes, with their pictures in {TRAIN} + {TEST}:"]
    for number in numbers[:_CLASSES]:
        name = printable(names[number]) if number < len(names) else str(number)
        lines.append(f"    {name}: {counts[TRAIN][number]} + {counts[TEST][number]}")
    return [*lines, *([f"    and {len(numbers) - _CLASSES} more"] if len(numbers) > _CLASSES else [])]


def sheet(source: Source, config: Config, path: Path) -> None:
    """Draw twelve training pictures, each with the two views of it that the first epoch trains on, into a PNG.

    Raises DataError, and UserError for a file that cannot be written, or that by its name is of another kind: it may be
    somebody's data.
    """
    if path.suffix.lower() != ".png":
        raise UserError(f"--check draws into a file that ends in .png, as views.png. Got {path} instead.")
    from PIL import Image

    from simsiam import gallery, loader

    runtime = Runtime(data_path=source.asked)
    train, _ = loader.load(loader.decode(source, config.train_images) or source, config, runtime)
    pictures = data.read(source, TRAIN, config.train_images)
    ids = np.unique(np.linspace(0, len(train) - 1, _SHOWN).astype(np.int64))
    views = gallery.as_seen(train, ids, config)
    rows = -(-len(ids) // _COLUMNS)
    made = Image.new("RGB", (_COLUMNS * 3 * _CELL, rows * _CELL), "white")
    for place, (i, two) in enumerate(zip(ids, views, strict=True)):
        top, left = place // _COLUMNS * _CELL, place % _COLUMNS * 3 * _CELL
        original = _original(pictures, int(i))
        original.thumbnail((_CELL - 4, _CELL - 4))
        made.paste(original, (left, top))
        for v, view in enumerate(two):
            small = Image.fromarray(view).resize((_CELL - 4, _CELL - 4), Image.Resampling.NEAREST)
            made.paste(small, (left + (v + 1) * _CELL, top))
    try:
        made.save(path, "PNG")
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None


def _original(pictures: Pictures, i: int) -> Any:
    from PIL import Image

    found = pictures.decode(i) if pictures.pixels is None else Image.fromarray(pictures.pixels[i])
    factor = max(1, _CELL // max(found.size))
    return found.resize((found.width * factor, found.height * factor), Image.Resampling.NEAREST)
