"""Detection from a trained backbone (Table 5): Faster R-CNN, its training, and average precision as COCO defines it.

torchvision's Faster R-CNN with a feature pyramid (FPN); the paper's is of the C4 kind, so its numbers are other ones.
The whole network is fine-tuned with BN over the batch, as in the paper: SGD, a warm-up of 100 steps, the learning rate
divided by ten after three quarters and eleven twelfths of the steps, sides of 0.6 to 1 times the test's, and flips.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import io
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torchvision.models.detection import FasterRCNN
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
from torchvision.transforms.functional import pil_to_tensor

from simsiam import checkpoint, data, distributed, monitor, randomness
from simsiam.batch_norm import BatchNorm
from simsiam.checkpoint import Checkpointer
from simsiam.config import Config, Runtime
from simsiam.data import TEST, TRAIN, Pictures, Source
from simsiam.encoder import Weights
from simsiam.model import backbone, initialise
from simsiam.precision import arithmetic
from simsiam.pretrain import Line, Progress

_WARMUP = 100  # steps
_DROPS = 3 / 4, 11 / 12  # of the steps
_TRAINED_SIDES = [n / 25 for n in range(15, 26)]  # of the short side at testing: 480 to 800 of 800
_LONGEST = 1333 / 800  # the long side at most
_ANCHORS = 32, 64, 128, 256, 512  # sides at 800 pixels
_AT_ONCE = 8  # pictures that are tested

Target = dict[str, Tensor]


def run(
    config: Config,
    runtime: Runtime,
    source: Source,
    *,
    checkpointer: Checkpointer,
    on_epoch: Callable[[Line], None],
    weights: Weights | None,
) -> tuple[dict[str, Any], Progress]:
    """Train a detector, from its last checkpoint if there is one, and test it -> its numbers, and how it went.

    Raises ValueError for more than one worker, whose shares of a batch would draw other proposals.
    """
    if distributed.world_size() > 1:
        raise ValueError(f"method={config.method} has one worker. Got {distributed.world_size()}: use --workers 1.")
    train, test = (data.read(source, split) for split in (TRAIN, TEST))
    device = torch.device(runtime.device)
    model = detector(config, len(train.classes), weights).to(device)
    run = _Run(config, model, train, device, checkpointer)
    while run.progress.step < config.epochs * run.steps and not run.diverged:
        run.epoch()
        on_epoch(run.progress.curve[-1])
    diverged = run.diverged or not all(bool(p.isfinite().all()) for p in model.parameters())
    numbers: dict[str, Any] = {"outcome": monitor.DIVERGED if diverged else monitor.FINISHED}
    if not diverged:
        numbers |= average_precision(test, list(_detections(model, test, config, device)))
    numbers |= {"loss": run.progress.curve[-1]["loss"], "train_pictures": len(train), "test_images": len(test)}
    return numbers, run.progress


def detector(config: Config, classes: int, weights: Weights | None) -> FasterRCNN:
    """Faster R-CNN on a Config's backbone, which starts from the weights, or from the seed."""
    norm = functools.partial(BatchNorm, batch_size=config.batch_size)
    body = backbone(config.backbone, width=config.width, stem=config.stem, norm=norm)
    initialise(nn.ModuleDict({"backbone": body}), config.seed)
    if weights:
        body.load_state_dict(weights)
    channels = [body.features // 2**n for n in (3, 2, 1, 0)]
    with _seeded("detector", config.seed):
        wide, hidden = 4 * config.width, 16 * config.width  # 256 and 1024, as torchvision's, at a width of 64
        pyramid = BackboneWithFPN(body, {f"layer{n + 1}": str(n) for n in range(4)}, channels, out_channels=wide)
        sides = tuple((max(4, round(side * config.image_size / 800)),) for side in _ANCHORS)
        return FasterRCNN(
            pyramid,
            box_head=TwoMLPHead(wide * 7 * 7, hidden),
            box_predictor=FastRCNNPredictor(hidden, classes + 1),
            min_size=[round(part * config.image_size) for part in _TRAINED_SIDES],  # type: ignore[arg-type]
            max_size=round(_LONGEST * config.image_size),
            rpn_anchor_generator=AnchorGenerator(sides, ((0.5, 1.0, 2.0),) * len(sides)),
        )


class _Run:
    """The objects of one run, from its last checkpoint on."""

    def __init__(
        self, config: Config, model: FasterRCNN, train: Pictures, device: torch.device, checkpointer: Checkpointer
    ) -> None:
        self.config, self.model, self.train, self.device, self.checkpointer = config, model, train, device, checkpointer
        self.steps = len(train) // config.batch_size
        self.optimizer = torch.optim.SGD(
            model.parameters(), lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay
        )
        self.progress = Progress()
        if state := checkpointer.resume():
            model.load_state_dict(state["model"])
            self.optimizer.load_state_dict(state["optimizer"])
            self.progress = Progress(**state["progress"])
        else:
            self.progress.workers.append((0, 1))

    @property
    def diverged(self) -> bool:
        return bool(self.progress.curve) and not math.isfinite(self.progress.curve[-1]["loss"])

    def epoch(self) -> None:
        """The rest of the epoch under way, and its line of the curve."""
        config, progress = self.config, self.progress
        number, begun = progress.step // self.steps, time.monotonic() - progress.train_seconds
        order = randomness.permutation(len(self.train), "order", config.seed, number)
        losses = torch.tensor(progress.loss_sum, dtype=torch.float64, device=self.device)
        self.model.train()
        for step in range(progress.step % self.steps, self.steps):
            ids = order[step * config.batch_size : (step + 1) * config.batch_size]
            losses += self._step(ids, number)
            progress.step += 1
            if step % checkpoint.EVERY == checkpoint.EVERY - 1 and step != self.steps - 1:
                self._save({"loss_sum": float(losses), "train_seconds": time.monotonic() - begun})
        seconds = time.monotonic() - begun
        progress.loss_sum = progress.train_seconds = 0.0
        measured: Line = dict.fromkeys(monitor.MEASURED)
        progress.curve.append(
            {
                "epoch": number + 1,
                "loss": float(losses) / self.steps,
                **measured,
                "lr": self._lr(number * self.steps),
                "seconds": seconds,
                "eval_seconds": 0.0,
                "images_per_second": self.steps * config.batch_size / seconds,
            }
        )
        self._save({}, at_once=number + 1 == config.epochs)

    def _step(self, ids: Any, epoch: int) -> Tensor:
        """One step on a batch -> its loss. What is drawn in it is a function of the seed and the step."""
        config = self.config
        flips = randomness.uniform("flip", config.seed, epoch, ids) < config.flip_p
        batch = [_example(self.train, int(i), bool(flip), self.device) for i, flip in zip(ids, flips, strict=True)]
        images, targets = zip(*batch, strict=True)
        for group in self.optimizer.param_groups:
            group["lr"] = self._lr(self.progress.step)
        with _seeded("proposals", config.seed, self.progress.step), arithmetic(config.precision, self.device):
            loss = torch.stack(list(self.model(list(images), list(targets)).values())).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss.detach()

    def _lr(self, step: int) -> float:
        every = self.config.epochs * self.steps
        warm = min(_WARMUP, every // 10)
        drops = sum(step >= part * every for part in _DROPS)
        return self.config.lr * (min(1.0, (step + 1) / warm) if warm else 1.0) * 0.1**drops

    def _save(self, of_epoch: dict[str, float], at_once: bool = False) -> None:
        self.checkpointer.save(
            lambda: {
                "model": self.model.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "progress": dataclasses.asdict(self.progress) | of_epoch,
            },
            at_once,
        )


@contextlib.contextmanager
def _seeded(*names: str | int) -> Iterator[None]:
    """torch's own generators, which torchvision draws from, as a function of these names."""
    with torch.random.fork_rng():
        torch.manual_seed(int(randomness.bits(*names)[0]) >> 1)
        yield


def _example(pictures: Pictures, i: int, flip: bool, device: torch.device) -> tuple[Tensor, Target]:
    """Picture i as float32 (3, H, W) in 0 to 1, and its objects; turned about its vertical axis with `flip`."""
    assert pictures.objects
    picture = pil_to_tensor(pictures.decode(i)).to(device).float() / 255
    objects = pictures.objects(i)
    boxes = torch.from_numpy(objects.boxes).to(device)
    width = picture.shape[2]
    if len(boxes) and (float(boxes[:, 2].max()) > width or float(boxes[:, 3].max()) > picture.shape[1]):
        raise data.DataError(f"A box lies outside of {pictures.where(i)}. Replace or remove it.")
    if flip:
        picture, boxes = (
            picture.flip(-1),
            torch.stack([width - boxes[:, 2], boxes[:, 1], width - boxes[:, 0], boxes[:, 3]], 1),
        )
    return picture, {"boxes": boxes, "labels": torch.from_numpy(objects.labels).to(device) + 1}


@torch.no_grad()
def _detections(model: FasterRCNN, test: Pictures, config: Config, device: torch.device) -> Iterator[Target]:
    """What the detector finds in each picture: boxes (k, 4), labels (k,) from 0, scores (k,)."""
    model.eval()
    for begin in range(0, len(test), _AT_ONCE):
        ids = range(begin, min(begin + _AT_ONCE, len(test)))
        with arithmetic(config.precision, device):
            found = model([_example(test, i, False, device)[0] for i in ids])
        for each in found:
            yield {
                "boxes": each["boxes"].float().cpu(),
                "labels": each["labels"].cpu() - 1,
                "scores": each["scores"].float().cpu(),
            }


def average_precision(test: Pictures, found: list[Target]) -> dict[str, float]:
    """COCO's AP (mean over IoU 0.5 to 0.95), AP50 and AP75, per cent, by pycocotools; difficult ones are left out."""
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    assert test.objects
    truth = COCO()
    objects = [
        {"image_id": i, "category_id": int(label), "bbox": _corner(box), "area": _area(box), "iscrowd": int(hard)}
        for i in range(len(test))
        for box, label, hard in zip(*dataclasses.astuple(test.objects(i)), strict=True)
    ]
    truth.dataset = {
        "images": [{"id": i} for i in range(len(test))],
        "categories": [{"id": label} for label in range(len(test.classes))],
        "annotations": [{"id": number, **each} for number, each in enumerate(objects, 1)],
    }
    detections = [
        {"image_id": i, "category_id": int(label), "bbox": _corner(box), "score": float(score)}
        for i, each in enumerate(found)
        for box, label, score in zip(each["boxes"].numpy(), each["labels"], each["scores"], strict=True)
    ]
    if not detections:
        return {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}
    with contextlib.redirect_stdout(io.StringIO()):  # it tells of each step
        truth.createIndex()
        judge = COCOeval(truth, truth.loadRes(detections), "bbox")
        judge.evaluate()
        judge.accumulate()
        judge.summarize()
    # -1 stands for no object at all that counts.
    return {name: 100 * max(0.0, float(judge.stats[n])) for n, name in enumerate(("ap", "ap50", "ap75"))}


def _corner(box: Any) -> list[float]:
    """Left, top, width, height."""
    return [float(box[0]), float(box[1]), float(box[2] - box[0]), float(box[3] - box[1])]


def _area(box: Any) -> float:
    return float(np.prod(box[2:] - box[:2]))
