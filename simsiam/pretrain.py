"""Algorithm 1 of the paper, and the loop around it."""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from simsiam import checkpoint, distributed, encoder, monitor, optim, randomness, views
from simsiam import method as methods
from simsiam.checkpoint import Checkpointer
from simsiam.config import COMPILED, EAGER, Config, Runtime
from simsiam.encoder import Weights
from simsiam.graph import Graphed
from simsiam.loader import Chunk, Images, chunks, upload
from simsiam.model import SimSiam
from simsiam.precision import WEIGHTS, arithmetic
from simsiam.protocols import PROTOCOLS

# One epoch: epoch, loss, monitor.MEASURED, lr, seconds, eval_seconds, images_per_second. What is measured is None where
# it was not evaluated, or there is no such thing; knn_train_top1 but for the last.
Line = dict[str, Any]


@dataclass
class Progress:
    """How far a run is. With the weights and the optimizer it is the whole state: all else is a function of the Config.

    Args:
        step: steps done.
        loss_sum: of the steps of the epoch under way.
        train_seconds: wall-clock time of the steps of the epoch under way.
        knn_top1_init: of the untrained network, per cent.
        curve: one line an epoch.
        workers: (step, workers from that step on), one pair for each change of their number.
    """

    step: int = 0
    loss_sum: float = 0.0
    train_seconds: float = 0.0
    knn_top1_init: float = math.nan
    curve: list[Line] = field(default_factory=list)
    workers: list[tuple[int, int]] = field(default_factory=list)


def train_step(
    method: nn.Module, optimizer: Optimizer, x: Tensor, config: Config, drawn: Tensor | None = None
) -> Tensor:
    """One step of Algorithm 1 on this worker's share of a batch, views x (V, b, 3, H, W) -> the mean loss, ()."""
    with arithmetic(config.precision, x.device):
        loss = method(x, drawn).sum()  # SimSiam's of a picture: D(p1, z2) / 2 + D(p2, z1) / 2
        optimizer.zero_grad()
        (loss * distributed.world_size() / config.batch_size).backward()  # workers' gradients are averaged
    optimizer.step()
    return distributed.total(loss.detach()) / config.batch_size


def pretrain(
    config: Config,
    runtime: Runtime,
    train: Images,
    test: Images,
    *,
    checkpointer: Checkpointer,
    on_epoch: Callable[[Line], None],
    weights: Weights | None = None,
) -> tuple[SimSiam, Progress]:
    """Train from the last checkpoint, or from the start, to the last epoch or to a loss that is not finite.

    Where nothing is to be trained, there is one line, of the network as it is.

    Args:
        on_epoch: called on every worker with the line of each epoch.
        weights: of an encoder, with which the backbone starts; without, it starts from the seed.
    """
    run = _Run(config, runtime, train, test, checkpointer)
    if weights:
        encoder.put_into(run.method, weights)
    run.resume()
    if not config.epochs and not run.progress.curve:
        run.as_it_is()
        run.save(at_once=True)
        on_epoch(run.progress.curve[-1])
    steps = run.steps_per_epoch
    batches = run.batches()
    while run.progress.step < config.epochs * steps and not run.diverged:
        run.epoch(batches)
        run.save(at_once=run.diverged or run.progress.step == config.epochs * steps)
        on_epoch(run.progress.curve[-1])
    return run.model, run.progress


class _Run:
    """The objects of one run, and what happens to them in an epoch."""

    def __init__(
        self, config: Config, runtime: Runtime, train: Images, test: Images, checkpointer: Checkpointer
    ) -> None:
        self.config, self.train, self.test, self.checkpointer = config, train, test, checkpointer
        self.device = torch.device(runtime.device)
        self.dtype = WEIGHTS[config.precision]
        self.method = methods.build(config, train.labels).to(self.device, self.dtype)
        self.method.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.model = self.method.model
        self.parallel: nn.Module = self.method
        if distributed.world_size() > 1:
            # DDP puts its buckets into another order after the first step, so a run that goes on adds up in another
            # order than one that never stopped. It does not where it looks for unused parameters, which takes time:
            # where runs are the same bit for bit, on CPUs.
            self.parallel = DistributedDataParallel(
                self.method, broadcast_buffers=False, find_unused_parameters=self.device.type == "cpu"
            )
        own = (p for name, p in self.method.named_parameters() if not name.startswith("model."))
        self.optimizer = optim.optimizer(self.model, config, [p for p in own if p.requires_grad])
        optim.place_lr(self.optimizer, self.device)
        self.progress = Progress()
        self.steps_per_epoch = len(train) // config.batch_size if config.epochs else 0
        self.protocol = PROTOCOLS[config.protocol]
        self.train_on: Callable[..., Tensor] = self._step
        self.augment = views.augment
        if self.device.type == "cuda" and distributed.world_size() == 1:
            if runtime.step == COMPILED:
                self.model.f = torch.compile(self.model.f)  # type: ignore[method-assign]
                self.augment = torch.compile(views.augment)
            if runtime.step != EAGER:
                self.train_on = Graphed(self._step)

    @property
    def diverged(self) -> bool:
        return bool(self.progress.curve) and not math.isfinite(self.progress.curve[-1]["loss"] or 0.0)

    def resume(self) -> None:
        """Go on from the checkpoint, if there is one."""
        if state := self.checkpointer.resume():
            self.method.load_state_dict(state["method"])
            self.optimizer.load_state_dict(state["optimizer"])
            optim.place_lr(self.optimizer, self.device)
            self.progress = Progress(**state["progress"])
        elif self.config.epochs:
            self.progress.knn_top1_init = self.measured()["knn_top1"]
        if not self.progress.workers or self.progress.workers[-1][1] != distributed.world_size():
            # The list is the checkpointer's: where no step is left, the linear evaluation saves it.
            self.progress.workers.append((self.progress.step, distributed.world_size()))

    def save(self, of_epoch: Callable[[], dict[str, float]] = dict, at_once: bool = False) -> None:
        """A checkpoint, if it is time for one. `of_epoch` says how far the epoch under way is."""
        self.checkpointer.save(
            lambda: {
                "method": self.method.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": dataclasses.asdict(self.progress) | of_epoch(),
            },
            at_once,
        )

    def batches(self) -> Iterator[tuple[Tensor, ...]]:
        """What each step from here on trains on: what was drawn for its views (V, b, D), what its crops are of, and, if
        the method draws, what it drew."""
        config, where = self.config, (len(self.train), self.progress.step, self.steps_per_epoch)
        fetched = self.train.stream(chunk for *_, chunk in _chunks(config, *where))
        for epoch, step, chunk in _chunks(config, *where):
            drawn = np.stack([views.draw(config, epoch, chunk.ids, view) for view in range(config.views)])
            besides: Iterator[tuple[Tensor, ...]] = itertools.repeat(())
            if self.method.draws:
                numbers = [self.method.draw(ids, epoch, step + i) for i, ids in enumerate(chunk.batches)]
                besides = ((each,) for each in upload(np.stack(numbers), self.device))
            for each in chunk.split(upload(drawn, self.device), 1):
                yield each, *next(fetched), *next(besides)

    def _step(self, drawn: Tensor, *given: Tensor) -> Tensor:
        """Views of one batch, and a step on them -> the mean loss, ()."""
        fetched, besides = (given[:-1], given[-1]) if self.method.draws else (given, None)
        crops = self.train.crops(fetched)
        x = torch.stack([self.augment(*each, self.config) for each in zip(crops, drawn, strict=True)])
        return train_step(self.parallel, self.optimizer, x.to(self.dtype), self.config, besides)

    def epoch(self, batches: Iterator[tuple[Tensor, ...]]) -> None:
        """The rest of the epoch under way, and its line of the curve."""
        progress, steps = self.progress, self.steps_per_epoch
        epoch = progress.step // steps
        losses = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        begun = time.monotonic() - progress.train_seconds
        self.method.train()
        while progress.step < (epoch + 1) * steps:
            step = progress.step % steps
            optim.set_lr(self.optimizer, self.config, progress.step / steps)
            losses.add_(self.train_on(*next(batches)))
            progress.step += 1
            self.method.update(progress.step, self.config.epochs * steps)
            if step % checkpoint.EVERY == checkpoint.EVERY - 1 and step != steps - 1:
                self.save(lambda: {"loss_sum": float(losses), "train_seconds": time.monotonic() - begun})
        loss, seconds = float(losses) / steps, time.monotonic() - begun
        progress.loss_sum = progress.train_seconds = 0.0
        progress.curve.append(self._line(epoch + 1, loss, seconds))

    def as_it_is(self) -> None:
        """The one line of a run that trains nothing."""
        self.progress.curve.append(self._line(0, None, 0.0))
        self.progress.knn_top1_init = self.progress.curve[-1]["knn_top1"]

    def measured(self, last: int | None = None) -> dict[str, Any]:
        """What `monitor.measure` gives of the network as it is now."""
        classifier = self.method.classifier
        return monitor.measure(self.model, self.train, self.test, self.protocol, classifier=classifier, last=last)

    def _line(self, epoch: int, loss: float | None, seconds: float) -> Line:
        begun = time.monotonic()
        every = self.config.eval_every
        looked_at = every is None or epoch % every == 0 or epoch == self.config.epochs
        measured: Line = dict.fromkeys(monitor.MEASURED)
        if loss is not None and not math.isfinite(loss):
            measured |= dict.fromkeys(("z_std", "effective_rank", "knn_top1"), math.nan)
        elif looked_at:
            last = self.config.seed if epoch == self.config.epochs else None
            measured |= self.measured(last)
        return {
            "epoch": epoch,
            "loss": loss,
            **measured,
            "lr": optim.lr(self.config, "encoder", epoch - 1) if epoch else None,
            "seconds": seconds,
            "eval_seconds": time.monotonic() - begun,
            "images_per_second": self.steps_per_epoch * self.config.batch_size / seconds if epoch else None,
        }


def _chunks(config: Config, images: int, first: int, steps: int) -> Iterator[tuple[int, int, Chunk]]:
    """An epoch, a step of it, and this worker's share of batches from there on, with the crop of each view; from step
    `first` of all to the end.

    The last incomplete batch of an epoch is dropped.
    """
    part, size = distributed.share(config.batch_size), config.batch_size
    for epoch in range(first // steps, config.epochs):
        order = randomness.permutation(images, "order", config.seed, epoch)
        begin = first % steps if epoch == first // steps else 0
        batches = [order[step * size :][part] for step in range(begin, steps)]
        crops = [views.RandomCrop(config.seed, epoch, view, config.crop_min_area) for view in range(config.views)]
        for chunk in chunks(batches, crops):
            yield epoch, begin, chunk
            begin += len(chunk.batches)
