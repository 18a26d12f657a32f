"""The linear probe against scikit-learn's logistic regression, the probe on crops by what it must do."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import tiny
import torch
import torchvision.transforms.functional as F
from conftest import digits, random_images
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from torch import Tensor

from simsiam import checkpoint, data, probe
from simsiam.checkpoint import Checkpointer
from simsiam.config import Runtime
from simsiam.loader import InMemory, decode, load
from simsiam.model import SimSiam
from simsiam.protocols import PROTOCOLS, Protocol


def blobs(n: int, classes: int, d: int, seed: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    centers = torch.randn(classes, d, generator=torch.Generator().manual_seed(99))
    labels = torch.randint(0, classes, (n,), generator=generator)
    return centers[labels] + 0.9 * torch.randn(n, d, generator=generator), labels


@pytest.mark.parametrize(("classes", "d"), [(3, 4), (10, 20)])
@pytest.mark.parametrize("l2", [1e-1, 1e-3])
def test_logistic_regression_is_scikit_learns(classes: int, d: int, l2: float) -> None:
    n = 400
    x, labels = blobs(n, classes, d, seed=1)
    fresh, _ = blobs(100, classes, d, seed=2)
    theirs = LogisticRegression(C=1 / (l2 * n), tol=1e-8, max_iter=5000)
    theirs.fit(x.double().numpy(), labels.numpy())
    ours = probe.logistic_regression(x, labels, l2=l2, iterations=500)
    with torch.no_grad():
        probabilities = ours(fresh).softmax(1)
    np.testing.assert_allclose(probabilities.numpy(), theirs.predict_proba(fresh.double().numpy()), atol=2e-3)
    # The penalty leaves one solution for the weights; the biases may all move by a constant.
    largest = np.abs(theirs.coef_).max()
    np.testing.assert_allclose(ours.weight.detach().numpy(), theirs.coef_, atol=0.01 * largest)


def test_logistic_regression_of_two_classes_has_two_rows() -> None:
    n, l2 = 300, 0.01
    x, labels = blobs(n, 2, 3, seed=3)
    ours = probe.logistic_regression(x, labels, l2=l2, iterations=500)
    # scikit-learn fits one row w for two classes; two rows w/2 and -w/2 have half the penalty.
    theirs = LogisticRegression(C=2 / (l2 * n), tol=1e-8, max_iter=5000)
    theirs.fit(x.double().numpy(), labels.numpy())
    weight = ours.weight.detach().numpy()
    np.testing.assert_allclose(weight[1] - weight[0], theirs.coef_[0], rtol=0.01, atol=1e-3)


def digits_data(**changes: Any) -> tuple[SimSiam, InMemory, InMemory]:
    source = data.locate(None)
    config = dataclasses.replace(digits(**changes), data=source.name)
    decoded = decode(source, None)
    assert decoded is not None
    train, test = load(decoded, config, Runtime())
    assert isinstance(train, InMemory)
    assert isinstance(test, InMemory)
    return SimSiam(config), train, test


def features(model: SimSiam, images: InMemory) -> np.ndarray:
    x = F.resize(images.pixels.float(), [images.size] * 2, antialias=True).round() / 255
    with torch.no_grad():
        x = model.eval().backbone(F.normalize(x, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
        return x.double().numpy()


def test_linear_top1_of_digits_is_scikit_learns() -> None:
    model, train, test = digits_data()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = probe.linear_top1(model.train(), train, test, PROTOCOLS["small"], seed=0, checkpointer=tiny.checkpointer())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())

    scaler = StandardScaler().fit(features(model, train))
    theirs = LogisticRegression(C=1 / (1e-3 * 1437), tol=1e-6, max_iter=2000)
    theirs.fit(scaler.transform(features(model, train)), train.labels.numpy())
    expected = 100 * theirs.score(scaler.transform(features(model, test)), test.labels.numpy())
    assert 60 < expected < 99
    assert got == pytest.approx(expected, abs=100 / 360 + 1e-9)


def coloured(n: int, seed: int, *, unlabelled: int = 0) -> InMemory:
    """Three classes of plain colour under noise; the last pictures have no label."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(n) % 3
    colour = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200]])[labels].view(n, 3, 1, 1)
    noise = torch.randint(-40, 41, (n, 3, 12, 12), generator=generator)
    labels[n - unlabelled :] = -1
    return InMemory((colour + noise).to(torch.uint8), labels, 8)


def crop_protocol(kind: str, lr: float, epochs: int = 6, batch: int = 16) -> Protocol:
    return dataclasses.replace(
        PROTOCOLS["small"], probe_optimizer=kind, probe_lr=lr, probe_epochs=epochs, probe_batch=batch
    )


@pytest.mark.parametrize(("kind", "lr"), [("sgd", 10.0), ("lars", 800.0)])
def test_probe_on_crops_learns_and_leaves_the_network_alone(kind: str, lr: float) -> None:
    model = SimSiam(digits()).train()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    train, test = coloured(90, seed=0), coloured(60, seed=1)
    got = probe.linear_top1(
        model, train, test, crop_protocol(kind, lr, epochs=8), seed=0, checkpointer=tiny.checkpointer()
    )
    assert got >= 95
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("kind", ["sgd", "lbfgs"])
def test_probe_cannot_tell_noise(kind: str) -> None:
    model = SimSiam(digits())
    train, test = random_images(64, seed=0), random_images(400, seed=1)
    protocol = dataclasses.replace(crop_protocol(kind, 1.0), probe_l2=1e-3)
    assert 10 < probe.linear_top1(model, train, test, protocol, seed=0, checkpointer=tiny.checkpointer()) < 40


@pytest.mark.parametrize("kind", ["sgd", "lbfgs"])
def test_probe_learns_from_labelled_pictures_alone(kind: str) -> None:
    protocol = dataclasses.replace(crop_protocol(kind, 10.0), probe_l2=1e-3)
    # Where a missing label counted, it would be an index out of range or a class of its own.
    some = coloured(120, seed=0, unlabelled=40)
    shown = dataclasses.replace(some, pixels=some.pixels.clone())
    shown.pixels[80:] = 0
    test = coloured(60, seed=1)
    one, two = (
        probe.linear_top1(SimSiam(digits()), each, test, protocol, seed=0, checkpointer=tiny.checkpointer())
        for each in (some, shown)
    )
    assert one == two >= 95


def classifier(train: InMemory, protocol: Protocol, seed: int, checkpointer: Checkpointer | None = None) -> Tensor:
    model = SimSiam(digits()).eval().requires_grad_(False)
    return probe._train_on_crops(
        model.backbone, 64, train, protocol, seed, checkpointer or tiny.checkpointer()
    ).weight.detach()


def test_probe_on_crops_is_decided_by_its_seed() -> None:
    train, protocol = coloured(40, seed=0), crop_protocol("sgd", 1.0, epochs=2)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        one = classifier(train, protocol, seed=0)
        torch.manual_seed(2)
        assert torch.equal(classifier(train, protocol, seed=0), one)
    assert not torch.allclose(classifier(train, protocol, seed=1), one, rtol=1e-2)


@pytest.mark.parametrize("kind", ["sgd", "lars"])
@pytest.mark.parametrize("die_at", [1, 7, 8])
def test_probe_on_crops_killed_and_resumed_equals_never_killed(
    kind: str, die_at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 1)  # a checkpoint after every step
    train, protocol = coloured(40, seed=0), crop_protocol(kind, 1.0, epochs=4)  # two steps an epoch
    whole = classifier(train, protocol, seed=0)
    killed = tiny.Memory(die_at=die_at)
    with pytest.raises(KeyboardInterrupt):
        classifier(train, protocol, seed=0, checkpointer=tiny.checkpointer(place=killed, seconds=0))
    again = tiny.checkpointer(place=tiny.Memory(killed.content))
    again.resume()
    assert again.part("probe")["step"] == die_at
    assert torch.equal(classifier(train, protocol, seed=0, checkpointer=again), whole)


def test_probe_on_crops_is_sgd_with_momentum_down_a_cosine() -> None:
    # Pictures of one colour are the same under any crop and flip, and one batch is the whole set.
    colours = torch.tensor([[200, 60, 60], [60, 200, 60], [60, 60, 200], [180, 160, 20]])
    pixels = colours.view(4, 3, 1, 1).expand(4, 3, 12, 12).to(torch.uint8)
    train = InMemory(pixels, torch.tensor([0, 1, 2, 1]), 8)
    z, labels = features(SimSiam(digits()), train), np.eye(3)[train.labels]
    weight, bias = np.zeros((3, 64)), np.zeros(3)
    momentum = [np.zeros((3, 64)), np.zeros(3)]
    epochs, base_lr = 5, 20.0
    for epoch in range(epochs):
        scores = np.exp(z @ weight.T + bias)
        wrong = (scores / scores.sum(1, keepdims=True) - labels) / 4
        momentum = [0.9 * m + g for m, g in zip(momentum, (wrong.T @ z, wrong.sum(0)), strict=True)]
        lr = base_lr * 4 / 256 * (1 + np.cos(np.pi * epoch / epochs)) / 2
        weight, bias = weight - lr * momentum[0], bias - lr * momentum[1]
    got = classifier(train, crop_protocol("sgd", base_lr, epochs=epochs, batch=4096), seed=0)
    np.testing.assert_allclose(got.numpy(), weight, rtol=1e-3, atol=1e-6)


def shown(train: InMemory, *, seed: int, epochs: int, batch: int) -> Tensor:
    """The bytes that the network is shown in the training of the probe, in order."""
    seen: list[Tensor] = []

    def network(x: Tensor) -> Tensor:
        mean, std = (torch.tensor(v).view(1, 3, 1, 1) for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        seen.append(((x * std + mean) * 255).round())
        return x.flatten(1)[:, :2]

    probe._train_on_crops(network, 2, train, crop_protocol("sgd", 0.1, epochs, batch), seed, tiny.checkpointer())
    assert {len(x) for x in seen} == {batch}
    return torch.cat(seen)


def test_probe_shows_each_picture_once_an_epoch_in_another_order() -> None:
    gray = torch.arange(30, dtype=torch.uint8).view(30, 1, 1, 1).expand(30, 3, 9, 9)
    train = InMemory(gray, torch.where(torch.arange(30) % 5 == 4, -1, 0), 8)
    labelled = {i for i in range(30) if i % 5 != 4}
    orders = []
    for seed in (0, 1):
        ids = shown(train, seed=seed, epochs=3, batch=7)[:, 0, 0, 0].int().tolist()
        assert len(ids) == 3 * 21  # 24 pictures with a label fill three batches of seven
        orders += [ids[epoch * 21 :][:21] for epoch in range(3)]
    for i, order in enumerate(orders):
        assert len(set(order)) == 21
        assert set(order) < labelled
        assert order not in orders[:i]


def test_probe_shows_crops_of_the_usual_size_and_flips_half_of_them_sideways() -> None:
    # Brightness grows to the right by four a pixel, so a crop tells its width and whether it was flipped.
    ramp = (4 * torch.arange(60)).to(torch.uint8).expand(40, 3, 60, 60)
    x = shown(InMemory(ramp, torch.zeros(40, dtype=torch.int64), 16), seed=0, epochs=10, batch=20)[:, 0]
    assert (x - x[:, :1]).abs().max() <= 1
    rise = x[:, 0, 15] - x[:, 0, 0]
    assert abs(int((rise < 0).sum()) - 200) < 4 * np.sqrt(400 / 4)
    width = rise.abs() / 4 * 16 / 15
    # Areas from 8% of the picture up, ratios from 3/4, and the resampling takes a little off the ends.
    assert width.min() > 60 * np.sqrt(0.08 * 3 / 4) - 3
    assert (width < 30).float().mean() > 0.1
    assert (width > 45).float().mean() > 0.1
