"""Results that start from several encoders: never one mean, one comparison or one table of the page."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from made import a_result

from ablations import catalogue, encoders, lines, planning, results
from ablations.page import evidence, paper
from ablations.store import Store
from ablations.table import Encoder, UserError

NETWORK = {"backbone": "resnet10", "stem": "cifar", "width": 8}
KNN = {"frozen": 90.0, "fine_tuned": 93.0, "random": 40.0, "scratch": 80.0}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Table transfer from encoder A, and from B, which is 30 points worse; three seeds of each."""
    store, table = Store.at(tmp_path), catalogue.get("transfer")
    for origin, worse in (("A", 0.0), ("B", 30.0)):
        encoder = Encoder(digest=origin.lower() * 16, network=NETWORK, origin=origin)
        trials = planning.plan(
            table,
            recipe="digits",
            data="digits@0",
            train_images=1437,
            overrides={},
            seeds=range(3),
            encoders=lambda kind, fields, its=encoder: its,
        )
        for trial in trials:
            knn = KNN[trial.row.name] - worse * (trial.row.name in ("frozen", "fine_tuned"))
            store.write(a_result(trial.config, knn_top1=knn, test_images=360), [{"epoch": 1, "loss": 0.5}])
        store.rebuild(trials)
    return tmp_path


def test_they_are_not_mixed_and_one_can_be_chosen(folder: Path) -> None:
    several = r"start from several encoders: A, B\. Choose one with --encoder-from"
    for ask in (
        lambda **which: results.compare("transfer", "frozen", "random", root=folder, **which),
        lambda **which: results.claims(names=["transfer"], root=folder, **which),
    ):
        with pytest.raises(UserError, match=several):
            ask()
    with pytest.raises(UserError, match=r"of several encoder_from: A, B\. Choose one with encoder_from="):
        results.pivot("transfer", root=folder)
    found = [results.compare("transfer", "frozen", "random", encoder_from=name, root=folder) for name in "AB"]
    assert [(each.mean, each.n) for each in found] == [(50.0, 3), (20.0, 3)]
    means = results.pivot("transfer", encoder_from="A", root=folder)
    assert dict(means[""]) == KNN
    with pytest.warns(UserWarning, match="of several encoder_from: A, B"):
        assert len(results.load("transfer", root=folder)) == 24
    for ask in (results.load, lambda *table, **which: results.claims(names=table, **which)):
        with pytest.raises(UserError, match=r"Unknown encoder of the lines of .* 'C'"):
            ask("transfer", encoder_from="C", root=folder)


def test_the_page_has_a_stage_of_each(folder: Path) -> None:
    stages = evidence.read(Store.at(folder)).stages
    assert sorted(stage.name for stage in stages) == ["digits (from A)", "digits (from B)"]
    for stage in stages:
        (shown,) = stage.tables
        frozen = next(row for row in shown.rows if row.name == "frozen")
        mean = shown.mean(frozen, "knn_top1")
        assert mean
        assert (mean.mean, mean.n) == (90.0 if stage.origin == "A" else 60.0, 3)
        assert f"Recipe digits, from the encoder of {stage.origin}." in paper.markdown([stage])
    lines = paper.frame(stages)
    assert sorted(set(lines.encoder_from)) == ["A", "B"]


def test_a_row_kept_of_several_is_no_encoder_to_start_from(folder: Path) -> None:
    store = Store.at(folder)
    tuned = [line for line in store.table("transfer") if line["row"] == "fine_tuned"]
    for line in tuned:
        store.folder.write(f"kept/{line['fingerprint']}-{line['sources']}.pt", b"")
    of = {name: ",".join(line["fingerprint"] for line in tuned if line["encoder_from"] == name) for name in "AB"}
    refused = "has several kinds of results.*" + "; ".join(rf"{of[name]} \(digits, digits@0, {name}\)" for name in "AB")
    with pytest.raises(UserError, match=refused):
        encoders.of_trials("transfer/fine_tuned", store)
    with pytest.raises(UserError, match=r"cannot be used: .* is damaged\. Remove it, and train the trial again"):
        encoders.weights(tuned[0]["fingerprint"], store)


def test_torchvisions_weights_are_no_other_encoder() -> None:
    own, theirs = {"encoder_from": "A"}, {"encoder_from": "torchvision resnet18 IMAGENET1K_V1"}
    some: list[dict[str, Any]] = [own, theirs, {"encoder_from": None}, {}]
    assert lines.origins(some) == ["A"]
    assert lines.of_encoder([*some, {"encoder_from": "B"}], "A") == some


def test_curves_of_an_earlier_version_lack_columns(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    curves = results.curves("transfer", encoder_from="A", root=folder)
    assert len(curves) == 12
    real = Store.curves
    monkeypatch.setattr(
        Store,
        "curves",
        lambda *asked: {
            name: [{"epoch": line["epoch"], "loss": line["loss"]} for line in curve]
            for name, curve in real(*asked).items()
        },
    )
    earlier = results.curves("transfer", encoder_from="A", root=folder)
    assert list(earlier.columns) == list(curves.columns)
    assert earlier.z_std.isna().all()
