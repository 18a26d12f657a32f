"""How long trainings may take: by those that are done, by measured speeds, by a step of each kind."""

from __future__ import annotations

import csv
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ablations import catalogue, provenance
from ablations.columns import Result
from ablations.store import Store
from ablations.table import Trial, UserError
from simsiam import config as configs
from simsiam.config import Config
from simsiam.protocols import PROTOCOLS
from simsiam.recipes import RECIPES

# What the time of an epoch hangs on most; the batch size and the other switches matter little beside it.
_COST = ("method", "data", "train_images", "image_size", "backbone", "stem", "width", "pairs_per_image", "precision")
_TOOK = ("fingerprint", "recipe", "overrides", "device", "outcome", "epochs", "wall_seconds", "device_seconds")
# Columns of benchmarks/results/speeds.csv that are fields. Pictures are none: of one size, they take one time.
_MEASURED = ("method", "pairs_per_image", "image_size", "backbone", "stem", "width", "precision")

Kind = tuple[Any, ...]  # of net, views and pictures
Speeds = dict[Kind, float]  # seconds of one CPU or GPU an epoch
PUBLISHED = provenance.ROOT / "results" / "published"
SPEEDS = provenance.ROOT / "benchmarks" / "results" / "speeds.csv"


@dataclass(frozen=True)
class Times:
    """How long trainings may take.

    Args:
        seconds: of one CPU or GPU, of those that are known.
        unknown: how many are not.
        by: whose speed it is, for a person.
    """

    seconds: float
    unknown: int
    by: str = ""


def costs(store: Store) -> list[Result]:
    """What `speeds` looks at, of all that the table files have."""
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


def kind(config: Config) -> Kind:
    """What the time of an epoch hangs on."""
    return tuple(getattr(config, name) for name in _COST)


def seconds(config: Config, speeds: Speeds) -> float | None:
    """Seconds that training this Config may take, by its epochs. None where no trial like it is known."""
    speed = speeds.get(kind(config))
    return None if speed is None else speed * max(config.epochs, 1)


def speeds(costs: Iterable[Result], device: str | None) -> Speeds:
    """What an epoch takes on this kind of device, of each kind of net, views and pictures that there are costs of."""
    found: dict[Kind, list[float]] = {}
    for done in costs:
        if done["device"] == device and done["outcome"] != "diverged" and done["device_seconds"] is not None:
            key = tuple(done[name] for name in _COST)
            found.setdefault(key, []).append(done["device_seconds"] / max(done["epochs"], 1))
    return {key: statistics.median(each) for key, each in found.items()}


def times(todo: Iterable[Trial], speeds: Speeds, by: str = "") -> Times:
    """Of trainings, by what an epoch of each kind takes."""
    found = [seconds(trial.config, speeds) for trial in todo]
    known = [each for each in found if each is not None]
    return Times(sum(known), len(found) - len(known), by)


def here(todo: Sequence[Trial], store: Store) -> Times:
    """By what this machine has done; where that does not know all of them, by what is published of their recipe."""
    mine = times(todo, speeds(costs(store), provenance.machine()))
    if not mine.unknown:
        return mine
    others = published(todo[0].recipe)
    device = next((line["device"] for line in others), "")
    by = f" on the {device} of results/published, which may not be this machine"
    theirs = times(todo, speeds(others, device), by)
    return mine if theirs.unknown else theirs


def on(device: str, todo: Iterable[Trial], store: Store, pictures: tuple[int, int]) -> Times:
    """By what trials took on this kind of device, here or published, else by what benchmarks measured on it.

    Raises UserError for a device of which there is neither.

    Args:
        pictures: how many there are for training and for testing.
    """
    lines = costs(store) + [line for recipe in RECIPES for line in published(recipe)]
    measured = _measured()
    if device not in (known := {line["device"] for line in [*lines, *measured]}):
        raise UserError(f"--device: {configs.unknown('measured device', device, sorted(known))}")
    found, todo = speeds(lines, device), list(todo)
    for line in measured:
        for config in (trial.config for trial in todo):
            if line["device"] == device and all(str(getattr(config, name)) == line[name] for name in _MEASURED):
                found.setdefault(kind(config), an_epoch(config, float(line["images_per_second"]), pictures))
    return times(todo, found, f" on {device}")


def _measured() -> list[dict[str, str]]:
    """What benchmarks have measured; nothing where their folder is not at hand."""
    if not SPEEDS.is_file():
        return []
    with SPEEDS.open(newline="") as file:
        return list(csv.DictReader(file))


def an_epoch(config: Config, images_per_second: float, pictures: tuple[int, int]) -> float:
    """Seconds of an epoch with its part of the evaluations, by the speed of the training steps.

    A backward takes twice as long as a forward, so a picture of a training step takes 3 V forwards of one view. An
    evaluation is one forward of each picture; kNN and the like, which are left out, are little beside it.

    Args:
        pictures: how many there are for training and for testing.
    """
    train, test, protocol = config.train_images or pictures[0], pictures[1], PROTOCOLS[config.protocol]
    trained = config.epochs * (train - train % config.batch_size)
    looks = 1 + math.ceil(config.epochs / (config.eval_every or 1))
    probed = 1 if protocol.probe_optimizer == "lbfgs" else protocol.probe_epochs
    forwards = (looks + probed) * train + (looks + 1) * test
    return (trained + forwards / (3 * config.views)) / images_per_second / config.epochs
