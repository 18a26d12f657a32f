"""Sec. 5.2: the alternation of two sub-problems, and the expectation by a moving average."""

from __future__ import annotations

import copy
from typing import Any

import numpy as np
import pytest
import tiny
import torch
from test_relatives import built, config, run, science

from ablations import catalogue, planning
from ablations import trial as trials
from simsiam import data, optim, pretrain
from simsiam.config import Config, Runtime


def test_an_alternation_of_one_step_is_simsiam_bit_for_bit(monkeypatch: pytest.MonkeyPatch) -> None:
    states = []
    for of in (unchecked(config("alternation", epochs=2), eta_steps=1), tiny.config(**SMALL_OF_SIMSIAM)):
        decoded = trials.shared(data.locate(None), [of])[of.train_images]
        images = trials.loader.load(decoded, of, Runtime())  # type: ignore[arg-type]
        model, progress = pretrain.pretrain(
            of, Runtime(), *images, checkpointer=tiny.checkpointer(of), on_epoch=lambda line: None
        )
        states.append((science(progress.curve), model.state_dict()))
    assert states[0][0] == states[1][0]
    for name, value in states[1][1].items():  # running statistics included
        assert torch.equal(states[0][1][name], value), name


SMALL_OF_SIMSIAM = {"precision": "float64", "batch_size": 64, "epochs": 2}


def unchecked(of: Config, **changes: Any) -> Config:
    """A Config as it stands, where a checked one would be spelled as SimSiam."""
    changed = copy.copy(of)
    for name, value in changes.items():
        object.__setattr__(changed, name, value)
    return changed


def test_what_is_simsiam_has_simsiams_spelling() -> None:
    plain, none = tiny.config(**SMALL_OF_SIMSIAM), tiny.config(**SMALL_OF_SIMSIAM, predictor="none")
    assert config("alternation", eta_steps=1, epochs=2) == plain
    assert config("expectation", eta_momentum=0.0, epochs=2) == none
    other = config("expectation", eta_momentum=0.0, epochs=2, similarity="cross_entropy")
    assert other.method == "expectation"  # softmax(z / ||z||) is not softmax(z)


def test_the_first_step_of_a_cycle_is_the_first_with_new_weights() -> None:
    of = config("alternation", eta_steps=10)
    ours, x = built(of), torch.randn(2, 64, 3, 8, 8, dtype=torch.float64)
    optimizer, used = optim.optimizer(ours.model, of), []
    start = [p.clone() for p in ours.model.parameters()]
    for step in range(1, 22):
        used.append([p.clone() for p in ours.eta.parameters()])  # by step number `step`
        if step in (11, 21):
            now = list(ours.model.parameters())
            assert all(torch.equal(a, b) for a, b in zip(used[-1], now, strict=True))
        pretrain.train_step(ours, optimizer, x, of)
        ours.update(step, 100)
    same = [all(torch.equal(a, b) for a, b in zip(each, start, strict=True)) for each in used]
    assert same == [True] * 10 + [False] * 11
    changes = [
        n + 1 for n in range(1, 21) if any(not torch.equal(a, b) for a, b in zip(used[n - 1], used[n], strict=True))
    ]
    assert changes == [11, 21]


def test_an_expectation_with_momentum_0_is_no_predictor() -> None:
    none = science(run(tiny.config(**SMALL_OF_SIMSIAM, predictor="none"))[1])
    found = science(run(unchecked(config("expectation", epochs=2), eta_momentum=0.0))[1])
    np.testing.assert_allclose(found, none, rtol=1e-9)


@pytest.mark.parametrize("start", ["first", "zero"])
@pytest.mark.parametrize("normalised", [True, False])
def test_an_expectation_is_a_moving_average_of_each_picture(normalised: bool, start: str) -> None:
    of = config("expectation", eta_momentum=0.75, eta_normalised=normalised, eta_start=start)
    ours = built(of)
    ids, seen = torch.arange(64), []

    def unit(z: torch.Tensor) -> torch.Tensor:
        return z / (z * z).sum(1, keepdim=True).sqrt() if normalised else z

    for step in range(3):
        x = torch.randn(2, 64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(step))
        with torch.no_grad():
            z = [unit(each) for each in copy.deepcopy(ours.model)(x)[1]]
            seen.append((z[0] + z[1]) / 2)
            ours(x, ids)
        ours.update(step + 1, 9)
    first = seen[0] if start == "first" else 0.25 * seen[0]  # 0.75 of nothing besides
    expected = unit(0.75 * unit(0.75 * unit(first) + 0.25 * seen[1]) + 0.25 * seen[2])
    torch.testing.assert_close(ours.averages[:64], expected)
    assert not ours.averages[64:].any()


def test_averages_that_no_memory_holds_are_refused() -> None:
    (trial,) = planning.plan(
        catalogue.get("expectation"),
        recipe="imagenet",
        data="x@0",
        train_images=1_281_167,
        overrides={},
        rows=["with"],
    )
    assert trial.infeasible is not None
    assert "must have at most 2,147,483,648 bytes. They have 10,495,320,064" in trial.infeasible
    assert "dim=419 is the most that fits" in trial.infeasible
