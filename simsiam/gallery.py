"""What a drawing of a trial needs, small enough to keep: pictures and their views, nearest neighbours, z in a plane."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import torch
from torch import Tensor

from simsiam import randomness, views
from simsiam.config import Config
from simsiam.loader import Chunk, Ids, Images

_VIEWED = 12  # training pictures that are kept with two views each
_SIDE = 48  # pixels that a kept picture has at most
_QUALITIES = 80, 40, 10  # of WebP: the first with which all pictures are small enough, or the last
_BYTES = 150_000  # of all pictures together

Row = dict[str, Any]


def rows(
    config: Config, train: Images, test: Images, neighbours: list[list[int]], plane: list[list[float]]
) -> list[Row]:
    """One line for each picture and for each point, with `kind`: `view`, `neighbour` or `z`.

    Args:
        neighbours: a test picture's number and those of the training pictures nearest to it, a list a test picture.
        plane: x, y and the label of each point.
    """
    ids = np.sort(randomness.permutation(len(train), "gallery", config.seed)[:_VIEWED])
    shown, two = _originals(train, ids), as_seen(train, ids, config)
    pictures: list[tuple[str, int, int, Images, int, Any]] = []
    for group, i in enumerate(ids.tolist()):
        pictures += [("view", group, 0, train, i, shown[group])]
        pictures += [("view", group, 1 + view, train, i, two[group, view]) for view in range(2)]
    # Of all at once: pictures that are decoded while reading start their loader processes for each call.
    asked = _originals(test, np.array([each[0] for each in neighbours]))
    found_near = iter(_originals(train, np.array([i for each in neighbours for i in each[1:]])))
    for group, (number, *near) in enumerate(neighbours):
        pictures.append(("neighbour", group, 0, test, number, asked[group]))
        pictures += [("neighbour", group, 1 + place, train, i, next(found_near)) for place, i in enumerate(near)]
    images = _encoded([pixels for *_, pixels in pictures])
    found = [
        {"kind": kind, "group": group, "place": place, "picture": i, "label": int(of.labels[i]), "image": image}
        for (kind, group, place, of, i, _), image in zip(pictures, images, strict=True)
    ]
    return [*found, *({"kind": "z", "x": x, "y": y, "label": int(label)} for x, y, label in plane)]


def as_seen(images: Images, ids: Ids, config: Config) -> Any:
    """Two views of each picture, of the first epoch, as a viewer shows them: uint8 (b, 2, S, S, 3)."""
    crops = [views.RandomCrop(config.seed, 0, view, config.crop_min_area) for view in range(2)]
    (fetched,) = images.stream([Chunk([ids], crops)])
    made = []
    for view, pixels in enumerate(images.crops(fetched)):
        drawn = torch.from_numpy(views.draw(config, 0, ids, view)).to(pixels.device)
        x = views.augment(pixels, drawn, config)
        seen = x * views.constant(views.STD, x.device) + views.constant(views.MEAN, x.device)
        made.append((seen.clamp(0, 1) * 255).round().to(torch.uint8))
    return _channels_last(torch.stack(made, 1))


def _originals(images: Images, ids: Ids) -> Any:
    """The central square of each picture, uint8 (b, S, S, 3)."""
    (fetched,) = images.stream([Chunk([ids], [views.CenterCrop(1.0)])])
    return _channels_last(images.crops(fetched)[0])


def _channels_last(pixels: Tensor) -> Any:
    return pixels.movedim(-3, -1).cpu().numpy()


def _encoded(pictures: list[Any]) -> list[bytes]:
    from PIL import Image

    found: list[bytes] = []
    for quality in _QUALITIES:
        found = []
        for pixels in pictures:
            image, buffer = Image.fromarray(pixels), io.BytesIO()
            image.thumbnail((_SIDE, _SIDE))
            image.save(buffer, "WEBP", quality=quality)
            found.append(buffer.getvalue())
        if sum(map(len, found)) <= _BYTES:
            break
    return found
