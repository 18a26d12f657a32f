"""Every row of every table that the digits can feed, and some steps of one on a device."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tiny
import torch

from ablations import catalogue
from ablations.planning import plan
from simsiam import data, loader, optim, pretrain
from simsiam.config import EAGER, Config, Runtime

AUGMENTED = {"saturation": 0.4, "hue": 0.1, "grayscale_p": 0.2, "blur_p": 0.5, "flip_p": 0.5}
SMALL = {"width": 4, "dim": 64, "projector_hidden": 64, **AUGMENTED}  # fields that all of them have

DIGITS = 1437  # for training


def configs(overrides: Mapping[str, Any] = SMALL, train_images: int = DIGITS) -> dict[str, Config]:
    """Trial -> its Config; one for all lengths of a row."""
    found = {}
    for table in map(catalogue.get, catalogue.names()):
        if table.needs_encoder:  # its rows train as those of another table do, if by such a step at all
            continue
        for trial in plan(
            table,
            recipe="digits",
            data="digits@x",
            train_images=train_images,
            overrides=overrides,
            rows=[row.name for row in table.rows if callable(row.changes) or "encoder" not in row.changes],
        ):
            if trial.infeasible is None and trial.config.epochs:
                found.setdefault(dataclasses.replace(trial.config, epochs=1000), trial)  # above any warm-up
    return {trial.name: trial.config for trial in found.values()}


def kinds(trials: Mapping[str, Config]) -> dict[str, Config]:
    """Of these the first of each method, optimizer and kind of BN."""
    found: dict[Any, str] = {}
    for name, config in trials.items():
        found.setdefault((config.method, config.optimizer, config.batch_norm, bool(config.bn_group)), name)
    return {name: trials[name] for name in found.values()}


class Run:
    """Some steps of a Config on a device."""

    def __init__(self, config: Config, device: str = "cuda", step: str = EAGER) -> None:
        decoded = loader.decode(data.locate(None), config.train_images)
        assert decoded is not None
        config = dataclasses.replace(config, data=decoded.name)
        runtime = Runtime(device=device, step=step)
        self.run = pretrain._Run(config, runtime, *loader.load(decoded, config, runtime), tiny.checkpointer(config))
        self.run.method.train()
        self.batches = self.run.batches()

    def steps(self, n: int, permute: bool = False) -> list[float]:
        """The losses of the next n steps; `permute` turns each batch round: another order of its sums."""
        run, losses = self.run, []
        for _ in range(n):
            optim.set_lr(run.optimizer, run.config, run.progress.step / run.steps_per_epoch)
            drawn, ids, boxes, *besides = next(self.batches)
            if permute:
                drawn, ids, boxes = drawn.flip(1), ids.flip(0), boxes.flip(1)
            losses.append(run.train_on(drawn, ids, boxes, *besides).clone())
            run.progress.step += 1
            run.method.update(run.progress.step, run.config.epochs * run.steps_per_epoch)
        return torch.stack(losses).tolist()
