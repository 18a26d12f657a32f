"""A training step of each kind that is planned, timed: --plan --probe."""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Iterable

import torch

from ablations import estimate, launch_local
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
_LARGER = 4  # times
_LONG = 4.0  # seconds of a step: one that may take longer is not tried
_SHORT = 1.0  # seconds that are timed, if a few steps take so long
_MOST_STEPS = 10  # and of a GPU all of them: until its step is recorded, and its kernels are chosen, some pass


class Nowhere:
    """The place of a checkpoint that nobody needs."""

    def read(self) -> bytes | None:
        return None

    def write(self, content: bytes) -> None:
        pass


def speeds(todo: Iterable[Trial], runtime: Runtime, known: Speeds) -> Speeds:
    """What a training takes on this machine of each kind that is not known yet.

    Kinds that do not train on views, or do not fit into its memory, are left out. Raises UserError for what this
    machine cannot train, or for data that cannot be read.
    """
    wanted: dict[estimate.Kind, Config] = {}
    for trial in todo:
        if METHODS[trial.config.method].views and (kind := estimate.kind(trial.config)) not in known:
            wanted.setdefault(kind, trial.config)
    runtime = launch_local.placed(runtime, wanted.values())
    precision.strict()
    torch.set_num_threads(runtime.threads)
    torch.backends.cudnn.benchmark = runtime.device == "cuda"
    try:
        source = data.of(runtime)
        decoded = trials.shared(source, wanted.values())
        found = {}
        for number, (kind, config) in enumerate(wanted.items(), 1):
            what = f"{config.method}, {config.backbone} of width {config.width}, {config.image_size} px"
            say(f"Timing a step, {number} of {len(wanted)}: {what}, {config.precision}, batch {config.batch_size}.")
            train, _ = loader.load(decoded[config.train_images] or source, config, runtime)
            try:
                speed = images_per_second(config, runtime, train)
            except Exception as error:
                if not trials.out_of_memory(error):
                    raise
                say("It does not fit into this machine's memory.")
                continue
            found[kind] = estimate.by_steps(config, speed, (source.train_images, source.test_images))
        return found
    except data.DataError as error:
        raise UserError(str(error)) from None


def images_per_second(config: Config, runtime: Runtime, train: Images) -> float:
    """How many pictures a second a training step takes in, of one worker's share of a batch, after a first step.

    On a CPU larger and larger shares are timed, until the next might take long.
    """
    share = max(2, config.batch_size // runtime.workers)
    if runtime.device == "cuda":
        return _measured(config, runtime, train, share, _MOST_STEPS)
    batch = min(_SMALL_BATCH, share)
    speed = _measured(config, runtime, train, batch, 1)
    while batch < share and min(_LARGER * batch, share) / speed <= _LONG:
        batch = min(_LARGER * batch, share)
        speed = _measured(config, runtime, train, batch, 1)
    steps = min(_MOST_STEPS, math.ceil(_SHORT * speed / batch))
    return _measured(config, runtime, train, batch, steps) if steps > 1 else speed


def _measured(config: Config, runtime: Runtime, train: Images, batch: int, steps: int) -> float:
    """Of the second of some epochs of so many steps, on the first pictures.

    Where loader processes read ahead, it is between two others: what was read for it before is then as much as is read
    in it for the next.
    """
    ahead = 2 * runtime.loader_processes
    images, epochs = _first(train, max(steps, ahead) * batch), 3 if ahead else 2
    small = dataclasses.replace(config, bn_group=None) if batch < config.batch_size else config
    lines: list[pretrain.Line] = []
    pretrain.pretrain(
        dataclasses.replace(small, batch_size=batch, epochs=epochs, warmup_epochs=0.0, eval_every=epochs),
        dataclasses.replace(runtime, until=None),
        images,
        images,
        checkpointer=Checkpointer(config, Nowhere(), seconds=float("inf"), device=runtime.device),
        on_epoch=lines.append,
    )
    return float(lines[1]["images_per_second"])


def _first(images: Images, n: int) -> Images:
    if isinstance(images, InMemory):
        return dataclasses.replace(images, pixels=images.pixels[:n], labels=images.labels[:n])
    some = copy.copy(images)
    some.labels = images.labels[:n]
    return some
