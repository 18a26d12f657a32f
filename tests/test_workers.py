"""How many workers train changes no number: whole trials with 1, 2 and 4 processes on the digits."""

from __future__ import annotations

import contextlib
import dataclasses
import os
from pathlib import Path
from unittest import mock

import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch.nn.modules.batchnorm import _BatchNorm

from ablations import trial
from simsiam import data
from simsiam.batch_norm import BatchNorm
from simsiam.checkpoint import Checkpointer
from simsiam.config import Config, Runtime
from simsiam.data import TEST
from simsiam.loader import Decoded
from simsiam.recipes import DIGITS

pytestmark = pytest.mark.timeout(600)  # four processes that wait for each other at every layer: slow beside other work

WORLDS = (1, 2, 4)
TEST_IMAGES = 357  # a number that neither 2 nor 4 divides

# A network that tells pictures apart from the start, or rounding decides who is the nearest of equals; and the paper's
# learning rate: at the digits' own, ten times that, a ReLU that rounding flips shows in the gradient at once.
FLOAT32 = {"epochs": 1, "image_size": 16, "width": 8, "base_lr": 0.05}
UNEVEN = {"batch_size": 126, "train_images": 301}  # shares of 31 and 32
RUNS: dict[str, Config] = {
    "float64": tiny.config(precision="float64", epochs=3),
    "float64, uneven": tiny.config(precision="float64", epochs=3, **UNEVEN),
    "float32": tiny.config(**FLOAT32),
    "float32, uneven": tiny.config(**FLOAT32, **UNEVEN),
    "float32, recipe": Config(data=data.locate(None).name, **{**DIGITS, "epochs": 1}),
}
SMOOTH = ("float32, recipe",)  # the digits recipe, all of it, but SiLU for ReLU: no corner for rounding to cross
ALONE = "float64, each worker normalising its own share"


Found = dict[str, dict[str, list[float]]]  # run -> number -> its values, one an epoch or one a trial


def pictures() -> dict[int | None, Decoded]:
    """train_images -> the digits, with a test set that cannot be shared evenly."""
    found = {}
    for images, decoded in trial.shared(data.locate(None), RUNS.values()).items():
        assert decoded is not None
        pixels, labels = decoded.splits[TEST]
        test = pixels[:TEST_IMAGES], labels[:TEST_IMAGES]
        found[images] = dataclasses.replace(decoded, splits={**decoded.splits, TEST: test})
    return found


def run(config: Config, decoded: Decoded, smooth: bool = False) -> dict[str, list[float]]:
    """A whole trial, without its clock."""
    with mock.patch("torch.nn.ReLU", torch.nn.SiLU) if smooth else contextlib.nullcontext():
        result, curve = trial.run(config, Runtime(), pictures=decoded, place=tiny.Memory(), on_epoch=lambda line: None)
    numbers = ("loss", "z_std", "effective_rank", "knn_top1")
    return {
        **{name: [line[name] for line in curve] for name in numbers},
        **{name: [result[name]] for name in ("linear_top1", "knn_top1_init")},
    }


def work(rank: int, folder: str, decoded: dict[int | None, Decoded]) -> None:
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            continue
        if world > 1:  # one worker has no process group
            dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
        found = {name: run(config, decoded[config.train_images], name in SMOOTH) for name, config in RUNS.items()}
        synchronised, BatchNorm.forward = BatchNorm.forward, _BatchNorm.forward  # type: ignore[method-assign]
        found[ALONE] = run(RUNS["float64"], decoded[RUNS["float64"].train_images])
        BatchNorm.forward = synchronised  # type: ignore[method-assign]
        torch.save(found, Path(folder) / f"{world}-{rank}.pt")
        if world > 1:
            dist.destroy_process_group()


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[int, list[Found]]:
    """What each worker of each world came to; one spawn does for all."""
    folder = tmp_path_factory.mktemp("workers")
    mp.spawn(work, (str(folder), pictures()), nprocs=max(WORLDS))
    return {world: [torch.load(folder / f"{world}-{rank}.pt") for rank in range(world)] for world in WORLDS}


def apart(found: dict[int, list[Found]], name: str, world: int) -> dict[str, float]:
    """The largest relative difference of each number from that of one worker, over the epochs."""
    ours, single = found[world][0][name], found[1][0][name]
    return {
        number: max(abs(a - b) / abs(b) for a, b in zip(ours[number], single[number], strict=True)) for number in single
    }


def a_picture(found: dict[int, list[Found]], name: str, number: str) -> float:
    """One test picture more or less that is right, relative to those of one worker."""
    return 1.01 * 100 / TEST_IMAGES / found[1][0][name][number][-1]


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("name", ["float64", "float64, uneven"])
def test_in_float64_workers_agree_to_1e_6_over_the_whole_run(
    found: dict[int, list[Found]], name: str, world: int
) -> None:
    differences = apart(found, name, world)
    # The probe is float32 in any precision, so a picture on the border may cross it.
    assert differences.pop("linear_top1") <= a_picture(found, name, "linear_top1")
    assert max(differences.values()) <= 1e-6, differences


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[1:])
@pytest.mark.parametrize("name", ["float32", "float32, uneven", "float32, recipe"])
def test_in_float32_workers_agree_to_1e_4_over_the_first_epoch(
    found: dict[int, list[Found]], name: str, world: int
) -> None:
    differences = apart(found, name, world)
    for number in ("linear_top1", "knn_top1"):
        assert differences.pop(number) <= a_picture(found, name, number)
    assert max(differences.values()) <= 1e-4, differences


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[1:])
def test_workers_that_each_normalise_their_own_share_do_not_agree(found: dict[int, list[Found]], world: int) -> None:
    for number, values in found[1][0]["float64"].items():  # of one worker, it is all there is
        assert found[1][0][ALONE][number] == pytest.approx(values, rel=1e-9)
    differences = apart(found, ALONE, world)
    assert differences["loss"] > 1e-3, differences
    assert differences["z_std"] > 1e-1, differences


def resume_apart(rank: int, folder: str) -> None:
    """Two workers, of which the first alone has a checkpoint."""
    checkpointer = Checkpointer(tiny.config(), tiny.Memory(), seconds=0)
    if rank == 0:
        checkpointer.save(dict, at_once=True)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        with pytest.raises(RuntimeError, match="go on from one checkpoint"):
            checkpointer.resume()
    finally:
        dist.destroy_process_group()
    os._exit(0)  # gloo's threads, still at work when the interpreter ends, abort it


def test_workers_that_find_different_checkpoints_do_not_train(tmp_path: Path) -> None:
    mp.spawn(resume_apart, (str(tmp_path),), nprocs=2)


CHECKPOINTS = 3  # and two epochs more after the last of them


class Kept(tiny.Memory):
    """All checkpoints that were written."""

    def __init__(self, content: bytes | None = None) -> None:
        super().__init__(content)
        self.all: list[bytes] = []

    def write(self, content: bytes) -> None:
        super().write(content)
        self.all.append(content)


def resume_three(rank: int, folder: str, decoded: Decoded) -> None:
    """Three workers train undisturbed, then from each of the first checkpoints."""
    torch.set_num_threads(1)
    config, runtime, content = tiny.config(epochs=CHECKPOINTS + 2), Runtime(checkpoint_seconds=0), None
    curves: list[list[float]] = []
    for start in range(CHECKPOINTS + 1):
        # Each in a process group of its own, as after a death.
        store = f"file://{folder}/store{start}"
        dist.init_process_group("gloo", init_method=store, rank=rank, world_size=3)
        place = Kept(content)
        _, curve = trial.run(config, runtime, pictures=decoded, place=place, on_epoch=lambda line: None)
        curves.append([line["loss"] for line in curve])
        if start == 0:
            everyones: list[list[bytes]] = [[]] * 3
            dist.all_gather_object(everyones, place.all)
            checkpoints = everyones[0]
        dist.destroy_process_group()
        if start < CHECKPOINTS:
            content = checkpoints[start]
    torch.save(curves, Path(folder) / f"{rank}.pt")


@pytest.mark.slow
def test_three_workers_go_on_from_a_checkpoint_bit_for_bit(tmp_path: Path) -> None:
    # With two, every sum has two terms and any order gives the same.
    mp.spawn(resume_three, (str(tmp_path), pictures()[tiny.config().train_images]), nprocs=3)
    for rank in range(3):
        undisturbed, *resumed = torch.load(tmp_path / f"{rank}.pt")
        assert resumed == [undisturbed] * CHECKPOINTS


@pytest.mark.slow
@pytest.mark.parametrize("world", WORLDS[1:])
def test_every_worker_of_a_trial_comes_to_the_same_numbers(found: dict[int, list[Found]], world: int) -> None:
    for name in RUNS:
        for other in found[world][1:]:
            assert other[name] == found[world][0][name], name
