"""Encoders in and out: our own, those of a file, and what trials start from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from pictures import write_images
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from test_weights import features, of_facebookresearch, resnet

from ablations import catalogue, encoders, planning, results, run
from ablations.results import __main__ as results_main
from ablations.store import Store
from simsiam import config as configs
from simsiam import data, encoder

LOCAL = ["--launcher", "local"]
# Of many steps: BN that has seen few leaves features that are nearly the same, and equally near.
TRAINED = ["--table", "stop_gradient", "--rows", "with", *LOCAL, *tiny.OVERRIDES, "--set", "batch_size=16"]
TRAINED += ["--keep-checkpoints"]


def test_other_peoples_weights_are_evaluated_by_a_command(tmp_path: Path) -> None:
    path = of_facebookresearch(tmp_path / "theirs.pth.tar", resnet("resnet50"))
    command = ["--table", "imported", "--weights", str(path), *LOCAL, "--results", str(tmp_path), *SMALL]
    assert run.main(command) == 0
    (line,) = results.load("imported", root=tmp_path).to_dict("records")
    assert (line["outcome"], line["method"], line["epochs"]) == ("finished", "none", 0)
    assert (line["backbone"], line["width"], line["encoder_from"]) == (
        "resnet50",
        64,
        f"theirs.pth.tar@{line['encoder']}",
    )
    assert line["encoder"] == encoder.digest(encoder.read(path))
    module, transform = results.encoder(line["fingerprint"], root=tmp_path)
    assert line["knn_top1"] == pytest.approx(sklearns_knn(*on_the_digits(module, transform, 300)), abs=0.6)


SMALL = ["--set", "image_size=16", "--set", "train_images=300"]


# Our own.


@pytest.fixture(scope="module")
def kept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results with the checkpoints of two seeds."""
    folder = tmp_path_factory.mktemp("kept")
    assert run.main([*TRAINED, "--seeds", "2", "--results", str(folder)]) == 0
    return folder


def on_the_digits(module: Any, transform: Any, train_images: int) -> list[Any]:
    """Features and labels of the training and of the test split by an encoder."""
    source, found = data.locate(None), []
    for split, images in (("train", train_images), ("test", None)):
        pictures = data.read(source, split, images)
        assert pictures.pixels is not None
        x = torch.stack([transform(picture) for picture in pictures.pixels])
        with torch.no_grad():
            found += [torch.cat([module(part) for part in x.split(256)]).numpy(), pictures.labels]
    return found


def sklearns_knn(bank: Any, labels: Any, queries: Any, wanted: Any) -> float:
    """Per cent."""
    unit = [each / np.linalg.norm(each, axis=1, keepdims=True).clip(1e-12) for each in (bank, queries)]
    knn = KNeighborsClassifier(20, weights=lambda d: np.exp((1 - d**2 / 2) / 0.1)).fit(unit[0], labels)
    return 100 * knn.score(unit[1], wanted)


def sklearns_probe(bank: Any, labels: Any, queries: Any, wanted: Any) -> float:
    """Per cent."""
    mean, std = bank.mean(0), bank.std(0, ddof=1).clip(1e-6)
    probe = LogisticRegression(C=1 / (1e-3 * len(bank)), max_iter=2000, tol=1e-8).fit((bank - mean) / std, labels)
    return 100 * probe.score((queries - mean) / std, wanted)


def test_an_encoder_in_python_has_the_tables_accuracy(kept: Path) -> None:
    for line in results.load("stop_gradient", root=kept).to_dict("records"):
        module, transform = results.encoder(line["fingerprint"], root=kept)
        found = on_the_digits(module, transform, train_images=300)
        assert sklearns_knn(*found) == pytest.approx(line["knn_top1"], abs=1e-4)
        assert sklearns_probe(*found) == pytest.approx(line["linear_top1"], abs=0.6)


def test_the_readmes_example_gives_the_tables_number(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (Path(__file__).resolve().parent.parent / "README.md").read_text()
    (example,) = [part.partition("```")[0] for part in text.split("```python\n") if "results.encoder(" in part]
    line = results.load("stop_gradient", root=kept).iloc[0]
    for name in ("load", "encoder"):
        real = getattr(results, name)
        monkeypatch.setattr(results, name, lambda *args, real=real, **kwargs: real(*args, **kwargs, root=kept))
    real_read = data.read
    monkeypatch.setattr(  # the trial of this test has fewer pictures than the README's
        data, "read", lambda source, split: real_read(source, split, 300 if split == "train" else None)
    )
    names: dict[str, Any] = {}
    exec(example.replace('overrides=""', f"overrides={line.overrides!r}"), names)
    assert names["accuracy"] == pytest.approx(line.knn_top1, abs=1e-4)


def test_an_encoder_trained_in_float64_takes_what_its_transform_makes(tmp_path: Path) -> None:
    assert run.main([*TRAINED, "--set", "precision=float64", "--results", str(tmp_path)]) == 0
    (line,) = results.load("stop_gradient", root=tmp_path).to_dict("records")
    module, transform = results.encoder(line["fingerprint"], root=tmp_path)
    assert sklearns_knn(*on_the_digits(module, transform, 300)) == pytest.approx(line["knn_top1"], abs=0.3)


OUTSIDE = """
import json, sys
import safetensors, torch, torchvision
from torch import nn
name, path, out = sys.argv[1:]
model = getattr(torchvision.models, name)(weights=None)
with safetensors.safe_open(path, framework="pt") as file:
    weights = {key: file.get_tensor(key) for key in file.keys()}
    about = file.metadata()
missing = model.load_state_dict(weights, strict=False)
assert not missing.unexpected_keys and set(missing.missing_keys) == {"fc.weight", "fc.bias"}, missing
model.fc = nn.Identity()
torch.set_num_threads(1)
with torch.no_grad():
    x = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    torch.save({"features": model.eval()(x), "about": dict(about)}, out)
"""


@pytest.mark.parametrize("name", ["resnet18", pytest.param("resnet50", marks=pytest.mark.slow)])
def test_an_exported_encoder_is_the_same_bit_for_bit_elsewhere(name: str, tmp_path: Path) -> None:
    command = ["--table", "stop_gradient", "--rows", "with", *LOCAL, "--keep-checkpoints", "--results", str(tmp_path)]
    small = dict(backbone=name, stem="imagenet", width=64, image_size=16, train_images=64, batch_size=32, epochs=1)
    assert run.main([*command, *[part for key, value in small.items() for part in ("--set", f"{key}={value}")]]) == 0
    fingerprint = results.load("stop_gradient", root=tmp_path).fingerprint[0]
    assert results_main.main(["export", fingerprint, str(tmp_path / "x.safetensors"), "--results", str(tmp_path)]) == 0
    (tmp_path / "outside.py").write_text(OUTSIDE)
    arguments = [name, str(tmp_path / "x.safetensors"), str(tmp_path / "out.pt")]
    subprocess.run([sys.executable, tmp_path / "outside.py", *arguments], check=True, cwd=tmp_path)
    found = torch.load(tmp_path / "out.pt")
    module, _ = results.encoder(fingerprint, root=tmp_path)
    assert torch.equal(found["features"], features(module))
    about = json.loads(found["about"]["config"])
    assert configs.fingerprint(configs.Config(**about)) == fingerprint == found["about"]["fingerprint"]
    assert json.loads(found["about"]["input"])["size"] == 16


def test_what_cannot_be_exported_is_said(kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fingerprint = results.load("stop_gradient", root=kept).fingerprint[0]
    for arguments, complaint in (
        ((fingerprint, str(tmp_path / "x.pth")), "exported as .safetensors. Got"),
        ((fingerprint, str(tmp_path / "no" / "x.safetensors")), "cannot be written: No such file"),
        (("0" * 20, str(tmp_path / "x.safetensors")), "has no finished trial 00000000000000000000. Give"),
    ):
        assert results_main.main(["export", *arguments, "--results", str(kept)]) == 2
        assert complaint in capsys.readouterr().err


# What starts from an encoder.


def transferred(*arguments: str) -> int:
    return run.main(["--table", "transfer", *LOCAL, "--set", "image_size=8", "--set", "epochs=5", *arguments])


def test_transfer_to_the_same_data_is_the_trials_own_evaluation(kept: Path) -> None:
    assert transferred("--from", "stop_gradient/with", "--results", str(kept), "--set", "train_images=300") == 0
    lines = results.load("transfer", root=kept)
    assert list(lines.row) == ["frozen", "frozen", "fine_tuned", "fine_tuned", "random", "random", "scratch", "scratch"]
    own = results.load("stop_gradient", root=kept)
    frozen, random = lines[lines.row == "frozen"], lines[lines.row == "random"]
    assert list(frozen.knn_top1) == list(own.knn_top1)
    assert list(frozen.linear_top1) == list(own.linear_top1)
    assert list(random.knn_top1) == list(own.knn_top1_init)
    assert list(lines[lines.row == "fine_tuned"].knn_top1_init) == list(own.knn_top1)
    assert frozen.encoder.nunique() == 2
    assert lines[lines.row == "scratch"].encoder.isna().all()
    assert (lines.classifier_top1.notna() == (lines.method == "supervised")).all()
    assert list(lines[lines.row == "fine_tuned"].epochs) == [1, 1]


def test_the_same_encoder_by_its_trial_and_by_its_file_is_one_trial(
    kept: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    fingerprint = results.load("stop_gradient", root=kept).fingerprint[0]
    results.export(fingerprint, tmp_path / "exported.safetensors", root=kept)
    both = {}
    for how in (("--from", fingerprint), ("--weights", str(tmp_path / "exported.safetensors"))):
        assert transferred(*how, "--rows", "frozen", "--results", str(tmp_path if "--weights" in how else kept)) == 0
        both[how[0]] = pd.read_parquet((tmp_path if "--weights" in how else kept) / "transfer.parquet")
    by_trial = both["--from"][both["--from"].encoder_from == fingerprint]
    assert list(by_trial.fingerprint) == list(both["--weights"].fingerprint)
    assert both["--weights"].encoder_from[0] == f"exported.safetensors@{both['--weights'].encoder[0]}"
    capsys.readouterr()
    exported = ("--weights", str(tmp_path / "exported.safetensors"))
    assert transferred(*exported, "--rows", "frozen", "--results", str(kept)) == 0
    assert "1 done.\nNow: nothing to train." in capsys.readouterr().out


def test_an_encoder_of_the_digits_on_other_pictures_against_sklearn(kept: Path, tmp_path: Path) -> None:
    images = {f"{split}/{name}/{i}.png": 2 * i + (split == "val") for split, n in (("train", 40), ("val", 20))
              for name in ("a", "b") for i in range(n)}  # fmt: skip
    write_images(tmp_path / "pictures", images)
    assert transferred(
        "--from", "stop_gradient/with", "--seeds", "1", "--rows", "frozen,fine_tuned", "--data",
        str(tmp_path / "pictures"), "--set", "batch_size=16", "--results", str(kept),
    ) == 0  # fmt: skip
    lines = pd.read_parquet(kept / "transfer.parquet")
    lines = lines[lines.data.str.startswith("images@")]
    assert list(lines.outcome) == ["finished", "finished"]
    assert list(lines.test_images) == [40, 40]


def test_fine_tuning_that_was_killed_is_bit_for_bit_the_same(kept: Path) -> None:
    from ablations import trial as trials

    store, own = Store.at(kept), results.load("stop_gradient", root=kept)
    weights = encoders.weights(own.fingerprint[0], store)
    digest = encoder.digest(weights)
    chosen = {**tiny.FIELDS, "method": "supervised", "epochs": 3, "encoder": digest}
    of = planning.recipe("digits", data.locate(None).name, chosen)
    decoded = trials.shared(data.locate(None), [of])[of.train_images]
    assert decoded is not None

    def once(place: tiny.Memory) -> Any:
        result, curve = trials.run(
            of, configs.Runtime(checkpoint_seconds=0), pictures=decoded, place=place, on_epoch=lambda line: None,
            weights=encoder.packed(weights, {}),
        )  # fmt: skip
        numbers = [[line[name] for name in ("loss", "knn_top1", "classifier_top1")] for line in curve]
        return result["knn_top1_init"], result["linear_top1"], numbers

    undisturbed = once(tiny.Memory())
    assert undisturbed[0] == own.knn_top1[0]
    dying = tiny.Memory(die_at=2)
    with pytest.raises(KeyboardInterrupt):
        once(dying)
    assert once(dying) == undisturbed


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ((), "Table transfer starts from an encoder: give --from TABLE/ROW or --weights FILE."),
        (("--from", "stop_gradient"), "--from takes TABLE/ROW, or fingerprints separated by commas."),
        (("--from", "stop_gradient/without"), "has no results of stop_gradient/without. Known there: with."),
        (("--from", "epochs/1x"), "has no results of epochs/1x."),
        (("--from", "0" * 20), "has no finished trial 00000000000000000000. Give"),
        (("--from", "stop_gradient/with", "--seeds", "3"), "has no checkpoint of seed 2; there are those of 0, 1."),
        (("--from", "stop_gradient/with", "--weights", "x"), "--from and --weights exclude each other."),
        (
            ("--from", "stop_gradient/with", "--set", "width=8"),
            "--set width=8: the encoder of stop_gradient/with (digits, digits@15bec4e102d14cf1, base_lr=0.5",
        ),
    ],
)
def test_an_encoder_that_is_not_to_be_had_is_refused(
    arguments: tuple[str, ...], complaint: str, kept: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert transferred(*arguments, "--results", str(kept), "--plan") == 2
    told = capsys.readouterr().err
    assert complaint in told
    assert told.count("\n") == 1


def test_encoders_of_several_kinds_are_told_apart(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for more in ((), ("--set", "symmetric=false")):
        assert run.main([*TRAINED, *more, "--results", str(tmp_path)]) == 0
    lines = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert transferred("--from", "stop_gradient/with", "--results", str(tmp_path)) == 2
    told = capsys.readouterr().err
    assert "stop_gradient/with has several kinds of results" in told
    for fingerprint, overrides in zip(lines.fingerprint, lines.overrides, strict=True):
        assert f"{fingerprint} (digits, digits@15bec4e102d14cf1, {overrides})" in told
        assert transferred("--from", fingerprint, "--rows", "frozen", "--results", str(tmp_path)) == 0
    both = pd.read_parquet(tmp_path / "transfer.parquet")
    assert set(both.encoder_from) == set(lines.fingerprint)
    assert both.encoder.nunique() == 2


def test_an_encoder_is_refused_where_no_table_starts_from_one(kept: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for how in (["--from", "stop_gradient/with"], ["--weights", "x.pth"]):
        command = ["--table", "stop_gradient", *how, "--results", str(kept), "--plan"]
        assert run.main(command) == 2
        assert "error: " in capsys.readouterr().err


def test_a_trial_without_a_kept_checkpoint_is_named_and_trained_again_on_request(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TRAINED, "--results", str(tmp_path)]
    assert run.main([each for each in command if each != "--keep-checkpoints"]) == 0
    first = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert transferred("--from", "stop_gradient/with", "--results", str(tmp_path)) == 2
    assert "No checkpoint of stop_gradient/with is kept" in capsys.readouterr().err
    assert run.main(command) == 0
    assert f"No checkpoint is kept of 1 trials that are done: {first.fingerprint[0]}" in capsys.readouterr().out
    assert not (tmp_path / "kept").exists()
    assert run.main([*command, "--rerun", "unkept"]) == 0
    again = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert list(again.loss) == list(first.loss)
    assert again.started[0] > first.started[0]
    assert [each.name[:20] for each in (tmp_path / "kept").iterdir()] == list(first.fingerprint)
    assert len(list((tmp_path / "superseded" / "trials").iterdir())) == 1
    capsys.readouterr()
    assert run.main([*command, "--rerun", "unkept", "--plan"]) == 0
    assert "Now: nothing to train." in capsys.readouterr().out


# Tables with them.


def test_torchvisions_weights_are_a_row_where_they_can_be_had(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def offline(name: str) -> Any:
        raise OSError("no network")

    def plan(**overrides: Any) -> Any:
        of = dict(recipe="flowers", data="images@0", train_images=3000, overrides=overrides)
        trials = planning.plan(catalogue.get("flowers"), encoders=encoders.Encoders({}), **of)
        return next(trial for trial in trials if trial.row.name == "imagenet_supervised")

    monkeypatch.setattr(encoders, "_fetched", offline)
    missing = plan()
    assert missing.infeasible == "torchvision's weights cannot be had: no network."
    assert missing.config.encoder == "0" * 16  # and so it is not the row of a network as it starts
    assert (
        missing.encoder_from == "torchvision resnet18 IMAGENET1K_V1"
    )  # so that its line is replaced once they are there
    theirs = {key: value for key, value in resnet("resnet18").state_dict().items() if not key.startswith("fc.")}
    monkeypatch.setattr(encoders, "_fetched", lambda name: theirs)
    there = plan()
    assert there.infeasible is None
    assert (there.config.encoder, there.encoder_from) == (encoder.digest(theirs), "torchvision resnet18 IMAGENET1K_V1")
    assert "it has no resnet18 of width 8" in plan(width=8).infeasible


def test_all_tables_are_planned_without_an_encoder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--table", "all", "--plan", "--fingerprints", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "flowers/random seed 0" in told
    assert "transfer/" not in told


@pytest.mark.slow
def test_the_supervised_ceiling_of_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "stop_gradient", "--rows", "with", *LOCAL, "--set", "method=supervised"]
    for small in ("epochs=8", "image_size=8", "width=8"):
        command += ["--set", small]
    assert run.main([*command, "--results", str(tmp_path)]) == 0
    assert "| classifier |" in capsys.readouterr().out
    (line,) = results.load("stop_gradient", root=tmp_path).to_dict("records")
    assert line["outcome"] == "finished"
    assert line["classifier_top1"] > 90
    assert line["linear_top1"] > 90
    assert line["knn_top1_init"] < 70
    absent = ("z_std", "effective_rank", "predictor_identity", "dim", "projector_layers", "predictor_hidden", "encoder")
    assert all(pd.isna(line[name]) for name in absent)
    assert run.main([*command, "--set", "dim=16", "--results", str(tmp_path)]) == 2
    assert "no row of table stop_gradient has a method that uses it" in capsys.readouterr().err
