"""The methods that SimSiam is compared with, each against lightly's and by hand; and what all of them share."""

from __future__ import annotations

import copy
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import lightly.loss
import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn.functional as F
from lightly.loss.memory_bank import MemoryBankModule
from lightly.loss.swav_loss import sinkhorn as lightlys_sinkhorn
from lightly.models.utils import update_momentum
from torch import Tensor

from ablations import planning
from ablations import trial as trials
from ablations.table import UserError
from simsiam import config as configs
from simsiam import data, method, objective, optim, pretrain
from simsiam.config import Config, Runtime
from simsiam.methods import METHODS, SWITCHES
from simsiam.relatives import simclr, swav
from simsiam.relatives.byol import BYOL
from simsiam.relatives.moco import MoCo
from simsiam.relatives.swav import SwAV

ROOT = Path(__file__).resolve().parent.parent
RELATIVES = ("simclr", "moco", "byol", "swav")
OTHERS = (*RELATIVES, "alternation", "expectation", "supervised")
LABELS = torch.arange(300) % 10
SMALL = tiny.FIELDS | {"precision": "float64", "batch_size": 64, "prototypes": 16, "queue": 128, "projector_hidden": 16}


def config(name: str, **changes: Any) -> Config:
    """A tiny trial of a method, as `--set method=` plans it."""
    chosen = {field: value for field, value in SMALL.items() if field not in SWITCHES or field in METHODS[name].acting}
    chosen |= {"eta_steps": 3} if name == "alternation" else {}
    return planning.recipe("digits", data.locate(None).name, {"method": name, **chosen, **changes})


def two(n: int = 12, d: int = 7, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(n, d, generator=generator, dtype=torch.float64) for _ in range(2)]


# Losses.


def test_nt_xent_is_lightlys() -> None:
    z = two()
    expected = lightly.loss.NTXentLoss(temperature=0.5)(*z)
    assert simclr.nt_xent(z, z, 0.5).mean() == pytest.approx(float(expected), rel=1e-6)


def test_nt_xent_by_hand_with_a_predictor() -> None:
    (p1, p2), (z1, z2) = two(seed=1), two(n=12)

    def unit(x: Tensor) -> np.ndarray[Any, Any]:
        return (x / x.norm(dim=1, keepdim=True)).numpy()

    every = np.concatenate([unit(z1), unit(z2)])
    found = simclr.nt_xent([p1, p2], [z1, z2], 0.2)
    for i in range(12):
        losses = []
        for p, own, other in ((unit(p1), i, i + 12), (unit(p2), i + 12, i)):
            weights = np.exp(every @ p[i] / 0.2)
            losses.append(-np.log(weights[other] / (weights.sum() - weights[own])))
        assert float(found[i]) == pytest.approx(np.mean(losses), rel=1e-12)


def test_sinkhorn_is_lightlys_and_uses_all_prototypes_equally() -> None:
    scores = F.normalize(torch.randn(32, 9, generator=torch.Generator().manual_seed(0)), dim=1)
    found = swav.sinkhorn(scores)
    torch.testing.assert_close(found, lightlys_sinkhorn(scores.clone()))
    torch.testing.assert_close(found.sum(1), torch.ones(32))
    assert found.sum(0).std() < F.softmax(scores / swav.EPSILON, 1).sum(0).std()


def built(of: Config) -> method.Method:
    return method.build(of, LABELS).double().train()


def test_swavs_loss_is_lightlys() -> None:
    ours = built(config("swav", temperature=0.1))
    assert isinstance(ours, SwAV)
    x = torch.randn(2, 64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, z = copy.deepcopy(ours.model)(x)
        prototypes = F.normalize(ours.prototypes.weight, dim=1)
        scores = [F.normalize(each, dim=1) @ prototypes.T for each in z]
        expected = lightly.loss.SwaVLoss(temperature=0.1)(scores, [])
        # lightly's code of a view is of as many decimals as its own loop in float64 gives.
        assert ours(x).mean() == pytest.approx(float(expected), rel=1e-6)


def test_mocos_loss_is_lightlys_against_the_same_queue() -> None:
    ours = built(config("moco", shuffle_keys=False))
    assert isinstance(ours, MoCo)
    x = torch.randn(2, 64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        _, z = copy.deepcopy(ours.model)(x)
        keys = [copy.deepcopy(ours.target).f(view) for view in x]
        expected = []
        for query, key in ((z[0], keys[1]), (z[1], keys[0])):
            theirs = lightly.loss.NTXentLoss(temperature=0.1, memory_bank_size=(128, 16))
            theirs.memory_bank.bank, theirs.memory_bank.bank_ptr = (
                ours.queue.clone(),
                torch.zeros(1, dtype=torch.int64),
            )
            expected.append(float(theirs(query, key.detach())))
        found = ours(x, torch.from_numpy(ours.draw(np.arange(64), 0, 0)))
    assert float(found.mean()) == pytest.approx(np.mean(expected), rel=1e-6)


def test_mocos_queue_is_lightlys_memory_bank() -> None:
    ours = built(config("moco", queue=100))
    assert isinstance(ours, MoCo)
    theirs = MemoryBankModule(size=(100, 16))
    theirs.bank, theirs.bank_ptr = ours.queue.clone(), torch.zeros(1, dtype=torch.int64)
    for step in range(5):
        ours._keys = F.normalize(two(n=25, d=16, seed=step)[0], dim=1)
        theirs(ours._keys.clone(), update=True)
        ours.update(step + 1, 5)
        torch.testing.assert_close(ours.queue, theirs.bank.double())


def test_keys_in_another_order_are_put_back() -> None:
    ours = built(config("moco"))
    assert isinstance(ours, MoCo)
    ours.target.eval()  # else BN makes a key depend on its group, which is why the order is changed
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = torch.from_numpy(ours.draw(np.arange(64), 0, 3))
    assert sorted(order.tolist()) == list(range(64)) != order.tolist()
    torch.testing.assert_close(ours._key(x, order), objective.unit(ours.target.f(x)))
    ours.target.train()
    assert (ours._key(x, order) - ours._key(x, torch.arange(64))).abs().max() > 1e-3


def test_a_key_in_the_order_of_its_query_is_told_by_the_statistics_of_its_group() -> None:
    # One group of BN, and so one shift of all features, for the query and for the key: an untrained network sees those
    # of its own group as nearer than the others.
    ours, nearest = {}, {}
    for shuffled in (False, True):
        ours[shuffled] = built(config("moco", shuffle_keys=shuffled))
    x = torch.randn(64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    order = torch.from_numpy(ours[True].draw(np.arange(64), 0, 0))
    for shuffled, each in ours.items():
        assert isinstance(each, MoCo)
        query, keys = objective.unit(each.model.f(x)).detach(), each._key(torch.roll(x, 1, 3), order)
        same = (torch.arange(64)[:, None] // 8 == torch.arange(64)[None] // 8) & ~torch.eye(64, dtype=torch.bool)
        cosine = query @ keys.T
        nearest[shuffled] = float(cosine[same].mean() - cosine[~same].mean())
    assert abs(nearest[True]) < abs(nearest[False])


@pytest.mark.parametrize("name", ["byol", "moco"])
def test_the_momentum_encoder_moves_as_lightlys(name: str) -> None:
    of = config(name, target_momentum=0.9)
    ours, x = built(of), torch.randn(2, 64, 3, 8, 8, dtype=torch.float64)
    theirs = copy.deepcopy(ours.target)
    drawn = torch.from_numpy(ours.draw(np.arange(64), 0, 0)) if ours.draws else None
    optimizer = optim.optimizer(ours.model, of)
    for step in range(1, 4):
        pretrain.train_step(ours, optimizer, x, of, drawn)
        ours.update(step, 10)
        momentum = 1 - 0.1 * (math.cos(math.pi * step / 10) + 1) / 2 if name == "byol" else 0.9
        update_momentum(ours.model, theirs, momentum)
        for a, b in zip(ours.target.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-14)


def test_byols_loss_is_its_own_up_to_its_scale() -> None:
    ours = built(config("byol"))
    assert isinstance(ours, BYOL)
    x = torch.randn(2, 64, 3, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        p, _ = copy.deepcopy(ours.model)(x)
        z = [copy.deepcopy(ours.target).f(view) for view in x]
        squares = [
            (F.normalize(a, dim=1) - F.normalize(b, dim=1)).square().sum(1) for a, b in zip(p, z[::-1], strict=True)
        ]
        torch.testing.assert_close(ours(x), (squares[0] + squares[1]) / 4 - 1)


@pytest.mark.parametrize("name", RELATIVES)
def test_a_loss_is_computed_in_float32_where_the_network_runs_in_bfloat16(name: str) -> None:
    # Each from the same z: what the network gives is put in its place.
    ours = method.build(config(name, precision="float32"), LABELS).train()
    p, z = ([each.float() for each in two(n=64, d=16, seed=seed)] for seed in (0, 1))
    ours.model.forward = lambda x: (p, z)  # type: ignore[assignment,method-assign,return-value]
    if hasattr(ours, "target"):
        ours.target.f = lambda x: z[0]
    x, drawn = torch.zeros(2, 64, 3, 8, 8), torch.arange(64)
    with torch.autocast("cpu", torch.bfloat16):
        found = ours(x, drawn)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, ours(x, drawn))


# Fields.


def test_choosing_a_method_takes_all_that_it_is() -> None:
    found = planning.recipe("imagenet", "imagenet@x", {"method": "simclr"})
    assert (found.predictor, found.stop_gradient, found.optimizer, found.batch_size) == ("none", False, "lars", 4096)
    assert (found.projector_layers, found.temperature, found.lr) == (3, 0.1, pytest.approx(4.8))
    assert planning.recipe("imagenet", "imagenet@x", {"method": "simclr", "base_lr": 0.1, "epochs": 7}).lr == 1.6
    moco = planning.recipe("imagenet", "imagenet@x", {"method": "moco", "batch_size": 512})
    assert (moco.bn_group, moco.queue, moco.predictor_hidden, moco.batch_norm) == (64, 65536, None, "none")
    lengths = [planning.recipe("imagenet", "imagenet@x", {"method": "byol", "epochs": n}) for n in (100, 200, 400, 800)]
    assert [each.base_lr for each in lengths] == [0.45, 0.3, 0.3, 0.2]
    assert [each.target_momentum for each in lengths] == [0.99, 0.99, 0.99, 0.996]
    assert [each.warmup_epochs for each in lengths] == [10, 10, 10, 10]
    assert planning.recipe("imagenet", "imagenet@x", {"method": "byol", "epochs": 7}).warmup_epochs == 0.7


def test_fields_of_another_method_change_no_trial() -> None:
    plain = tiny.config()
    assert configs.fingerprint(tiny.config(temperature=0.3, queue=64, eta_momentum=0.5)) == configs.fingerprint(plain)
    assert config("simclr", queue=99) == config("simclr")
    assert config("simclr") != plain


@pytest.mark.parametrize("name", OTHERS)
def test_every_recipe_gives_a_method_all_that_it_needs(name: str) -> None:
    for recipe in planning.recipes.RECIPES:
        chosen = {"method": name, **({"eta_steps": 3} if name == "alternation" else {})}
        assert planning.recipe(recipe, "x@0", chosen).method == name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "byol", "target_momentum": 0.0}, "target_momentum above 0.*that is method=simsiam"),
        ({"method": "simclr", "temperature": None}, "method=simclr needs temperature, a number above 0"),
        ({"method": "dino"}, "'method' must be one of simsiam, simclr, moco, byol, swav, alternation, expectation"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        planning.recipe("digits", "digits@x", changes)


# Whole trials.


def run(of: Config, place: tiny.Memory | None = None) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    decoded = trials.shared(data.locate(None), [of])[of.train_images]
    assert decoded is not None
    return trials.run(
        of, Runtime(checkpoint_seconds=0), pictures=decoded, place=place or tiny.Memory(), on_epoch=lambda line: None
    )


def science(curve: list[dict[str, Any]]) -> list[Any]:
    names = ("loss", "z_std", "effective_rank", "knn_top1", "classifier_top1")
    return [[line[name] for name in names if line[name] is not None] for line in curve]


@pytest.mark.parametrize(
    "name",
    # These two have no state beside the network's.
    [pytest.param(name, marks=[pytest.mark.slow] if name in ("simclr", "supervised") else []) for name in OTHERS],
)
def test_killed_and_resumed_it_is_bit_for_bit_the_same(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    of = config(name, epochs=3, precision="float32")
    monkeypatch.setattr(pretrain.checkpoint, "EVERY", 1)  # within an epoch, and within a cycle of the alternation
    undisturbed = science(run(of)[1])
    for die_at in (2, 6):
        place = tiny.Memory(die_at=die_at)
        with pytest.raises(KeyboardInterrupt):
            run(of, place)
        assert science(run(of, place)[1]) == undisturbed


def each_in_turn() -> dict[str, list[Any]]:
    epochs = dict.fromkeys(OTHERS, 1) | {"expectation": 2}  # whose averages are read in the second
    return {name: science(run(config(name, train_images=301, epochs=epochs[name]))[1]) for name in OTHERS}


def work(rank: int, world: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=world)
    torch.save(each_in_turn(), Path(folder) / f"{rank}.pt")
    dist.destroy_process_group()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("world", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_several_workers_come_to_what_one_does(world: int, tmp_path: Path) -> None:
    mp.spawn(work, (world, str(tmp_path)), nprocs=world)
    single = each_in_turn()
    for rank in range(world):
        found = torch.load(tmp_path / f"{rank}.pt")
        for name in OTHERS:
            np.testing.assert_allclose(found[name], single[name], rtol=1e-6, err_msg=name)


# A method of one's own: one file, one entry, one row.

BARLOW = '''
import torch
from simsiam import distributed
from simsiam.method import Method


class Barlow(Method):
    """Barlow Twins (Zbontar et al. 2021): the cross-correlation of the channels of both views is to be the identity."""

    def forward(self, x, drawn=None):
        _, z = self.model(x)
        one, two = (distributed.gather(each) for each in z)
        one, two = ((each - each.mean(0)) / each.std(0) for each in (one, two))
        correlation = one.T @ two / len(one)
        apart = correlation - torch.eye(len(correlation), device=z[0].device)
        weight = torch.where(torch.eye(len(correlation), device=z[0].device) > 0, 1.0, 0.005)
        return (weight * apart.square()).sum().expand(len(z[0])) / len(one)
'''
ENTRY = """    "barlow": Method(code="simsiam.relatives.barlow:Barlow", acts=(), common=dict(projector_layers=3)),
}
"""


@pytest.mark.slow
def test_a_new_method_is_a_file_an_entry_and_a_row_and_leaves_all_results_fresh(tmp_path: Path) -> None:
    for package in ("simsiam", "ablations"):
        shutil.copytree(ROOT / package, tmp_path / package, ignore=shutil.ignore_patterns("__pycache__"))
    command = [sys.executable, "ablations/run.py", "--table", "cifar_methods", *tiny.OVERRIDES, "--launcher", "local"]
    command += ["--results", str(tmp_path / "results")]

    def run_it() -> str:
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    run_it()
    (tmp_path / "simsiam" / "relatives" / "barlow.py").write_text(BARLOW)
    methods, table = tmp_path / "simsiam" / "methods.py", tmp_path / "ablations" / "tables" / "cifar_methods.py"
    entries, _, _ = methods.read_text().rpartition("}\n")
    methods.write_text(entries + ENTRY)
    row = '        Row(name="barlow", changes={"method": "barlow"}),\n    ),\n    claims'
    table.write_text(table.read_text().replace("    ),\n    claims", row))
    said = run_it()
    assert "cifar_methods/barlow seed 0: to run" in said
    assert said.count(": done\n") == 3
    assert "Now: 1 training," in said
    lines = pd.read_parquet(tmp_path / "results" / "cifar_methods.parquet").set_index("row")
    assert lines.method.to_dict() == {
        "simsiam": "simsiam",
        "simclr_same": "simclr",
        "simclr": "simclr",
        "barlow": "barlow",
    }
    assert lines.outcome.isin(["finished", "collapsed"]).all()
