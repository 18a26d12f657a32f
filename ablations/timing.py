"""A training step of each kind that is planned, timed: --plan --probe."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable
from typing import Any

import torch

from ablations import estimate, launch_local, placement
from ablations import trial as trials
from ablations.estimate import Speeds
from ablations.table import Trial, UserError
from ablations.terminal import say
from simsiam import data, loader, precision, pretrain
from simsiam.checkpoint import Checkpointer
from simsiam.config import Config, Runtime
from simsiam.loader import Images, InMemory
from simsiam.methods import METHODS

_SMALL_BATCH = 16  # pictures: of a large network on a CPU, a step of the whole batch takes minutes
_LONG = 4.0  # seconds of a step: one that may take longer is not tried
_SHORT = 1.0  # seconds that are timed, if a few steps take so long
_MOST_STEPS = 10  # and of a GPU all of them: until its step is recorded, and its kernels are chosen, some pass


class _Nowhere:
    def read(self) -> bytes | None:
        return None

    def write(self, content: bytes) -> None:
        pass


def speeds(todo: Iterable[Trial], runtime: Runtime, known: Speeds) -> Speeds:
    """What an epoch takes on this machine of each kind that is not known yet.

    Kinds that do not train on views are left out. Raises UserError for what this machine cannot train, or for data that
    cannot be read.
    """
    runtime = launch_local.placed(runtime)
    wanted: dict[estimate.Kind, Config] = {}
    for trial in todo:
        if METHODS[trial.config.method].views and (kind := estimate.kind(trial.config)) not in known:
            wanted.setdefault(kind, trial.config)
    placement.check_precision(wanted.values(), runtime.device)
    precision.strict()
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.benchmark = runtime.device == "cuda"
    try:
        source = data.of(runtime)
        decoded = trials.shared(source, wanted.values())
        found = {}
        for number, (kind, config) in enumerate(wanted.items(), 1):
            what = f"{config.method}, {config.backbone} of width {config.width}, {config.image_size} px"
            say(f"Timing a step, {number} of {len(wanted)}: {what}, {config.precision}.")
            train, _ = loader.load(decoded[config.train_images] or source, config, runtime)
            speed = images_per_second(config, runtime, train)
            found[kind] = estimate.an_epoch(config, speed, (source.train_images, source.test_images))
        return found
    except data.DataError as error:
        raise UserError(str(error)) from None


def images_per_second(config: Config, runtime: Runtime, train: Images) -> float:
    """How many pictures a second a training step takes in, after a first one.

    On a CPU that is told by small batches, where a whole one would take long.
    """
    steps = _MOST_STEPS
    if runtime.device == "cpu":
        small = _changed(config, batch_size=min(_SMALL_BATCH, config.batch_size)) or config
        speed = _measured(small, runtime, train, 1)
        if (step := config.batch_size / speed) > _LONG:
            return speed
        steps = min(_MOST_STEPS, math.ceil(_SHORT / step))
    return _measured(config, runtime, train, steps)


def _measured(config: Config, runtime: Runtime, train: Images, steps: int) -> float:
    """Of the second of two epochs of so many steps, on the first pictures."""
    images = _first(train, steps * config.batch_size)
    lines: list[pretrain.Line] = []
    pretrain.pretrain(
        dataclasses.replace(config, epochs=2, warmup_epochs=0.0, eval_every=None),
        dataclasses.replace(runtime, until=None),
        images,
        images,
        checkpointer=Checkpointer(config, _Nowhere(), seconds=float("inf"), device=runtime.device),
        on_epoch=lines.append,
    )
    return float(lines[-1]["images_per_second"])


def _first(images: Images, n: int) -> Images:
    if isinstance(images, InMemory):
        return dataclasses.replace(images, pixels=images.pixels[:n], labels=images.labels[:n])
    some = copy.copy(images)
    some.labels = images.labels[:n]
    return some


def _changed(config: Config, **fields: Any) -> Config | None:
    """None where a rule forbids it."""
    try:
        return dataclasses.replace(config, **fields)
    except ValueError:
        return None
