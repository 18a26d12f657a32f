"""Linear evaluation: a linear classifier on the frozen backbone's pooled features (App. A)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simsiam import checkpoint, distributed, monitor, optim, randomness, views
from simsiam.checkpoint import Checkpointer
from simsiam.loader import Chunk, Images, chunks, upload
from simsiam.model import SimSiam
from simsiam.protocols import Protocol

T = TypeVar("T")

_MIN_AREA = 0.08  # of a training crop: torchvision's default, as in the released code
_VIEW = 1000  # a view number of its own, so that the probe's crops are not those of the pre-training


def linear_top1(
    model: SimSiam, train: Images, test: Images, protocol: Protocol, *, seed: int, checkpointer: Checkpointer
) -> float:
    """Per cent of the full test set that a linear classifier gets right. `seed` orders and crops its training.

    A classifier trained on crops is part of the run's checkpoint, and gone on from.
    """
    # eval: a frozen network must not move its BN statistics while the classifier trains.
    model.eval().requires_grad_(False)

    def backbone(x: Tensor) -> Tensor:
        return model.features(x).float()

    features, wanted = map(distributed.gather, monitor.embed(backbone, test, protocol.crop))
    if protocol.probe_optimizer == "lbfgs":
        bank, labels = map(distributed.gather, monitor.embed(backbone, train, protocol.crop))
        mean, std = bank.mean(0), bank.std(0).clamp(min=1e-6)
        classifier = logistic_regression(
            (bank - mean) / std, labels, l2=_given(protocol.probe_l2), iterations=protocol.probe_epochs
        )
        features = (features - mean) / std
    else:
        classifier = _train_on_crops(backbone, model.backbone.features, train, protocol, seed, checkpointer)
    with torch.no_grad():
        right = classifier(features).argmax(1) == wanted
    return 100 * float(right.double().mean())


def logistic_regression(x: Tensor, labels: Tensor, *, l2: float, iterations: int) -> nn.Linear:
    """Multinomial logistic regression to convergence: x (N, D), labels (N,); l2 |W|^2 / 2 is added to the mean loss."""
    classifier = _classifier(x.shape[1], labels).to(x.device)
    solver = torch.optim.LBFGS(
        classifier.parameters(), max_iter=iterations, tolerance_grad=1e-6, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(classifier(x), labels) + l2 / 2 * classifier.weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)  # type: ignore[arg-type]
    return classifier


def _train_on_crops(
    backbone: Callable[[Tensor], Tensor],
    features: int,
    train: Images,
    protocol: Protocol,
    seed: int,
    checkpointer: Checkpointer,
) -> nn.Linear:
    """The paper's probe: SGD or LARS without weight decay, cosine, random resized crops and flips.

    The last epoch counts; the released code keeps the best one.
    """
    ids = torch.nonzero(train.labels >= 0).flatten().cpu().numpy()
    classifier = _classifier(features, train.labels).to(train.labels.device)
    batch = min(_given(protocol.probe_batch), len(ids))
    lr = _given(protocol.probe_lr) * batch / 256
    optimizer = optim.sgd_or_lars(protocol.probe_optimizer)(classifier.parameters(), lr=lr, momentum=0.9)
    steps, first = len(ids) // batch, 0
    if state := checkpointer.part("probe"):
        first = state["step"]
        classifier.load_state_dict(state["classifier"])
        optimizer.load_state_dict(state["optimizer"])
    for number, (crop, flip, wanted) in enumerate(_crops(ids, batch, train, protocol.probe_epochs, seed, first), first):
        z = backbone(views.normalise(torch.where(flip.view(-1, 1, 1, 1), crop.flip(-1), crop)))
        for group in optimizer.param_groups:
            group["lr"] = lr * optim.cosine(number / (steps * protocol.probe_epochs))
        optimizer.zero_grad()
        (F.cross_entropy(classifier(z), wanted, reduction="sum") / batch).backward()
        for p in classifier.parameters():
            p.grad = distributed.total(_given(p.grad))
        optimizer.step()
        if number % checkpoint.EVERY == checkpoint.EVERY - 1:
            state = {"step": number + 1, "classifier": classifier.state_dict(), "optimizer": optimizer.state_dict()}
            checkpointer.save(lambda state=state: {"probe": state})  # type: ignore[misc]
    return classifier


def _crops(
    ids: views.Ids, batch: int, train: Images, epochs: int, seed: int, first: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """This worker's share of each batch from step `first` on: crops uint8 (b, 3, S, S), flips (b,), labels (b,)."""
    device = train.labels.device
    fetched = train.stream(chunk for _, chunk in _chunks(ids, batch, epochs, seed, first))
    for epoch, chunk in _chunks(ids, batch, epochs, seed, first):
        flips = upload(randomness.uniform("probe flip", seed, epoch, chunk.ids) < 0.5, device)
        wanted = train.labels[upload(chunk.ids, device)]
        for flip, labels in zip(chunk.split(flips), chunk.split(wanted), strict=True):
            yield train.crops(next(fetched))[0], flip, labels


def _chunks(ids: views.Ids, batch: int, epochs: int, seed: int, first: int) -> Iterator[tuple[int, Chunk]]:
    """An epoch and batches of it, full ones of the labelled pictures, from step `first` on; one crop of each."""
    part, steps = distributed.share(batch), len(ids) // batch
    for epoch in range(first // steps, epochs):
        order = ids[randomness.permutation(len(ids), "probe order", seed, epoch)]
        begin = first % steps if epoch == first // steps else 0
        batches = [order[step * batch :][part] for step in range(begin, steps)]
        for chunk in chunks(batches, [views.RandomCrop(seed, epoch, _VIEW, _MIN_AREA)]):
            yield epoch, chunk


def _classifier(features: int, labels: Tensor) -> nn.Linear:
    """A linear layer that starts at zero; in the released code at N(0, 0.01), its bias at zero."""
    classifier = nn.Linear(features, int(labels.max()) + 1)
    nn.init.zeros_(classifier.weight)
    nn.init.zeros_(classifier.bias)
    return classifier


def _given(value: T | None) -> T:
    assert value is not None
    return value
