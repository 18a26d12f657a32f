"""How long a training may take, from those that are done."""

from __future__ import annotations

import statistics

from ablations import catalogue, provenance
from ablations.columns import Result
from ablations.store import Store
from simsiam.config import Config

# What the time of an epoch hangs on most; the batch size and the other switches matter little beside it.
_COST = ("method", "data", "train_images", "image_size", "backbone", "stem", "width", "pairs_per_image", "precision")
_TOOK = ("fingerprint", "device", "outcome", "epochs", "wall_seconds")


def costs(store: Store) -> list[Result]:
    """What `seconds` looks at, of all that the table files have."""
    lines: dict[str, Result] = {}
    for name in catalogue.there(store):
        lines |= {line["fingerprint"]: line for line in store.table(name, [*_COST, *_TOOK])}
    return [line for line in lines.values() if line["wall_seconds"] is not None]


def seconds(config: Config, costs: list[Result]) -> float | None:
    """Seconds that training this Config may take: from the costs of trials of nets, views and pictures like its own on
    this kind of device, by epochs. None where there is none.
    """
    device, alike = provenance.machine(), {name: getattr(config, name) for name in _COST}
    speeds = [
        done["wall_seconds"] / max(done["epochs"], 1)
        for done in costs
        if done["device"] == device and done["outcome"] != "diverged" and alike.items() <= done.items()
    ]
    return statistics.median(speeds) * max(config.epochs, 1) if speeds else None
