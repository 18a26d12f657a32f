"""What a relative's gradient goes through, by a network of its own for what has none; and that all of it is trained."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from test_relatives import built, config, run, science
from torch import Tensor

from simsiam import loader, method, optim
from simsiam.relatives import simclr, swav

VIEWS = torch.randn(2, 64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


def gradients(losses: Tensor, of: method.Method) -> list[Tensor]:
    of.zero_grad()
    losses.mean().backward()
    return [p.grad.clone() if p.grad is not None else torch.zeros(()) for p in of.parameters()]


def of_simclr(ours: Any, targets: Any) -> Tensor:
    p, _ = ours.model(VIEWS)
    _, z = targets.model(VIEWS)
    return simclr.nt_xent(p, z, 0.5)


def of_swav(ours: Any, targets: Any) -> Tensor:
    def scores(of: Any, output: int) -> list[Tensor]:
        prototypes = F.normalize(of.prototypes.weight, dim=1)
        return [F.normalize(each, dim=1) @ prototypes.T for each in of.model(VIEWS)[output]]

    predicted = scores(ours, 0)
    codes = [swav.sinkhorn(each) for each in scores(targets, 1)]
    pairs = zip(codes, reversed(predicted), strict=True)
    return torch.stack([-(code * F.log_softmax(score / 0.5, 1)).sum(1) for code, score in pairs]).mean(0)


@pytest.mark.parametrize("stop_gradient", [True, False])
@pytest.mark.parametrize(("name", "loss"), [("simclr", of_simclr), ("swav", of_swav)], ids=["simclr", "swav"])
def test_the_stop_gradient_is_what_another_network_without_a_gradient_does(
    name: str, loss: Any, stop_gradient: bool
) -> None:
    ours = built(config(name, stop_gradient=stop_gradient, predictor="mlp", temperature=0.5))
    apart = copy.deepcopy(ours).requires_grad_(False)
    found = gradients(ours(VIEWS), ours)
    stopped, whole = gradients(loss(ours, apart), ours), gradients(loss(ours, ours), ours)
    torch.testing.assert_close(found, stopped if stop_gradient else whole)
    other = whole if stop_gradient else stopped
    assert any(not torch.allclose(*each) for each in zip(found, other, strict=True))


@pytest.mark.parametrize("name", ["swav", "supervised"])
def test_what_a_method_has_of_its_own_is_trained_at_the_encoders_rate(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, real = list[torch.optim.Optimizer](), optim.optimizer
    monkeypatch.setattr(optim, "optimizer", lambda *args: made.append(real(*args)) or made[-1])
    of = config(name, epochs=1)
    run(of)
    start = built(of)
    inside = {id(p) for p in start.model.parameters()}
    own = [p for p in start.parameters() if id(p) not in inside]
    (encoder,) = (group["params"] for group in made[0].param_groups if group["name"] == "encoder")
    its = encoder[-len(own) :]
    assert [p.shape for p in its] == [p.shape for p in own] != []
    assert not any(torch.equal(*each) for each in zip(its, own, strict=True))


def test_an_epoch_drawn_in_chunks_is_the_epoch(monkeypatch: pytest.MonkeyPatch) -> None:
    of = config("moco", epochs=2, precision="float32")  # the order of its keys is drawn for each step
    whole = science(run(of)[1])
    for pictures in (1, 128):  # one step a chunk, and two
        monkeypatch.setattr(loader, "CHUNK", pictures)
        assert science(run(of)[1]) == whole
