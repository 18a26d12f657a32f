"""The monitors against numpy, scikit-learn and arithmetic."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from conftest import digits, random_images
from sklearn.neighbors import KNeighborsClassifier
from torch import Tensor

from simsiam import distributed, monitor
from simsiam.batch_norm import BatchNorm
from simsiam.model import SimSiam
from simsiam.protocols import PROTOCOLS

SMALL = dataclasses.replace(PROTOCOLS["small"], knn_k=5)


def gaussian(n: int, d: int, seed: int = 0) -> Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def numpy_std(z: Tensor) -> float:
    rows = [row / math.sqrt((row**2).sum()) for row in z.double().numpy()]
    d = z.shape[1]
    channels = [[row[c] for row in rows] for c in range(d)]
    spread = [math.sqrt(sum((x - sum(one) / len(one)) ** 2 for x in one) / len(one)) for one in channels]
    return math.sqrt(d) * sum(spread) / d


def numpy_rank(z: Tensor) -> float:
    rows = z.double().numpy()
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    singular = np.linalg.svd(rows - rows.mean(0), compute_uv=False)
    p = singular**2 / (singular**2).sum()
    return math.exp(-sum(x * math.log(x) for x in p if x > 0))


@pytest.mark.parametrize(("n", "d"), [(50, 7), (7, 50), (20, 20), (2, 3)])
def test_std_and_rank_are_the_formulas(n: int, d: int) -> None:
    z = gaussian(n, d) * torch.linspace(0.1, 2, d) + 0.3
    assert monitor.z_std(z) == pytest.approx(numpy_std(z), rel=1e-9)
    assert monitor.effective_rank(monitor.spectrum(z)) == pytest.approx(numpy_rank(z), rel=1e-9)


def test_isotropic_gaussian_has_std_one_and_full_rank() -> None:
    z = gaussian(20_000, 16)
    assert monitor.z_std(z) == pytest.approx(1, abs=0.01)
    assert 15.9 < monitor.effective_rank(monitor.spectrum(z)) <= 16


@pytest.mark.parametrize(("k", "d"), [(1, 10), (3, 10), (10, 10), (5, 40)])
def test_equal_eigenvalues_count_themselves(k: int, d: int) -> None:
    axes = torch.eye(d, dtype=torch.float64)[:k]
    rotation = torch.linalg.qr(gaussian(d, d)).Q
    for scale in (1.0, 100.0):
        z = scale * torch.cat([axes, -axes]) @ rotation
        assert monitor.effective_rank(monitor.spectrum(z)) == pytest.approx(k, rel=1e-9)


@pytest.mark.parametrize(("n", "d"), [(100, 8), (8, 100)])
def test_a_constant_has_neither_std_nor_rank(n: int, d: int) -> None:
    for z in (gaussian(1, d).expand(n, d), gaussian(1, d).float().expand(n, d), torch.zeros(n, d)):
        assert monitor.z_std(z) == pytest.approx(0, abs=1e-7)
        assert monitor.effective_rank(monitor.spectrum(z)) == 1.0


def test_rank_is_the_same_by_samples_and_by_channels() -> None:
    z = gaussian(20, 12)
    padded = torch.cat([z, torch.zeros(20, 40)], dim=1)
    assert monitor.effective_rank(monitor.spectrum(padded)) == pytest.approx(
        monitor.effective_rank(monitor.spectrum(z)), rel=1e-9
    )


def test_length_of_z_says_nothing() -> None:
    z = gaussian(30, 6)
    longer = z * torch.linspace(0.01, 100, 30).view(-1, 1)
    assert monitor.z_std(longer) == pytest.approx(monitor.z_std(z), rel=1e-9)
    assert monitor.effective_rank(monitor.spectrum(longer)) == pytest.approx(
        monitor.effective_rank(monitor.spectrum(z)), rel=1e-9
    )


def clustered(n: int, seed: int, classes: int = 10, d: int = 12) -> tuple[Tensor, Tensor]:
    labels = torch.randint(0, classes, (n,), generator=torch.Generator().manual_seed(seed))
    return gaussian(classes, d, seed=99)[labels] + 1.2 * gaussian(n, d, seed=seed), labels


@pytest.mark.parametrize(("k", "temperature"), [(1, 0.1), (20, 0.1), (20, 0.02), (200, 0.2), (200, 0.5)])
def test_knn_is_scikit_learns(k: int, temperature: float) -> None:
    (bank, bank_labels), (features, labels) = clustered(600, 1), clustered(1500, 2)
    theirs = KNeighborsClassifier(
        k, metric="cosine", algorithm="brute", weights=lambda distance: np.exp((1 - distance) / temperature)
    )
    theirs.fit(bank.numpy(), bank_labels.numpy())
    expected = 100 * theirs.score(features.numpy(), labels.numpy())
    assert 30 < expected < 99
    got = monitor.knn_top1(bank, bank_labels, features, labels, k=k, temperature=temperature)
    assert got == pytest.approx(expected, abs=1e-9)


def test_knn_weighs_votes() -> None:
    bank = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    labels = torch.tensor([0, 1, 1])
    near_the_first = torch.tensor([[1.0, 0.2]])

    def right(wanted: int, temperature: float) -> float:
        answer = torch.tensor([wanted])
        return monitor.knn_top1(bank, labels, near_the_first, answer, k=3, temperature=temperature)

    assert (right(0, 0.1), right(1, 0.1)) == (100, 0)
    assert (right(0, 100.0), right(1, 100.0)) == (0, 100)


def test_knn_of_a_small_bank_and_of_a_class_never_seen() -> None:
    bank, labels = torch.eye(3), torch.arange(3)
    wanted = torch.tensor([0, 1, 7, 2])
    features = torch.cat([torch.eye(3), torch.eye(3)[2:]])
    assert monitor.knn_top1(bank, labels, features, wanted, k=200, temperature=0.01) == 75


@pytest.mark.parametrize(
    ("loss", "std", "rank", "expected"),
    [
        (-0.9, 1.0, 50.0, "finished"),
        (-1.0, 0.0199999, 50.0, "collapsed"),
        (-1.0, 0.02, 50.0, "finished"),
        (-1.0, 0.5, 2.99999, "collapsed"),
        (-1.0, 0.5, 3.0, "finished"),
        (-1.0, 0.0, 1.0, "collapsed"),
        (math.nan, 1.0, 50.0, "diverged"),
        (math.inf, 1.0, 50.0, "diverged"),
        (-math.inf, 0.0, 1.0, "diverged"),
        (math.nan, math.nan, math.nan, "diverged"),
    ],
)
def test_outcome(loss: float, std: float, rank: float, expected: str) -> None:
    assert monitor.outcome(loss, std, rank, highest_rank=64) == expected


@pytest.mark.parametrize(
    ("highest", "rank", "expected"),
    [(2, 1.2, "finished"), (3, 1.4, "collapsed"), (4, 2.1, "finished"), (6, 2.9, "collapsed"), (6, 3.1, "finished")],
)
def test_a_rank_that_cannot_be_reached_is_not_asked_for(highest: int, rank: float, expected: str) -> None:
    assert monitor.outcome(-0.5, 0.9, rank, highest_rank=highest) == expected


@pytest.mark.parametrize(("std", "rank"), [(math.nan, 50.0), (1.0, math.nan), (math.nan, math.nan)])
def test_an_outcome_without_a_measurement_is_not_finished(std: float, rank: float) -> None:
    assert monitor.outcome(-0.5, std, rank, highest_rank=64) != "finished"


def trained_model() -> SimSiam:
    """A small network whose BN statistics are not those of a fresh one."""
    model = SimSiam(digits(width=4, dim=16, projector_hidden=16, predictor_hidden=4, batch_size=8))
    generator = torch.Generator().manual_seed(5)
    for _ in range(3):
        model(torch.randn(2, 8, 3, 8, 8, generator=generator) + 0.5)
    return model


def normalised(pixels: Tensor) -> Tensor:
    return F.normalize(pixels.float() / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_measure_is_of_the_whole_test_set_in_eval_mode(training: bool, dtype: torch.dtype) -> None:
    model = trained_model().to(dtype).train(training)
    # A crop of the size of the pictures is the pictures. More than one batch of an evaluation, and odd.
    train, test = random_images(301, seed=1, size=8), random_images(519, seed=2, size=8)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    got = monitor.measure(model, train, test, SMALL)
    assert all(module.training == training for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.requires_grad and p.grad is None for p in model.parameters())

    model.eval()
    with torch.no_grad():
        bank, features = (model.backbone(normalised(x.pixels).to(dtype)) for x in (train, test))
        z = model.projector(features)
    assert got["z_std"] == pytest.approx(numpy_std(z), rel=1e-4)
    assert got["effective_rank"] == pytest.approx(numpy_rank(z), rel=1e-4)
    theirs = KNeighborsClassifier(5, metric="cosine", weights=lambda distance: np.exp((1 - distance) / 0.1))
    theirs.fit(bank.numpy(), train.labels.numpy())
    right = 100 * theirs.score(features.numpy(), test.labels.numpy())
    # A near tie between neighbours may fall either way.
    assert got["knn_top1"] == pytest.approx(right, abs=100 * 3 / 519)
    assert tuple(got) == monitor.MEASURED
    centred = z.double().numpy() / np.linalg.norm(z.double().numpy(), axis=1, keepdims=True)
    singular = np.linalg.svd(centred - centred.mean(0), compute_uv=False) / math.sqrt(519)
    np.testing.assert_allclose(got["z_singular_values"], singular, rtol=1e-3, atol=1e-6)
    with torch.no_grad():
        similar = torch.nn.CosineSimilarity()(model.predictor(z), z)
    assert got["predictor_identity"] == pytest.approx(1 - float(similar.mean()), abs=1e-5)
    assert got["knn_train_top1"] is None


def test_knn_among_the_training_pictures_leaves_each_out_of_its_own_neighbours() -> None:
    model = trained_model().double().eval()
    train, test = random_images(301, seed=1, size=8), random_images(40, seed=2, size=8)
    got = monitor.measure(model, train, test, SMALL, last=0)
    bank = torch.nn.functional.normalize(monitor.embed(model.features, train, SMALL.crop)[0], dim=1).numpy()
    cosine = bank @ bank.T
    np.fill_diagonal(cosine, -np.inf)
    right = 0
    for i, row in enumerate(cosine):
        near = np.argsort(-row, kind="stable")[:5]
        votes = np.bincount(train.labels.numpy()[near], weights=np.exp(row[near] / 0.1))
        right += votes.argmax() == int(train.labels[i])
    assert got["knn_train_top1"] == pytest.approx(100 * right / 301, abs=1e-9)


def test_of_many_training_pictures_some_are_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(monitor, "_QUERIES", 50)
    asked: list[Tensor] = []
    real = monitor.knn_top1

    def knn(*args: Tensor, own: Tensor | None = None, **more: float) -> float:
        asked.extend([] if own is None else [own])
        return real(*args, own=own, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(monitor, "knn_top1", knn)
    images = random_images(301, seed=1, size=8), random_images(40, seed=2, size=8)
    for seed in (0, 0, 1):
        monitor.measure(trained_model().eval(), *images, SMALL, last=seed)
    assert [len(own.unique()) for own in asked] == [50] * 3
    assert torch.equal(asked[0], asked[1])
    assert not torch.equal(asked[0], asked[2])


def test_without_a_predictor_nothing_is_said_of_it() -> None:
    model = SimSiam(digits(width=4, dim=16, projector_hidden=16, predictor="none", batch_size=8))
    got = monitor.measure(model, random_images(40, seed=1), random_images(40, seed=2), SMALL)
    assert got["predictor_identity"] is None


def test_at_most_64_singular_values_are_kept_and_they_fall() -> None:
    values = monitor.singular_values(monitor.spectrum(gaussian(300, 100)))
    assert values is not None
    assert len(values) == 64
    assert values == sorted(values, reverse=True)


def test_measure_leaves_the_pictures_without_label_out_of_the_bank() -> None:
    model, test = trained_model(), random_images(40, seed=2, size=8)
    train = random_images(60, seed=1, size=8)
    half = dataclasses.replace(train, labels=torch.where(torch.arange(60) < 30, train.labels, -1))
    alone = dataclasses.replace(train, pixels=train.pixels[:30], labels=train.labels[:30])
    assert monitor.measure(model, half, test, SMALL) == monitor.measure(model, alone, test, SMALL)


@pytest.mark.parametrize(("crop", "low", "high"), [(1.0, 0, 8), (0.5, 2, 6), (0.75, 1, 7)])
def test_embed_is_of_every_central_crop_in_order(crop: float, low: int, high: int) -> None:
    images = random_images(600, seed=3, size=high - low)
    got, labels = monitor.embed(lambda x: x.flatten(1), images, crop)
    assert torch.equal(labels, images.labels)
    expected = normalised(images.pixels)[:, :, low:high, low:high].flatten(1)
    torch.testing.assert_close(got, expected, atol=1e-5, rtol=0)


def test_embed_drops_the_pictures_without_label() -> None:
    images = random_images(5, seed=0, size=8)
    images = dataclasses.replace(images, labels=torch.tensor([2, -1, 0, -1, 1]))
    features, labels = monitor.embed(lambda x: x.flatten(1), images, 1.0)
    assert labels.tolist() == [2, 0, 1]
    torch.testing.assert_close(features, normalised(images.pixels)[[0, 2, 4]].flatten(1), atol=1e-5, rtol=0)


@pytest.mark.parametrize("workers", [1, 3, 4, 7])
def test_workers_share_whole_batches_of_an_evaluation(workers: int, monkeypatch: pytest.MonkeyPatch) -> None:
    images = random_images(1437, seed=0)  # five batches and a rest: of seven workers, one has nothing
    monkeypatch.setattr(distributed, "world_size", lambda: workers)
    shares = []
    for rank in range(workers):
        monkeypatch.setattr(distributed, "rank", lambda rank=rank: rank)
        shares.append(monitor.labelled(images))
    assert np.concatenate(shares).tolist() == list(range(1437))
    assert all(len(ids) == 0 or ids[0] % 256 == 0 for ids in shares)
    assert max(map(len, shares)) <= 256 * math.ceil(6 / workers)


def test_the_nearest_are_those_of_the_parts_of_the_bank_also_among_equals() -> None:
    generator = torch.Generator().manual_seed(0)
    cosine = torch.randint(-3, 4, (50, 90), generator=generator) / 4  # 13 of each value: the 20th has many equals
    labels = torch.arange(90)
    by_hand = [sorted(sorted(range(90), key=lambda i: (-row[i], i))[:20]) for row in cosine.tolist()]
    whole = monitor._nearest(cosine, labels, 20)
    assert whole[1].tolist() == by_hand
    assert torch.equal(whole[0], cosine.gather(1, whole[1]))
    parts = [monitor._nearest(cosine[:, a:b], labels[a:b], 20) for a, b in ((0, 0), (0, 5), (5, 90))]
    merged = monitor._nearest(*(torch.cat(each, 1) for each in zip(*parts, strict=True)), 20)
    assert all(torch.equal(a, b) for a, b in zip(merged, whole, strict=True))


def test_a_network_that_blew_up_is_measured_not_a_crash() -> None:
    model = trained_model()
    with torch.no_grad():
        model.projector[0].weight.fill_(math.inf)
    got = monitor.measure(model, random_images(40, seed=1), random_images(40, seed=2), SMALL)
    assert monitor.outcome(-0.5, got["z_std"], got["effective_rank"], highest_rank=64) == "diverged"
    assert got["z_singular_values"] is None


def test_the_model_of_these_tests_has_moved_statistics() -> None:
    norms = [module for module in trained_model().modules() if isinstance(module, BatchNorm)]
    assert all(norm.running_var.sub(1).abs().max() > 1e-3 for norm in norms)


def test_roughness_is_the_mean_step_of_the_second_half() -> None:
    assert monitor.roughness([9.0, 9.0, -0.5, -0.7, -0.4]) == pytest.approx((0.2 + 0.3) / 2)
    assert monitor.roughness([-0.5, -0.6]) is None
    assert math.isnan(monitor.roughness([0.0, 0.0, math.nan, 0.0]) or 0.0)
