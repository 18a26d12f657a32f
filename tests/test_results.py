"""What people import and call."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pandas as pd
import pytest
import tiny
from made import a_result, plan
from scipy import stats

from ablations import catalogue, planning, report, results, run
from ablations import table as tables
from ablations.columns import COLUMNS, CURVE
from ablations.results import __main__ as results_main
from ablations.store import Store
from ablations.table import UserError

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a real run of two seeds."""
    path = tmp_path_factory.mktemp("results")
    command = ["--table", "stop_gradient", "--launcher", "local", "--seeds", "2", *tiny.OVERRIDES]
    assert run.main([*command, "--results", str(path)]) == 0
    return path


def test_load_gives_a_frame_with_units(folder: Path) -> None:
    frame = results.load("stop_gradient", root=folder)
    assert list(frame.columns) == list(COLUMNS)
    assert len(frame) == 4
    assert frame.attrs["units"]["knn_top1"] == "per cent of the test set"
    assert frame.attrs["units"]["image_size"] == "pixels"
    backwards = " ".join(reversed(frame.overrides[0].split()))
    for asked in (frame.overrides[0], backwards):
        assert len(results.load("stop_gradient", recipe="digits", overrides=asked, root=folder)) == 4
    for asked, known in (
        ({"overrides": ""}, re.escape(frame.overrides[0])),
        ({"recipe": "digit"}, "Did you mean 'digits'"),
        ({"data": "digits@0"}, frame.data[0]),
    ):
        with pytest.raises(UserError, match=rf"Unknown \w+ of the lines of stop_gradient .*{known}"):
            results.load("stop_gradient", root=folder, **asked)


def test_results_are_read_where_a_run_has_put_them(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setenv("SIMSIAM_RESULTS", str(folder))
    pd.testing.assert_frame_equal(results.load("stop_gradient"), results.load("stop_gradient", root=folder))
    fingerprints = results.load("stop_gradient").fingerprint[:2]
    assert results_main.main(["diff", *fingerprints]) == 0
    assert fingerprints[1] in capsys.readouterr().out


def test_curves_have_a_line_an_epoch_of_each_trial(folder: Path) -> None:
    curves = results.curves("stop_gradient", root=folder)
    assert list(curves[["row", "seed", "epoch"]].itertuples(index=False, name=None)) == [
        (row, seed, epoch) for row in ("with", "without") for seed in (0, 1) for epoch in (1, 2)
    ]
    assert curves.attrs["units"]["seconds"] == "s, of the epoch's steps"
    last = curves[curves.epoch == 2].reset_index()
    pd.testing.assert_series_equal(last.loss, results.load("stop_gradient", root=folder).loss)


def test_paper_gives_the_papers_numbers() -> None:
    frame = results.paper("batch_size")
    assert dict(zip(frame.row, frame.paper, strict=True))["4096"] == 64.0
    assert frame.attrs["units"]["paper"].endswith("per cent")


def test_what_is_not_there_says_what_to_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"Run: python ablations/run\.py --table similarity"):
        results.load("similarity", root=tmp_path)
    with pytest.raises(UserError, match="Unknown table"):
        results.load("similarty", root=tmp_path)
    assert results_main.main(["diff", "a", "b", "--results", str(tmp_path)]) == 2
    assert "has no trial a. Give a fingerprint, its first digits, or TABLE/ROW/SEED." in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["trials", "tables alone, as published"])
def test_diff_shows_the_fields_that_differ_and_the_results(
    kept: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    if kept != "trials":
        shutil.rmtree(tmp_path / "trials")
    one, other = (line.fingerprint for line in results.load("stop_gradient", root=tmp_path).iloc[[0, 3]].itertuples())
    told = []
    for pair in ((one, other), (one[:12], other[:12]), ("stop_gradient/with/0", "stop_gradient/without/1")):
        assert results_main.main(["diff", *pair, "--results", str(tmp_path)]) == 0
        told.append(capsys.readouterr().out)
    assert told[0] == told[1] == told[2]
    heading, _, *lines = ([cell.strip() for cell in text.split("|")[1:-1]] for text in told[0].splitlines())
    assert heading == ["", "stop_gradient/with seed 0", "stop_gradient/without seed 1"]
    names = [line[0] for line in lines]
    assert names[:3] == ["fingerprint", "seed", "stop_gradient"]
    assert {"outcome", "knn_top1", "z_std"} <= set(names[3:])
    assert "epochs" not in names


def test_a_trial_that_is_several_is_refused_with_their_names(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for overrides in ({}, {"epochs": 1}, {"epochs": 2}):
        trials = plan(seeds=[0], overrides=overrides)
        for trial in trials:
            store.write(a_result(trial.config), [])
        store.rebuild(trials)
    with pytest.raises(UserError, match=r"^ is 6 trials: .* \(stop_gradient/with seed 0, Recipe .*; \.\.\.\. Give the"):
        results.diff("", "", root=tmp_path)
    assert "with seed 0 |" in results.diff("stop_gradient/with", "stop_gradient/without", root=tmp_path)
    assert "| epochs " not in results.diff("stop_gradient/with", "stop_gradient/without", root=tmp_path)


def test_lines_that_no_mean_should_be_over_are_warned_of() -> None:
    root = ROOT / "results" / "published" / "digits"
    several = r"predictor are of several overrides: '' \(none\), epochs=25\. Choose one"
    for ask in (results.load, results.curves):
        with pytest.warns(UserWarning, match=several) as told:
            assert len(ask("predictor", root=root)) >= 40
        assert [each.filename for each in told] == [__file__]  # of the line that asks, which is told once
    assert len(results.load("predictor", overrides="", root=root)) == 20


def test_rows_whose_names_end_as_seeds_do_are_told_apart() -> None:
    root = ROOT / "results" / "published" / "digits"
    with pytest.raises(UserError, match=r"is 2 trials: .*output_dim/d/2 seed 0.*") as told:
        results.diff("output_dim/d/2", "output_dim/d", root=root)
    assert "(output_dim/d seed 2," in str(told.value)
    assert "output_dim/d/2 seed 0 | output_dim/d seed 0" in results.diff("output_dim/d/2/0", "output_dim/d", root=root)


def test_the_first_seed_without_overrides_is_a_rows_and_a_broken_file_of_another_table_hides_none(
    tmp_path: Path,
) -> None:
    store = Store.at(tmp_path)
    for overrides, seeds in (({"epochs": 2}, (0, 1)), ({}, (3, 4))):
        trials = plan(seeds=seeds, overrides=overrides)
        for trial in trials:
            store.write(a_result(trial.config), [])
        store.rebuild(trials)
    (tmp_path / "predictor.parquet").write_bytes(b"xx")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "mine.parquet")
    with pytest.warns(UserWarning, match=r"predictor\.parquet is damaged"):
        told = results.diff("stop_gradient/with", "stop_gradient/without/1", root=tmp_path)
    assert "stop_gradient/with seed 3 | stop_gradient/without seed 1" in told
    (tmp_path / "predictor.parquet").unlink()
    with pytest.raises(UserError, match=r"Recipes there: digits\. Tables there: stop_gradient\.$"):
        results.claims("cifar10", root=tmp_path)


def test_where_nothing_is_of_a_recipe_what_is_there_is_named(folder: Path) -> None:
    for asked, there in (
        ({"recipe": "cifar10"}, r"of recipe cifar10\. Recipes there: digits\. Tables there: stop_gradient\."),
        ({"names": ["predictor"]}, r"of recipe digits of table predictor\. Recipes there"),
        (
            {"names": ["stop_gradient"]},
            r"of recipe digits of table stop_gradient without overrides\. Overrides that it",
        ),
    ):
        with pytest.raises(UserError, match=there):
            results.claims(root=folder, **asked)  # type: ignore[arg-type]


def test_claims_of_one_recipe_with_one_set_of_overrides(tmp_path: Path, capsys: Any) -> None:
    store = Store.at(tmp_path)
    table = catalogue.get("stop_gradient")
    for overrides, outcome in (({}, "collapsed"), ({"epochs": 1}, "finished")):
        trials = planning.plan(
            table, recipe="digits", data="digits@0", train_images=1437, overrides=overrides, seeds=range(3)
        )
        for trial in trials:
            fine = trial.row.name == "with"
            values = {
                "outcome": "finished" if fine else outcome,
                "knn_top1": 90.0 if fine else 30.0 + trial.config.seed,
            }
            store.write(a_result(trial.config, knn_top1_init=50.0, **values), [])
        store.rebuild(trials)
    assert [each.verdict for _, each in results.claims(root=tmp_path)] == ["reproduced"] * 3
    verdicts = [each.verdict for _, each in results.claims(overrides="epochs=1", root=tmp_path)]
    assert verdicts == ["reproduced", "contradicted", "reproduced"]
    assert results_main.main(["claims", "--results", str(tmp_path)]) == 0
    assert "stop_gradient: without collapses" in capsys.readouterr().out


def kept(store: Store, data: str = "digits@0", overrides: Any = MappingProxyType({}), **changes: Any) -> None:
    """Results of three seeds of both rows of a table."""
    table = catalogue.get("stop_gradient")
    asked: dict[str, Any] = dict(recipe="digits", data=data, train_images=1437, overrides=overrides)
    trials = planning.plan(table, **asked, seeds=range(3))
    for trial in trials:
        store.write(a_result(trial.config, knn_top1_init=50.0, **changes), [{"epoch": 1, "loss": -0.5}])
    store.rebuild(trials)


def test_stale_lines_are_said_by_whoever_reads_them(tmp_path: Path, capsys: Any) -> None:
    store, trials = Store.at(tmp_path), plan(seeds=range(3))
    for trial in trials:
        changes = {"sources": "0" * 16} if trial.config.seed == 0 else {}
        store.write(a_result(trial.config, **changes), [{"epoch": 1, "loss": -0.5}])
    store.rebuild(trials)
    said = r"2 of 6 lines of stop_gradient are stale, since the code has changed: `--rerun stale` trains them again\."
    for read in (results.load, results.pivot):
        with pytest.warns(UserWarning, match=said):
            read("stop_gradient", root=tmp_path)
    command = ["--results", str(tmp_path)]
    assert results_main.main(["claims", *command]) == 0
    assert re.search(said, capsys.readouterr().err)
    assert report.main(["--format", "csv", *command]) == 0
    shown = capsys.readouterr()
    assert re.search(said, shown.err)
    assert shown.out.count("1 stale") == 2


def test_lines_of_several_data_sets_are_not_mixed(tmp_path: Path, capsys: Any) -> None:
    store = Store.at(tmp_path)
    kept(store)
    kept(store, data="images@1", outcome="collapsed")
    with pytest.raises(UserError, match=r"several data sets: digits@0, images@1\. Choose one with --data"):
        results.claims(root=tmp_path)
    assert [each.verdict for _, each in results.claims(data="digits@0", root=tmp_path)][:2] == [
        "reproduced",
        "contradicted",
    ]
    assert results_main.main(["claims", "--data", "images@1", "--results", str(tmp_path)]) == 0
    assert "3 of 3 seeds collapsed" in capsys.readouterr().out
    assert set(results.load("stop_gradient", data="images@1", root=tmp_path).outcome) == {"collapsed"}
    with pytest.warns(UserWarning, match="of several data: digits@0, images@1"):
        assert set(results.curves("stop_gradient", root=tmp_path).data) == {"digits@0", "images@1"}


def test_lines_of_another_version_of_a_recipe_are_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kept(Store.at(tmp_path))
    assert len(results.load("stop_gradient", root=tmp_path)) == 6
    monkeypatch.setitem(planning.recipes.RECIPES, "digits", {**planning.recipes.RECIPES["digits"], "base_lr": 0.25})
    with pytest.warns(UserWarning, match="6 lines of stop_gradient left out: another version of the recipe"):
        assert results.load("stop_gradient", root=tmp_path).empty
    assert results_main.main(["claims", "--results", str(tmp_path)]) == 0
    assert "6 lines of stop_gradient left out" in capsys.readouterr().err


def test_watch_tells_at_each_look_what_it_leaves_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    kept(Store.at(tmp_path))
    monkeypatch.setitem(planning.recipes.RECIPES, "digits", {**planning.recipes.RECIPES["digits"], "base_lr": 0.25})
    told = []

    def look(_: float) -> None:
        told.append(capsys.readouterr().err)
        if len(told) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(results_main.time, "sleep", look)
    assert results_main.main(["watch", "stop_gradient", "stop_gradient", "--results", str(tmp_path)]) == 0
    assert [each.count("6 lines of stop_gradient left out") for each in told] == [1, 1]


def test_watch_says_that_a_recipe_is_altered(tmp_path: Path, capsys: Any) -> None:
    kept(Store.at(tmp_path), overrides={"dim": 64})
    command = ["stop_gradient", "--overrides", "dim=64", "--results", str(tmp_path)]
    for asked in (["claims", *command], ["watch", "--once", *command]):
        assert results_main.main(asked) == 0
        assert "The recipe is altered (--set dim=64)" in capsys.readouterr().out


def test_a_place_that_the_system_refuses_is_an_error_in_one_line(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "file").write_text("")
    kept(Store.at(tmp_path / "results"))
    there = ["--results", str(tmp_path / "results")]
    assert results_main.main(["claims", "--results", str(tmp_path / "file")]) == 2
    assert report.main([*there, "--figures", str(tmp_path / "file")]) == 1
    assert report.main(["--results", str(tmp_path / "file" / "x")]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    assert all(line.startswith("error: ") and str(tmp_path / "file") in line for line in lines)


def test_results_that_are_not_there_are_not_confused_with_other_overrides(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        UserError,
        match=r"no results of recipe digits without overrides.* --overrides 'base_lr=0.5 crop_min_area=0.4 dim=16",
    ):
        results.claims(root=folder)
    with pytest.raises(UserError, match=r"no results of recipe digits\. Recipes there: none"):
        results.claims(root=tmp_path)


def test_the_page_on_results_has_every_column() -> None:
    text = (ROOT / "results" / "README.md").read_text()
    named = set(re.findall(r"`(\w+)`", text))
    fields = set(COLUMNS) - set(tables.configs.FIELDS)
    assert fields <= named
    assert set(CURVE) <= named
    assert "every field of `Config`" in text


def test_compare_is_scipys_paired_interval_and_pivot_the_means(folder: Path) -> None:
    frame = results.load("stop_gradient", root=folder)
    asked: dict[str, Any] = {"overrides": frame.overrides[0], "root": folder}
    found = results.compare("stop_gradient", "with", "without", **asked)
    values = {row: lines.sort_values("seed").knn_top1.to_numpy() for row, lines in frame.groupby("row")}
    differences = values["with"] - values["without"]
    spread = max(differences.std(ddof=1), 100 / 360)  # not below one test picture
    assert (found.mean, found.n) == (pytest.approx(differences.mean()), 2)
    assert found.half == pytest.approx(stats.t.ppf(0.975, 1) * spread / 2**0.5)
    linear = frame.pivot(index="seed", columns="row", values="linear_top1")
    assert results.compare("stop_gradient", "with", "without", value="linear_top1", **asked).mean == pytest.approx(
        (linear["with"] - linear["without"]).mean()
    )
    by_seed = results.pivot("stop_gradient", columns="seed", root=folder)
    assert list(by_seed.index) == ["with", "without"]
    assert by_seed.loc["without", 1] == values["without"][1]
    means = results.pivot("stop_gradient", value="loss", root=folder)
    assert means.loc["with", frame.overrides[0]] == pytest.approx(frame[frame.row == "with"].loss.mean())
    with pytest.raises(UserError, match="Unknown row of stop_gradient with results 'witout'"):
        results.compare("stop_gradient", "with", "witout", **asked)
    with pytest.raises(UserError, match="Unknown column 'knn'"):
        results.pivot("stop_gradient", value="knn", root=folder)
    for name in ("outcome", "knn", "paper", "base_lr"):
        with pytest.raises(UserError, match=f"Unknown column of what was measured '{name}'"):
            results.compare("stop_gradient", "with", "without", value=name, **asked)
    with pytest.raises(UserError, match="with and with are one row: give two"):
        results.compare("stop_gradient", "with", "with", **asked)
    with pytest.raises(UserError, match="'outcome' has no numbers"):
        results.pivot("stop_gradient", value="outcome", root=folder)


def test_compare_says_why_two_rows_have_no_difference() -> None:
    root = ROOT / "results" / "published" / "digits"
    with pytest.raises(UserError, match="no_flip and all of augmentation are one training a seed"):
        results.compare("augmentation", "no_flip", "all", root=root)
    with pytest.raises(UserError, match=r"have a number for \(256: finished; 4096: infeasible\)"):
        results.compare("batch_size", "256", "4096", root=root)
