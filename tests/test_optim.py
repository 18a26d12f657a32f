"""The learning rate against torch's scheduler and formulas, LARS against lightly's and a loop by hand."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from conftest import digits
from lightly.utils import lars
from torch import Tensor, nn

from simsiam import optim
from simsiam.model import SimSiam


def test_lr_scales_with_the_batch() -> None:
    assert optim.lr(digits(base_lr=0.05, batch_size=512), "encoder", 0.0) == 0.1
    assert optim.lr(digits(base_lr=0.05, batch_size=64), "predictor", 0.0) == 0.0125


def test_encoder_follows_torchs_cosine_step_by_step() -> None:
    config, steps = digits(epochs=3, base_lr=0.5, batch_size=128), 7
    sgd = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.25)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(sgd, T_max=3 * steps)
    rates = []
    for step in range(3 * steps):
        rates.append(sgd.param_groups[0]["lr"])
        assert optim.lr(config, "encoder", step / steps) == pytest.approx(rates[-1], rel=1e-9)
        sgd.step()
        theirs.step()
    assert rates == sorted(set(rates), reverse=True)


@pytest.mark.parametrize("epoch", [0.0, 0.25, 1.0, 2.0, 2.5, 2.9999])
def test_warm_up_is_linear(epoch: float) -> None:
    config = digits(epochs=10, warmup_epochs=3.0, base_lr=0.5, batch_size=256)
    assert optim.lr(config, "encoder", epoch) == pytest.approx(0.5 * epoch / 3, abs=1e-12)


@pytest.mark.parametrize("epoch", [3.0, 3.5, 6.5, 9.0, 9.99, 10.0])
def test_after_the_warm_up_the_cosine_is_over_what_is_left(epoch: float) -> None:
    config = digits(epochs=10, warmup_epochs=3.0, base_lr=0.5, batch_size=256)
    expected = 0.25 * (1 + math.cos(math.pi * (epoch - 3) / 7))
    assert optim.lr(config, "encoder", epoch) == pytest.approx(expected, abs=1e-12)


def test_predictor_is_constant_or_cosine_and_never_warmed_up() -> None:
    for warmup in (0.0, 3.0):
        given: dict[str, Any] = dict(epochs=10, warmup_epochs=warmup, base_lr=0.5, batch_size=256)
        for epoch in (0.0, 1.0, 2.9, 3.0, 7.7, 10.0):
            assert optim.lr(digits(predictor_lr="constant", **given), "predictor", epoch) == 0.5
            cosine = 0.25 * (1 + math.cos(math.pi * epoch / 10))
            got = optim.lr(digits(predictor_lr="cosine", **given), "predictor", epoch)
            assert got == pytest.approx(cosine, abs=1e-12)


def test_set_lr_gives_each_group_its_own() -> None:
    config = digits(epochs=10, warmup_epochs=4.0, base_lr=0.5, batch_size=256, predictor_lr="constant")
    optimizer = optim.optimizer(SimSiam(config), config)
    for epoch, encoder in ((1.0, 0.125), (7.0, 0.25)):
        optim.set_lr(optimizer, config, epoch)
        rates = {group["name"]: group["lr"] for group in optimizer.param_groups}
        assert rates == {"encoder": pytest.approx(encoder), "predictor": 0.5}


@pytest.mark.parametrize("kind", ["sgd", "lars"])
@pytest.mark.parametrize("predictor", ["mlp", "frozen", "none"])
@pytest.mark.parametrize("batch_norm", ["default", "none"])
def test_groups_hold_each_trained_parameter_once(kind: str, predictor: str, batch_norm: str) -> None:
    given: dict[str, Any] = dict(optimizer=kind, momentum=0.8, weight_decay=0.03)
    config = digits(predictor=predictor, batch_norm=batch_norm, **given)
    model = SimSiam(config)
    optimizer = optim.optimizer(model, config)
    assert type(optimizer) is {"sgd": torch.optim.SGD, "lars": optim.LARS}[kind]
    groups = {group["name"]: group for group in optimizer.param_groups}
    expected = {"encoder": [*model.backbone.parameters(), *model.projector.parameters()]}
    if predictor == "mlp":
        expected["predictor"] = list(model.predictor.parameters())
    assert groups.keys() == expected.keys()
    for name, parameters in expected.items():
        held = [id(p) for p in groups[name]["params"]]
        assert len(held) == len(set(held))
        assert set(held) == {id(p) for p in parameters}
        assert groups[name]["momentum"] == 0.8
        assert groups[name]["weight_decay"] == 0.03
    assert sum(len(group["params"]) for group in groups.values()) == len(
        [p for p in model.parameters() if p.requires_grad]
    )


def test_weight_decay_shrinks_every_parameter_bn_and_biases_included() -> None:
    config = digits(weight_decay=0.1, base_lr=0.5, batch_size=256, momentum=0.0)
    model = SimSiam(config)
    with torch.no_grad():
        for p in model.parameters():
            p.fill_(2.0)
            p.grad = torch.zeros_like(p)
    optim.optimizer(model, config).step()
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), torch.full_like(p, 2.0 - 0.5 * 0.1 * 2.0), msg=name)


def starts() -> list[nn.Parameter]:
    """A matrix, a kernel, a scale, and a bias at zero."""
    generator = torch.Generator().manual_seed(0)
    shapes = [(4, 5), (2, 3, 3, 3), (6,)]
    drawn = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    return [nn.Parameter(x) for x in [*drawn, torch.zeros(7, dtype=torch.float64)]]


def gradients(step: int, parameters: list[nn.Parameter]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(100 + step)
    return [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in parameters]


def test_lars_without_weight_decay_is_lightlys() -> None:
    ours, theirs = starts(), starts()
    one = optim.LARS(ours, lr=0.3, momentum=0.9)
    # lightly's scales a tensor only if it has weight decay; this much of it changes nothing else.
    two = lars.LARS(theirs, lr=0.3, momentum=0.9, weight_decay=1e-14, eps=0.0)
    for step in range(6):
        for optimizer in (one, two):
            optimizer.param_groups[0]["lr"] = 0.3 / (1 + step)
        for parameters in (ours, theirs):
            for p, grad in zip(parameters, gradients(step, parameters), strict=True):
                p.grad = grad
        one.step()
        two.step()
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)
    assert all((p - q).abs().min() > 0 for p, q in zip(ours, starts(), strict=True))


def test_lars_is_the_loop_of_its_formula() -> None:
    lr, momentum, decay, trust = 0.7, 0.9, 0.2, 0.01
    ours = starts()
    optimizer = optim.LARS(ours, lr=lr, momentum=momentum, weight_decay=decay, trust=trust)
    weights = [p.detach().numpy().copy() for p in ours]
    buffers = [np.zeros_like(w) for w in weights]
    for step in range(5):
        for i, (p, grad) in enumerate(zip(ours, gradients(step, ours), strict=True)):
            p.grad = grad
            update = grad.numpy() + decay * weights[i]
            w_norm, g_norm = math.sqrt((weights[i] ** 2).sum()), math.sqrt((grad.numpy() ** 2).sum())
            scale = trust * w_norm / (g_norm + decay * w_norm) if w_norm > 0 else 1.0
            buffers[i] = momentum * buffers[i] + scale * update
            weights[i] = weights[i] - lr * buffers[i]
        optimizer.step()
        for p, expected in zip(ours, weights, strict=True):
            np.testing.assert_allclose(p.detach().numpy(), expected, rtol=1e-12)


def test_lars_with_weight_decay_is_lightlys() -> None:
    ours, theirs = starts()[:1], starts()[:1]
    one = optim.LARS(ours, lr=0.3, momentum=0.9, weight_decay=0.5)
    two = lars.LARS(theirs, lr=0.3, momentum=0.9, weight_decay=0.5, eps=0.0)
    ours[0].grad = theirs[0].grad = gradients(0, ours)[0]
    one.step()
    two.step()
    torch.testing.assert_close(ours[0], theirs[0], rtol=1e-10, atol=1e-12)


def test_lars_leaves_a_zero_weight_with_a_zero_gradient() -> None:
    p = nn.Parameter(torch.zeros(3))
    p.grad = torch.zeros(3)
    optim.LARS([p], lr=1.0, weight_decay=0.1).step()
    assert torch.equal(p.detach(), torch.zeros(3))


def test_lars_resumes_from_its_state() -> None:
    whole, half = starts(), starts()
    one, two = optim.LARS(whole, lr=0.3), optim.LARS(half, lr=0.3)
    for step in range(4):
        if step == 2:
            state = two.state_dict()
            two = optim.LARS(half, lr=0.3)
            two.load_state_dict(state)
        for parameters in (whole, half):
            for p, grad in zip(parameters, gradients(step, parameters), strict=True):
                p.grad = grad
        one.step()
        two.step()
    assert all(torch.equal(a, b) for a, b in zip(whole, half, strict=True))
