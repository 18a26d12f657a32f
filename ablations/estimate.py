"""How long a training may take, from those that are done."""

from __future__ import annotations

import statistics
from typing import Any

from ablations import catalogue, provenance
from ablations.columns import Result
from ablations.store import Store
from ablations.table import UserError
from simsiam.config import Config

# What the time of an epoch hangs on most; the batch size and the other switches matter little beside it.
_COST = ("method", "data", "train_images", "image_size", "backbone", "stem", "width", "pairs_per_image", "precision")
Speeds = dict[tuple[Any, ...], float]  # kind of net, views and pictures -> seconds an epoch
_TOOK = ("fingerprint", "recipe", "overrides", "device", "outcome", "epochs", "wall_seconds")
PUBLISHED = provenance.ROOT / "results" / "published"


def costs(store: Store) -> list[Result]:
    """What `seconds` looks at, of all that the table files have."""
    lines: dict[str, Result] = {}
    for name in catalogue.there(store):
        lines |= {line["fingerprint"]: line for line in store.table(name, [*_COST, *_TOOK])}
    return [line for line in lines.values() if line["wall_seconds"] is not None]


def published(recipe: str) -> list[Result]:
    """The same of what is published of a recipe, of whichever machine; nothing where that is not at hand."""
    try:
        return costs(Store.at(PUBLISHED / recipe))
    except UserError:
        return []


def seconds(config: Config, speeds: Speeds) -> float | None:
    """Seconds that training this Config may take, by its epochs. None where no trial like it is known."""
    speed = speeds.get(tuple(getattr(config, name) for name in _COST))
    return None if speed is None else speed * max(config.epochs, 1)


def speeds(costs: list[Result], device: str | None) -> Speeds:
    """What an epoch takes on this kind of device, of each kind of net, views and pictures that there are costs of."""
    found: dict[tuple[Any, ...], list[float]] = {}
    for done in costs:
        if done["device"] == device and done["outcome"] != "diverged":
            key = tuple(done[name] for name in _COST)
            found.setdefault(key, []).append(done["wall_seconds"] / max(done["epochs"], 1))
    return {key: statistics.median(each) for key, each in found.items()}
