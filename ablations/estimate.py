"""How long trainings may take: by those that are done, by measured speeds, by a step of each kind."""

from __future__ import annotations

import csv
import heapq
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from ablations import catalogue, provenance
from ablations.columns import Result
from ablations.store import Store
from ablations.table import Trial, UserError
from simsiam import config as configs
from simsiam.config import Config
from simsiam.protocols import PROTOCOLS
from simsiam.recipes import RECIPES

# What the time of an epoch hangs on most; the other switches matter little beside it.
_NETWORK = ("image_size", "backbone", "stem", "width", "precision")
_COST = ("method", "data", "train_images", "pairs_per_image", "batch_size", *_NETWORK)
_TOOK = (
    *("fingerprint", "recipe", "overrides", "device", "outcome", "epochs", "wall_seconds", "device_seconds"),
    *("gpu_fraction", "threads", "eval_seconds", "images_per_second", "train_pictures"),
)
# Columns of benchmarks/results/speeds.csv that are fields, and decide where one of its speeds holds.
_MEASURED = ("method", "pairs_per_image", *_NETWORK)

Kind = tuple[Any, ...]  # of net, views and pictures
PUBLISHED = provenance.ROOT / "results" / "published"
SPEEDS = provenance.ROOT / "benchmarks" / "results" / "speeds.csv"


class Speed(NamedTuple):
    """Seconds of one CPU or GPU: what a training takes once, and an epoch with its part of the evaluations."""

    once: float
    epoch: float


Speeds = dict[Kind, Speed]


@dataclass(frozen=True)
class Times:
    """How long trainings may take.

    Args:
        known: seconds of one CPU or GPU, of each of those that are known.
        unknown: how many are not.
        by: whose speed it is, for a person.
    """

    known: Sequence[float]
    unknown: int
    by: str = ""

    @property
    def seconds(self) -> float:
        """Of one CPU or GPU, of all that are known."""
        return sum(self.known)

    def spread(self, at_once: int, workers: int = 1) -> float:
        """Seconds until the last of those that are known ends, where each starts as soon as one of `at_once` ends."""
        ends = [0.0] * min(at_once, max(1, len(self.known)))
        for each in self.known:
            heapq.heapreplace(ends, ends[0] + each / workers)
        return max(ends)


def costs(store: Store) -> list[Result]:
    """What `speeds` looks at, of all that the table files have."""
    lines: dict[str, Result] = {}
    for name in catalogue.there(store):
        found = store.table(name, [*_COST, *_TOOK])
        lines |= {line["fingerprint"]: {**dict.fromkeys((*_COST, *_TOOK)), **line} for line in found}  # of older files
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
    return None if speed is None else speed.once + speed.epoch * config.epochs


def speeds(costs: Iterable[Result], device: str | None, threads: int) -> Speeds:
    """What trainings took on this kind of device, of each kind of net, views and pictures that there are costs of.

    Those that shared a GPU are left out: what they took hangs on what ran beside them.

    Args:
        threads: of a worker; trainings with another number of them are left out.
    """
    found: dict[Kind, list[Speed]] = {}
    for done in costs:
        shared = (done["gpu_fraction"] or 1) < 1 or done["device_seconds"] is None
        alike = done["device"] == device and done["threads"] in (None, threads)  # older files do not tell
        if alike and done["outcome"] != "diverged" and not shared:
            found.setdefault(tuple(done[name] for name in _COST), []).append(_speed(done))
    return {key: Speed(*map(statistics.median, zip(*each, strict=True))) for key, each in found.items()}


def _speed(done: Result) -> Speed:
    """Of one training. Where its file is too old to tell, all of it is its epochs'."""
    epochs, whole = done["epochs"], done["device_seconds"]
    if not epochs:
        return Speed(whole, 0.0)
    pictures, speed, looks = (done[name] for name in ("train_pictures", "images_per_second", "eval_seconds"))
    if not pictures or not speed or looks is None:
        return Speed(0.0, whole / epochs)
    steps = (pictures - pictures % done["batch_size"]) / speed
    an_epoch = (steps + looks / epochs) * whole / max(done["wall_seconds"], 1e-9)
    return Speed(max(0.0, whole - epochs * an_epoch), an_epoch)


def times(todo: Iterable[Trial], speeds: Speeds, by: str = "") -> Times:
    """Of trainings, by what an epoch of each kind takes."""
    found = [seconds(trial.config, speeds) for trial in todo]
    known = [each for each in found if each is not None]
    return Times(known, len(found) - len(known), by)


def here(todo: Sequence[Trial], store: Store, threads: int) -> Times:
    """By what this machine has done, or by what is published of their recipe where that knows more of them."""
    mine = times(todo, speeds(costs(store), provenance.machine(), threads))
    if not mine.unknown:
        return mine
    others = published(todo[0].recipe)
    device = next((line["device"] for line in others), "")
    by = f" on the {device} of results/published, which may not be this machine"
    theirs = times(todo, speeds(others, device, threads), by)
    return theirs if theirs.unknown < mine.unknown else mine


def on(device: str, todo: Sequence[Trial], store: Store, threads: int, pictures: tuple[int, int]) -> Times:
    """By what trials took on this kind of device, here or published, else by what benchmarks measured on it.

    Raises UserError for a device of which there is neither.

    Args:
        pictures: how many there are for training and for testing.
    """
    lines = costs(store) + [line for recipe in RECIPES for line in published(recipe)]
    measured = _measured()
    if not (known := {line["device"] for line in [*lines, *measured]}):
        raise UserError("--device: nothing was trained here, and what the checkout has measured is not at hand.")
    if device not in known:
        raise UserError(f"--device: {configs.unknown('measured device', device, sorted(known))}")
    found, batches = speeds(lines, device, threads), set()
    for config in (trial.config for trial in todo):
        for line in measured:
            its = line["device"] == device and all(str(getattr(config, name)) == line[name] for name in _MEASURED)
            if its and kind(config) not in found:
                found[kind(config)] = by_steps(config, float(line["images_per_second"]), pictures)
                batches.add(line["batch_size"])
    how = f", measured with pictures in its memory, batch {' and '.join(sorted(batches))}" if batches else ""
    return times(todo, found, f" on {device}{how}")


def _measured() -> list[dict[str, str]]:
    """What benchmarks have measured; nothing where their folder is not at hand."""
    if not SPEEDS.is_file():
        return []
    with SPEEDS.open(newline="") as file:
        return list(csv.DictReader(file))


def by_steps(config: Config, images_per_second: float, pictures: tuple[int, int]) -> Speed:
    """What a training takes by the speed of its steps.

    A backward takes twice as long as a forward, so a picture of a training step takes 3 V forwards of one view. An
    evaluation is one forward of each picture; kNN and the like, which are left out, are little beside it.

    Args:
        pictures: how many there are for training and for testing.
    """
    train, test, protocol = config.train_images or pictures[0], pictures[1], PROTOCOLS[config.protocol]
    steps = (train - train % config.batch_size) / images_per_second
    forward = 1 / (3 * config.views * images_per_second)
    probed = 1 if protocol.probe_optimizer == "lbfgs" else protocol.probe_epochs
    once = ((1 + probed) * train + 2 * test) * forward  # of the untrained network, and the linear evaluation
    looks = math.ceil(config.epochs / (config.eval_every or 1)) / config.epochs
    return Speed(once, steps + looks * (train + test) * forward)
