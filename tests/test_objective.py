"""The loss against formulas written out with loops, and the switches by the gradients they leave."""

from __future__ import annotations

import math

import lightly.loss
import numpy as np
import numpy.typing as npt
import pytest
import torch
from conftest import digits
from torch import Tensor

from simsiam import objective

Rows = npt.NDArray[np.float64]


def random_rows(n: int, seed: int, rows: int = 5, channels: int = 7) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shape = (rows, channels)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(n)]


def array(x: Tensor) -> Rows:
    return x.detach().double().numpy()


def negative_cosine(p: Rows, z: Rows) -> list[float]:
    return [
        -sum(a * b for a, b in zip(one, two, strict=True))
        / (math.sqrt(sum(a * a for a in one)) * math.sqrt(sum(b * b for b in two)))
        for one, two in zip(p, z, strict=True)
    ]


def soft_cross_entropy(p: Rows, z: Rows) -> list[float]:
    values = []
    for one, two in zip(p, z, strict=True):
        of_one, of_two = sum(math.exp(a) for a in one), sum(math.exp(b) for b in two)
        terms = (math.exp(b) / of_two * math.log(math.exp(a) / of_one) for a, b in zip(one, two, strict=True))
        values.append(-sum(terms))
    return values


BY_HAND = {"cosine": negative_cosine, "cross_entropy": soft_cross_entropy}


@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
def test_d_is_the_formula(similarity: str) -> None:
    p, z = random_rows(2, seed=1)
    got = array(objective.D(p, z, similarity))
    assert got.shape == (5,)
    np.testing.assert_allclose(got, BY_HAND[similarity](array(p), array(z)), rtol=1e-12)


def test_d_is_cosine_unless_told() -> None:
    p, z = random_rows(2, seed=2)
    np.testing.assert_allclose(array(objective.D(p, z)), negative_cosine(array(p), array(z)), rtol=1e-12)


def test_cosine_is_the_one_of_lightly() -> None:
    p, z = random_rows(2, seed=3, rows=33, channels=64)
    expected = lightly.loss.NegativeCosineSimilarity()(p, z)
    torch.testing.assert_close(objective.D(p, z).mean(), expected, rtol=1e-12, atol=0)


def test_cosine_has_its_extremes_and_minds_no_length() -> None:
    z = random_rows(1, seed=4)[0].detach()
    torch.testing.assert_close(objective.D(3 * z, z), -torch.ones(5, dtype=torch.float64))
    torch.testing.assert_close(objective.D(-0.1 * z, z), torch.ones(5, dtype=torch.float64))


def test_cross_entropy_survives_large_values() -> None:
    p = torch.tensor([[1e4, 0.0]])
    z = torch.tensor([[0.0, 1e4]])
    assert objective.D(p, z, "cross_entropy").item() == 1e4


@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
def test_symmetric_loss_is_the_mean_of_two_directions(similarity: str) -> None:
    (p1, p2), (z1, z2) = random_rows(2, seed=5), random_rows(2, seed=6)
    by_hand = BY_HAND[similarity]
    one, two = by_hand(array(p1), array(z2)), by_hand(array(p2), array(z1))
    expected = [a / 2 + b / 2 for a, b in zip(one, two, strict=True)]
    got = objective.loss([p1, p2], [z1, z2], digits(similarity=similarity))
    np.testing.assert_allclose(array(got), expected, rtol=1e-12)


@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
def test_asymmetric_loss_is_one_direction(similarity: str) -> None:
    (p1, p2), (z1, z2) = random_rows(2, seed=7), random_rows(2, seed=8)
    got = objective.loss([p1, p2], [z1, z2], digits(symmetric=False, similarity=similarity))
    np.testing.assert_allclose(array(got), BY_HAND[similarity](array(p1), array(z2)), rtol=1e-12)


def test_asymmetric_two_pairs_are_two_directions_of_four_views() -> None:
    p, z = random_rows(4, seed=9), random_rows(4, seed=10)
    one, two = negative_cosine(array(p[0]), array(z[1])), negative_cosine(array(p[2]), array(z[3]))
    expected = [a / 2 + b / 2 for a, b in zip(one, two, strict=True)]
    got = objective.loss(p, z, digits(symmetric=False, pairs_per_image=2))
    np.testing.assert_allclose(array(got), expected, rtol=1e-12)


def test_symmetric_two_pairs_never_cross() -> None:
    p, z = random_rows(4, seed=11), random_rows(4, seed=12)
    pairs = [(0, 1), (1, 0), (2, 3), (3, 2)]
    expected = np.mean([negative_cosine(array(p[i]), array(z[j])) for i, j in pairs], axis=0)
    got = objective.loss(p, z, digits(pairs_per_image=2))
    np.testing.assert_allclose(array(got), expected, rtol=1e-12)


@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
@pytest.mark.parametrize(("symmetric", "targets"), [(True, [0, 1]), (False, [1])])
def test_stop_gradient_spares_z(symmetric: bool, targets: list[int], similarity: str) -> None:
    for stop in (True, False):
        p, z = random_rows(2, seed=13), random_rows(2, seed=14)
        config = digits(stop_gradient=stop, symmetric=symmetric, similarity=similarity)
        objective.loss(p, z, config).sum().backward()
        for view, target in enumerate(z):
            if stop or view not in targets:
                assert target.grad is None
            else:
                assert target.grad is not None
                assert (target.grad.abs().sum(1) > 1e-3).all()
        for view, prediction in enumerate(p):
            assert (prediction.grad is not None) == (symmetric or view == 0)


def test_gradient_of_cosine_to_p_is_the_formula() -> None:
    (p1, p2), (z1, z2) = random_rows(2, seed=15), random_rows(2, seed=16)
    objective.loss([p1, p2], [z1, z2], digits()).sum().backward()
    for p, z in ((p1, z2), (p2, z1)):
        length = np.linalg.norm(array(p), axis=1, keepdims=True)
        one, two = array(p) / length, array(z) / np.linalg.norm(array(z), axis=1, keepdims=True)
        expected = -0.5 * (two - (one * two).sum(1, keepdims=True) * one) / length
        assert p.grad is not None
        np.testing.assert_allclose(array(p.grad), expected, rtol=1e-10, atol=1e-14)


def test_gradient_of_cross_entropy_to_p_is_a_difference_of_softmaxes() -> None:
    (p1, p2), (z1, z2) = random_rows(2, seed=17), random_rows(2, seed=18)
    objective.loss([p1, p2], [z1, z2], digits(similarity="cross_entropy")).sum().backward()
    for p, z in ((p1, z2), (p2, z1)):
        one, two = (np.exp(array(x)) / np.exp(array(x)).sum(1, keepdims=True) for x in (p, z))
        assert p.grad is not None
        np.testing.assert_allclose(array(p.grad), (one - two) / 2, rtol=1e-10, atol=1e-14)


def test_without_predictor_stop_gradient_halves_the_symmetric_gradient() -> None:
    gradients = []
    for stop in (True, False):
        z = random_rows(2, seed=19)
        objective.loss(z, z, digits(predictor="none", stop_gradient=stop)).sum().backward()
        gradients.append([x.grad for x in z])
    for half, full in zip(*gradients, strict=True):
        assert full.abs().max() > 1e-3
        torch.testing.assert_close(2 * half, full, rtol=1e-12, atol=1e-14)


def test_with_a_predictor_stop_gradient_changes_the_direction() -> None:
    gradients = []
    for stop in (True, False):
        z = random_rows(2, seed=20)
        weight = random_rows(1, seed=21, rows=7)[0].detach()
        objective.loss([x @ weight for x in z], z, digits(stop_gradient=stop)).sum().backward()
        gradients.append(torch.cat([x.grad.flatten() for x in z if x.grad is not None]))
    assert torch.cosine_similarity(*gradients, dim=0) < 0.99


@pytest.mark.parametrize(
    ("given", "expected"),
    [(torch.bfloat16, torch.float32), (torch.float32, torch.float32), (torch.float64, torch.float64)],
)
@pytest.mark.parametrize("similarity", ["cosine", "cross_entropy"])
def test_loss_is_float32_or_wider(given: torch.dtype, expected: torch.dtype, similarity: str) -> None:
    p, z = ([x.detach().to(given) for x in random_rows(2, seed=seed, channels=512)] for seed in (22, 23))
    got = objective.loss(p, z, digits(similarity=similarity))
    assert got.dtype == expected
    by_hand = BY_HAND[similarity]
    one, two = by_hand(array(p[0]), array(z[1])), by_hand(array(p[1]), array(z[0]))
    # Arithmetic in bfloat16 would be off by about 4e-3.
    np.testing.assert_allclose(array(got), [(a + b) / 2 for a, b in zip(one, two, strict=True)], atol=2e-6)
