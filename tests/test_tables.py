"""Every table on recipe imagenet against the paper's settings and numbers."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest

from ablations import catalogue, planning
from simsiam.config import Config
from simsiam.methods import SWITCHES

NAMES = catalogue.names()
SHARED = Path(__file__).resolve().parents[2] / "shared" / "paper" / "tables.csv"

# Our row -> the paper's number and the settings that it states, by the names of its own table. What a row does not
# state is the baseline's.
BASELINE = dict(backbone="resnet50", base_lr=0.05, batch=512, d=2048, epochs=100, momentum=0.9, opt="sgd", wd=1e-4,
                warmup_epochs=0, crop_min_area=0.2, flip_p=0.5, jitter_p=0.8, brightness=0.4, contrast=0.4,
                saturation=0.4, hue=0.1, grayscale_p=0.2, blur_p=0.5)  # fmt: skip
# What the methods are by their own papers.
_LARGE = dict(batch=4096, opt="lars", warmup_epochs=10, crop_min_area=0.08)
_STRONG = _LARGE | dict(brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
SIMCLR = _STRONG | dict(base_lr=0.3, wd=1e-6, d=128, projector_layers=3, temperature=0.1, pred="none", stop_grad=False)
MOCO = dict(batch=256, base_lr=0.03, d=128, projector_layers=2, temperature=0.2, queue=65_536, target_momentum=0.999,
            bn_group=32, bn="none", pred="none", shuffle_keys=True)  # fmt: skip
_BYOL = _LARGE | dict(saturation=0.2, d=256, projector_layers=2, pred="mlp", pred_hidden=4096)
BYOL = [
    _BYOL | dict(base_lr=lr, wd=wd, target_momentum=momentum)
    for lr, wd, momentum in ((0.45, 1e-6, 0.99), (0.3, 1e-6, 0.99), (0.3, 1e-6, 0.99), (0.2, 1.5e-6, 0.996))
]
SWAV = _STRONG | dict(base_lr=0.3, wd=1e-6, d=128, projector_layers=3, temperature=0.1, prototypes=3000, pred="none")
PAPER: dict[str, dict[str, tuple[float | None, dict[str, Any]]]] = {
    "stop_gradient": {
        "with": (67.7, dict(stop_grad=True, pred_lr="cosine", pred_hidden=512)),
        "without": (0.1, dict(stop_grad=False, pred_lr="cosine", pred_hidden=512)),
    },
    "predictor": {
        "baseline": (67.7, dict(pred="mlp", pred_lr="cosine", pred_hidden=512)),
        "none": (0.1, dict(pred="none")),
        "frozen": (1.5, dict(pred="frozen", pred_hidden=512)),
        "constant_lr": (68.1, dict(pred="mlp", pred_lr="constant", pred_hidden=512)),
    },
    "batch_size": {
        str(batch): (acc, dict(batch=batch, lr_effective=lr, warmup_epochs=warmup, pred_lr="constant"))
        for batch, lr, warmup, acc in (
            (64, 0.0125, 0, 66.1), (128, 0.025, 0, 67.3), (256, 0.05, 0, 68.1), (512, 0.1, 0, 68.1),
            (1024, 0.2, 10, 68.0), (2048, 0.4, 10, 67.9), (4096, 0.8, 10, 64.0),
        )
    },
    "batch_norm": {
        "none": (34.6, dict(bn="none", warmup_epochs=10)),
        "hidden": (67.4, dict(bn="hidden", warmup_epochs=0)),
        "default": (68.1, dict(bn="default", affine=True)),
        "all": (None, dict(bn="all")),
        "not_affine": (68.2, dict(bn="default", affine=False)),
    },
    "similarity": {
        "cosine": (68.1, dict(similarity="cosine", pred_lr="constant")),
        "cross_entropy": (63.2, dict(similarity="cross_entropy", pred_lr="constant")),
    },
    "symmetrization": {
        "sym": (68.1, dict(symmetric=True, pairs=1)),
        "asym": (64.8, dict(symmetric=False, pairs=1)),
        "asym_2x": (67.3, dict(symmetric=False, pairs=2)),
    },
    "output_dim": {
        "d/8": (65.3, dict(d=256, pred_hidden=64)),
        "d/4": (67.2, dict(d=512, pred_hidden=128)),
        "d/2": (67.5, dict(d=1024, pred_hidden=256)),
        "d": (68.1, dict(d=2048, pred_hidden=512)),
    },
    "epochs": {
        "1x": (68.1, dict(epochs=100, batch=256)),
        "2x": (70.0, dict(epochs=200, batch=256)),
        "4x": (70.8, dict(epochs=400, batch=256)),
        "8x": (71.3, dict(epochs=800, batch=256)),
    },
    "alternation": {
        "1_step": (68.1, dict(method="simsiam")),
        "10_step": (68.7, dict(method="alternation", eta_steps=10)),
        "100_step": (68.9, dict(method="alternation", eta_steps=100)),
        "1_epoch": (67.0, dict(method="alternation", eta_steps=0)),
    },
    "expectation": {
        "without": (0.1, dict(pred="none")),
        "with": (55.0, dict(pred="none", method="expectation", eta_momentum=0.8)),
    },
    "methods": {
        f"{method}_{factor}x": (acc, dict(epochs=100 * factor, method=method, **stated))
        for method, papers, *lengths in (
            ("simclr", (66.5, 68.3, 69.8, 70.4), *[SIMCLR] * 4),
            ("moco", (67.4, 69.9, 71.0, 72.2), *[MOCO] * 4),
            ("byol", (66.5, 70.6, 73.2, 74.3), *BYOL),
            ("swav", (66.5, 69.1, 70.7, 71.8), *[SWAV] * 4),
            ("simsiam", (68.1, 70.0, 70.8, 71.3), *[dict(batch=256)] * 4),
        )
        for factor, acc, stated in zip((1, 2, 4, 8), papers, lengths, strict=True)
    },
    "relations": {
        "simclr": (66.5, SIMCLR),
        "simclr_predictor": (66.4, SIMCLR | dict(pred="mlp")),
        "simclr_predictor_stop_gradient": (66.0, SIMCLR | dict(pred="mlp", stop_grad=True)),
        "swav": (66.5, SWAV),
        "swav_predictor": (65.2, SWAV | dict(pred="mlp")),
        "swav_no_stop_gradient": (None, SWAV | dict(stop_grad=False)),
        "byol": (66.5, BYOL[0]),
        "byol_no_momentum": (68.1, dict(method="simsiam")),
        "moco": (67.4, MOCO),
        "moco_no_shuffle": (None, MOCO | dict(shuffle_keys=False)),
    },
}  # fmt: skip
# cifar_methods has the paper's claim, and none of its numbers.
OURS = {"bn_group", "augmentation", "depth", "cifar_methods", "flowers", "transfer", "imported", "detection"}


def settings(config: Config) -> dict[str, Any]:
    """A Config by the names of the paper's table."""
    return dict(
        backbone=config.backbone, base_lr=config.base_lr, batch=config.batch_size, d=config.dim, epochs=config.epochs,
        momentum=config.momentum, opt=config.optimizer, wd=config.weight_decay, stop_grad=config.stop_gradient,
        pred=config.predictor, pred_lr=config.predictor_lr, pred_hidden=config.predictor_hidden,
        lr_effective=config.lr, warmup_epochs=config.warmup_epochs, bn=config.batch_norm,
        affine=config.projector_affine, similarity=config.similarity, symmetric=config.symmetric,
        pairs=config.pairs_per_image,
    ) | {name: getattr(config, name) for name in (*SWITCHES, "method", "projector_layers", "bn_group")}  # fmt: skip


def imagenet(name: str) -> dict[str, Config]:
    trials = planning.plan(
        catalogue.get(name), recipe="imagenet", data="images@0", train_images=1_281_167, overrides={}
    )
    infeasible = [trial.name for trial in trials if trial.infeasible]
    assert infeasible == (["expectation/with seed 0"] if name == "expectation" else [])  # averages of 10 GB
    return {trial.row.name: trial.config for trial in trials}


@pytest.mark.parametrize("name", PAPER)
def test_rows_on_imagenet_are_the_papers(name: str) -> None:
    configs, rows = imagenet(name), {row.name: row for row in catalogue.get(name).rows}
    assert list(configs) == list(PAPER[name])
    for row, (accuracy, stated) in PAPER[name].items():
        assert rows[row].paper == accuracy, row
        mine = settings(configs[row])
        expected = BASELINE | stated
        assert {key: mine[key] for key in expected} == pytest.approx(expected), row


def test_every_table_is_the_papers_or_ours() -> None:
    assert set(NAMES) == PAPER.keys() | OURS
    assert all(row.paper is None for name in OURS for row in catalogue.get(name).rows)
    assert [config.bn_group for config in imagenet("bn_group").values()] == [None, 256, 128, 64]


# The claims of some tables, as the paper has them.
CLAIMS = {
    "batch_size": [
        "256, 512, 1024 are within 2 of each other",
        "256, 2048 are within 2 of each other",
        "64 does not collapse",
        "64 is worse than 256 by more than 0.5",
        "4096 is worse than 256 by more than 1",
    ],
    "batch_norm": [
        "none does not collapse",
        "none is worse than default by more than 10",
        "hidden > none",
        "default > hidden",
        "all does not train stably, unlike default",
        "all does not collapse",
        "not_affine, default are within 2 of each other",
    ],
    "alternation": [
        "10_step does not collapse",
        "100_step does not collapse",
        "1_epoch does not collapse",
        "10_step > 1_step",
        "100_step > 1_step",
        "1_step > 1_epoch",
    ],
}


@pytest.mark.parametrize("name", CLAIMS)
def test_claims_are_the_papers(name: str) -> None:
    assert [str(claim) for claim in catalogue.get(name).claims] == CLAIMS[name]


@pytest.mark.parametrize("name", NAMES)
def test_claims_say_where_the_paper_has_them(name: str) -> None:
    assert all(claim.section.startswith(("Sec.", "Table", "App.")) for claim in catalogue.get(name).claims)


def test_what_stands_here_is_what_the_shared_transcription_has() -> None:
    if not SHARED.exists():
        pytest.skip(f"the transcription of the paper is not beside the project: {SHARED.name}")
    with SHARED.open() as file:
        lines = list(csv.DictReader(file))
    known = {
        "stop_gradient": {"with_stopgrad": "with", "without_stopgrad": "without"},
        "predictor": {
            "baseline": "baseline", "a_no_pred": "none", "b_fixed_random": "frozen", "c_lr_not_decayed": "constant_lr",
        },
        "batch_size": {f"bs{size}": size for size in PAPER["batch_size"]},
        "batch_norm": {
            "a_none": "none", "b_hidden_only": "hidden", "c_default": "default", "c_no_affine": "not_affine",
        },
        "similarity": {"cosine": "cosine", "cross_entropy": "cross_entropy"},
        "symmetrization": {"sym": "sym", "asym": "asym", "asym_2x": "asym_2x"},
        "output_dim": {"d256": "d/8", "d512": "d/4", "d1024": "d/2", "d2048": "d"},
        "epochs": {"SimSiam_100ep": "1x", "SimSiam_200ep": "2x", "SimSiam_400ep": "4x", "SimSiam_800ep": "8x"},
        "methods": {
            f"{theirs}_{100 * factor}ep": f"{ours}_{factor}x"
            for ours, theirs in zip(("simclr", "moco", "byol", "swav", "simsiam"),
                                    ("SimCLR", "MoCov2", "BYOL", "SwAV", "SimSiam"), strict=True)
            for factor in (1, 2, 4, 8)
        },
        "alternation": {"1-step": "1_step", "10-step": "10_step", "100-step": "100_step", "1-epoch": "1_epoch"},
        "expectation": {"moving_average_no_pred": "with", "no_moving_average_no_pred": "without"},
    }  # fmt: skip
    theirs = {
        "stop_gradient": "fig2", "predictor": "table1", "batch_size": "table2", "batch_norm": "table3",
        "similarity": "similarity", "symmetrization": "symmetrization", "output_dim": "outdim", "epochs": "table4",
        "methods": "table4", "alternation": "hypothesis_multistep", "expectation": "hypothesis_expectation",
    }  # fmt: skip
    names = dict(batch="batch", d="d", epochs="epochs", wd="wd", base_lr="base_lr", pred_hidden="pred_hidden",
                 warmup_epochs="warmup_epochs", lr_effective="lr_effective", pred_lr="pred_lr")  # fmt: skip
    for table, rows in known.items():
        found = {line["row_id"]: line for line in lines if line["table"] == theirs[table]}
        configs = imagenet(table)
        for row_id, row in rows.items():
            assert float(found[row_id]["value"]) == PAPER[table][row][0]
            stated = json.loads(found[row_id]["setting_json"])
            mine = settings(configs[row])
            for key, ours in names.items():
                if key in stated and mine[ours] is not None:
                    value = stated[key].split()[0] if isinstance(stated[key], str) else stated[key]
                    assert mine[ours] == pytest.approx(value), (table, row, key)
