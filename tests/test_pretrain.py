"""The loop: what a step does, what an epoch sees, and that a killed run resumed is the run never killed."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import tiny
import torch

from simsiam import checkpoint, data, loader, monitor, optim, pretrain
from simsiam.config import Config, Runtime
from simsiam.method import Method
from simsiam.model import SimSiam


@pytest.fixture(scope="module")
def images() -> tuple[loader.Images, loader.Images]:
    decoded = loader.decode(data.locate(None), tiny.config().train_images)
    assert decoded is not None
    return loader.load(decoded, tiny.config(), Runtime())


def run(
    config: Config, images: tuple[loader.Images, loader.Images], place: tiny.Memory | None = None, seconds: float = 30
) -> tuple[SimSiam, pretrain.Progress]:
    checkpointer = tiny.checkpointer(config, place, seconds)
    return pretrain.pretrain(config, Runtime(), *images, checkpointer=checkpointer, on_epoch=lambda line: None)


def science(curve: list[pretrain.Line]) -> list[dict[str, Any]]:
    """A curve without its clock."""
    return [
        {k: v for k, v in line.items() if k not in ("seconds", "eval_seconds", "images_per_second")} for line in curve
    ]


def test_a_step_is_sgd_on_the_papers_loss() -> None:
    # Algorithm 1 again, from torch's own parts.
    config = tiny.config(batch_size=8, momentum=0.0, weight_decay=0.0)
    x = torch.randn(2, 8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    ours, theirs = Method(config, torch.zeros(8, dtype=torch.int64)), SimSiam(config)
    loss = pretrain.train_step(ours, optim.optimizer(ours.model, config), x, config)
    z1, z2 = theirs.f(x[0]), theirs.f(x[1])
    p1, p2 = theirs.h(z1), theirs.h(z2)
    similar = torch.nn.functional.cosine_similarity
    expected = -similar(p1, z2.detach()).mean() / 2 - similar(p2, z1.detach()).mean() / 2
    expected.backward()
    torch.testing.assert_close(loss, expected.detach())
    for (name, a), b in zip(ours.model.named_parameters(), theirs.parameters(), strict=True):
        assert b.grad is not None
        torch.testing.assert_close(a, b - config.lr * b.grad, msg=name)


def test_training_learns_and_its_curve_has_a_line_an_epoch(images: tuple[loader.Images, loader.Images]) -> None:
    _, progress = run(tiny.config(epochs=4), images)
    assert [line["epoch"] for line in progress.curve] == [1, 2, 3, 4]
    assert progress.curve[-1]["loss"] < progress.curve[0]["loss"] < 0
    assert progress.step == 4 * (300 // 128)


def ids_of(config: Config, first: int) -> list[loader.Ids]:
    """Of each batch of 350 pictures' epochs of 3 steps, from step `first` on."""
    return [ids for *_, chunk in pretrain._chunks(config, 350, first, 3) for ids in chunk.batches]


def test_each_epoch_sees_full_batches_of_different_pictures_in_another_order() -> None:
    config = tiny.config(epochs=2, batch_size=100)
    requests = ids_of(config, 0)
    assert [len(ids) for ids in requests] == [100] * 6
    first, second = np.concatenate(requests[:3]), np.concatenate(requests[3:])
    assert len(set(first)) == len(set(second)) == 300  # 50 are dropped
    assert not np.array_equal(first, second)


def test_batches_go_on_from_a_step() -> None:
    config = tiny.config(epochs=3, batch_size=100)
    whole = [ids.tolist() for ids in ids_of(config, 0)]
    for first in range(10):
        assert [ids.tolist() for ids in ids_of(config, first)] == whole[first:]


def test_evaluated_every_third_epoch_it_is_so_after_the_last_too_and_trains_the_same(
    images: tuple[loader.Images, loader.Images],
) -> None:
    each, third = (run(tiny.config(epochs=4, eval_every=every), images)[1].curve for every in (None, 3))
    for i, (one, other) in enumerate(zip(science(each), science(third), strict=True)):
        expected = one if i in (2, 3) else one | dict.fromkeys(monitor.MEASURED)
        assert other == expected


@pytest.mark.parametrize("die_at", [1, 3, 4])
def test_killed_and_resumed_equals_never_killed(
    die_at: int, images: tuple[loader.Images, loader.Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "EVERY", 1)  # a checkpoint after every step
    config = tiny.config(epochs=3, batch_size=64)
    model, progress = run(config, images)
    killed = tiny.Memory(die_at=die_at)
    with pytest.raises(KeyboardInterrupt):
        run(config, images, killed, seconds=0)
    again, resumed = run(config, images, tiny.Memory(killed.content), seconds=0)
    assert science(resumed.curve) == science(progress.curve)
    assert resumed.knn_top1_init == progress.knn_top1_init
    for (name, a), b in zip(model.state_dict().items(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


def test_other_workers_are_told_of_even_where_no_step_is_left(
    images: tuple[loader.Images, loader.Images], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, place = tiny.config(epochs=1), tiny.Memory()
    run(config, images, place)
    monkeypatch.setattr(pretrain.distributed, "world_size", lambda: 3)
    monkeypatch.setattr(pretrain, "DistributedDataParallel", lambda model, **_: model)
    monkeypatch.setattr(pretrain.distributed, "everyone", lambda item: [item] * 3)
    monkeypatch.setattr(pretrain.distributed, "agree", lambda decision, device: decision)
    checkpointer = tiny.checkpointer(config, place)
    pretrain.pretrain(config, Runtime(), *images, checkpointer=checkpointer, on_epoch=lambda line: None)
    checkpointer.save(lambda: {"probe": "the classifier"}, at_once=True)  # by the linear evaluation
    found = tiny.checkpointer(config, place)
    found.resume()
    assert found.part("progress")["workers"] == [(0, 1), (2, 3)]


def test_the_seed_decides_everything(images: tuple[loader.Images, loader.Images]) -> None:
    one, two, other = (run(tiny.config(epochs=1, seed=seed), images)[1].curve for seed in (0, 0, 1))
    assert science(one) == science(two)
    assert one[0]["loss"] != other[0]["loss"]


def test_a_checkpoint_of_another_config_is_refused_by_the_fields_that_differ(
    images: tuple[loader.Images, loader.Images],
) -> None:
    place = tiny.Memory()
    run(tiny.config(epochs=1), images, place)
    assert place.content is not None
    with pytest.raises(checkpoint.WrongCheckpointError, match=r"epochs \(checkpoint 1, here 2\), stop_gradient"):
        run(tiny.config(epochs=2, stop_gradient=False), images, tiny.Memory(place.content))


def test_a_loss_that_is_not_finite_ends_the_run_as_diverged(images: tuple[loader.Images, loader.Images]) -> None:
    place = tiny.Memory()
    config = tiny.config(epochs=5, base_lr=1e30, similarity="cross_entropy")
    _, progress = run(config, images, place)
    last = progress.curve[-1]
    assert len(progress.curve) < 5
    assert not math.isfinite(last["loss"])
    assert monitor.outcome(last["loss"], last["z_std"], last["effective_rank"], highest_rank=16) == monitor.DIVERGED
    assert len(run(config, images, tiny.Memory(place.content))[1].curve) == len(progress.curve)


@pytest.mark.parametrize(
    "changes",
    [
        {"precision": "float64"},
        {"precision": "bfloat16"},
        {"optimizer": "lars"},
        {"pairs_per_image": 2, "symmetric": False},
        {"predictor": "none"},
        {"predictor": "frozen"},
        {"similarity": "cross_entropy"},
        {"batch_norm": "none", "warmup_epochs": 0.5},
        {"bn_group": 32},
    ],
    ids=str,
)
def test_every_switch_trains(changes: dict[str, Any], images: tuple[loader.Images, loader.Images]) -> None:
    model, progress = run(tiny.config(epochs=1, batch_size=64, **changes), images)
    line = progress.curve[-1]
    assert math.isfinite(line["loss"])
    assert 0 <= line["knn_top1"] <= 100
    wanted = torch.float64 if changes.get("precision") == "float64" else torch.float32
    assert {p.dtype for p in model.parameters()} == {wanted}


def test_a_frozen_predictor_does_not_move(images: tuple[loader.Images, loader.Images]) -> None:
    config = tiny.config(epochs=1, predictor="frozen")
    model, _ = run(config, images)
    fresh = SimSiam(config)
    for a, b in zip(model.predictor.parameters(), fresh.predictor.parameters(), strict=True):
        assert torch.equal(a, b)
    assert not torch.equal(model.backbone.conv1.weight, fresh.backbone.conv1.weight)
