"""What is published, and that a run goes on from it: a tiny recipe, published as the digits are."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from made import finish, plan

from ablations import catalogue, grid, planning, provenance, published, results
from ablations.store import Store
from ablations.table import UserError
from benchmarks import publish
from simsiam.recipes import DIGITS, RECIPES

TABLE = "stop_gradient"


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A recipe `tiny` of one published table, two seeds; nothing is trained yet."""
    monkeypatch.setitem(RECIPES, "tiny", {**DIGITS, **tiny.FIELDS})
    monkeypatch.setitem(publish.PARTS, "tiny", (publish.Part("stop_gradient", seeds=2),))
    return tmp_path


def published_in(place: Path, *options: str, results: str = "work") -> int:
    return publish.main(["tiny", "--results", str(place / results), "--into", str(place / "published"), *options])


def test_it_trains_and_publishes_and_goes_on_from_what_is_published(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert published_in(place) == 0
    work, into = place / "work", place / "published"
    asked = {"recipe": "tiny", "overrides": ""}
    for name in ("load", "curves"):
        one, other = (getattr(results, name)("stop_gradient", root=root, **asked) for root in (work, into))
        besides = ["z_singular_values"] if name == "curves" else []
        pd.testing.assert_frame_equal(one.drop(columns=besides), other.drop(columns=besides))
    assert {file.name for file in (into / "curves").iterdir()} == {"stop_gradient.parquet"}
    order = pd.read_parquet(into / "curves" / "stop_gradient.parquet").fingerprint.drop_duplicates()
    assert [*order] == [*results.load("stop_gradient", root=into, **asked).fingerprint]
    shown = results.load("stop_gradient", root=into, **asked).drop_duplicates("outcome").fingerprint
    assert {file.stem for file in (into / "pictures").iterdir()} == set(shown)
    page = (into / "README.md").read_text()
    assert "4 trainings" in page
    assert "python -m benchmarks.publish tiny" in page
    assert "stop_gradient: with does not collapse" in page
    capsys.readouterr()
    assert published_in(place, results="fresh") == 0
    told = capsys.readouterr().out
    assert "4 trials taken" in told
    assert "4 done.\nNow: nothing to train." in told
    one, other = (results.load("stop_gradient", root=place / name, **asked) for name in ("work", "fresh"))
    pd.testing.assert_frame_equal(one, other)


def test_a_table_whose_run_is_interrupted_is_not_published(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parts = (publish.Part("stop_gradient", seeds=1), publish.Part("similarity", seeds=1))
    monkeypatch.setitem(publish.PARTS, "tiny", parts)
    ran = publish.run.main

    def interrupted(command: Sequence[str]) -> int:
        code = ran([*command, "--rows", "cosine"] if "similarity" in command else command)
        return 130 if "similarity" in command else code

    monkeypatch.setattr(publish.run, "main", interrupted)
    assert published_in(place) == 130
    assert {file.name for file in (place / "published").glob("*.parquet")} == {"stop_gradient.parquet"}
    assert "similarity" not in (place / "published" / "README.md").read_text()
    assert (place / "work" / "similarity.parquet").is_file()


def test_a_part_that_is_published_stays_so_until_its_turn(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    longer, late = publish.Part("stop_gradient", seeds=2, epochs=2), publish.Part("stop_gradient", seeds=1, epochs=3)
    parts = (publish.Part("stop_gradient", seeds=1), longer, late)
    monkeypatch.setitem(publish.PARTS, "tiny", parts[:2])
    assert published_in(place) == 0
    lines = [(line["overrides"], line["row"], line["seed"]) for line in Store.at(place / "published").table(TABLE)]
    assert len(lines) == 2 + 4
    page = (place / "published" / "README.md").read_text()
    assert "| stop_gradient | 6            | 6    |" in page
    monkeypatch.setitem(publish.PARTS, "tiny", parts)
    ran, codes = publish.run.main, [0, 130]
    monkeypatch.setattr(publish.run, "main", lambda command: ran(command) or codes.pop(0))
    assert published_in(place, results="fresh") == 130
    into = Store.at(place / "published")
    assert [(line["overrides"], line["row"], line["seed"]) for line in into.table(TABLE)] == lines
    assert set(into.curves(TABLE, [line["fingerprint"] for line in into.table(TABLE)])) == {
        line["fingerprint"] for line in into.table(TABLE)
    }
    assert "| stop_gradient | 6            | 6    |" in (place / "published" / "README.md").read_text()


def test_other_seeds_are_published_elsewhere(place: Path) -> None:
    assert published_in(place, "--first-seed", "5") == 0
    frame = results.load("stop_gradient", recipe="tiny", root=place / "published")
    assert set(frame.seed) == {5, 6}
    assert "--first-seed 5" in (place / "published" / "README.md").read_text()


def test_a_run_that_nothing_has_come_of_publishes_nothing(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish.run, "main", lambda argv: 130)
    assert published_in(place) == 130
    assert not (place / "published").exists()


def test_a_failed_trial_stops_no_other_table(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(publish.PARTS, "tiny", (publish.Part("stop_gradient"), publish.Part("similarity")))
    asked = []
    monkeypatch.setattr(publish.run, "main", lambda argv: asked.append(argv[1]) or 1)
    assert published_in(place) == 1
    assert asked == ["stop_gradient", "similarity"]


def test_the_time_limit_ends_it_with_its_exit_code(place: Path) -> None:
    assert published_in(place, "--time-limit", "0.1") == 75
    assert not (place / "published").exists()


def test_what_is_stale_or_has_failed_is_neither_published_nor_taken(tmp_path: Path) -> None:
    store, into = Store.at(tmp_path / "work"), Store.at(tmp_path / "published")
    good, stale, failed = (plan(rows=["with"], seeds=[seed])[0] for seed in range(3))
    finish(store, [good])
    finish(store, [stale], sources="0" * 16)
    store.fail(failed.config, "no reason")
    store.rebuild([good, stale, failed])
    assert [line["fingerprint"] for line in published.pack([good, stale, failed], store, into)] == [good.fingerprint]
    assert [line["seed"] for line in into.table("stop_gradient")] == [0]
    fresh = Store.at(tmp_path / "fresh")
    assert published.unpack(into, fresh) == 1
    assert published.unpack(into, fresh) == 0
    assert fresh.states([good.fingerprint]) == {good.fingerprint: "done"}
    assert fresh.curve(good.fingerprint) is not None
    (line,) = into.table("stop_gradient")
    assert not provenance.is_stale(line)
    assert provenance.is_stale({**line, "sources": "0" * 16})
    assert provenance.is_stale({**line, "method": "another checkout's"})
    assert not provenance.is_stale({**line, "sources": "0" * 16, "outcome": "infeasible"})


def test_a_row_that_can_never_start_is_published_with_its_reason_the_same_each_time(tmp_path: Path) -> None:
    store, into = Store.at(tmp_path / "work"), Store.at(tmp_path / "published")
    (trial,) = plan("batch_size", rows=["4096"])
    assert trial.infeasible
    store.rebuild([trial])
    (line,) = published.pack([trial], store, into)
    assert line["outcome"] == "infeasible"
    content = into.folder.read("batch_size.parquet")
    store.rebuild([trial])
    published.pack([trial], store, into)
    assert into.folder.read("batch_size.parquet") == content
    assert published.unpack(into, Store.at(tmp_path / "fresh")) == 0


def test_every_part_is_of_a_known_table_and_its_rows() -> None:
    for what, parts in publish.PARTS.items():
        recipe = what.partition("-")[0]
        assert recipe in RECIPES
        for part in parts:
            asked = {"rows": part.rows} if part.rows else {}
            assert plan(part.table, recipe=recipe, train_images=50_000, **asked)


def test_a_tuned_table_is_published_with_the_verdicts_at_both_settings(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(publish.PARTS, "tiny-tuned", (publish.Part("stop_gradient", seeds=2, tune="base_lr=0.2,0.5"),))
    into = place / "tuned"
    assert publish.main(["tiny-tuned", "--results", str(place / "work"), "--into", str(into)]) == 0
    name = "stop_gradient_tuned_base_lr"
    assert len(results.load(name, root=into)) == 2 * (2 + 4)
    choices, verdicts = results.tuned(name, recipe="tiny", root=into)
    assert [choice.row for choice in choices] == ["with", "without"]
    assert str(verdicts[0].claim) == "with does not collapse"
    page = (into / "README.md").read_text()
    assert "python -m benchmarks.publish tiny-tuned" in page
    assert "Stop-gradient, each row at its own base_lr" in page
    assert "| at the recipe's | each at its own |" in page
    with pytest.raises(UserError, match="is not tuned"):
        results.tuned("stop_gradient", recipe="digits", root=publish.PUBLISHED / "digits")


def test_claims_that_change_where_each_row_has_its_own(tmp_path: Path) -> None:
    asked: dict[str, Any] = dict(recipe="digits", data="digits@0", overrides={})
    table = grid.tuned(catalogue.get("stop_gradient"), "stop_gradient_tuned_base_lr", {"base_lr": (0.1, 0.2)})
    table = planning.resolved(table, **asked)
    trials = planning.plan(table, **asked, train_images=1437, seeds=range(3))
    store = Store.at(tmp_path / "digits-tuned")
    for trial in trials:
        collapsed = not trial.config.stop_gradient and trial.config.base_lr == 0.2  # the recipe's own
        numbers = dict(outcome="collapsed" if collapsed else "finished", knn_top1=50.0 if collapsed else 95.0)
        figure = 90.0 - 100 * trial.config.base_lr
        finish(store, [trial], **numbers, knn_train_top1=figure, knn_top1_init=20.0, test_images=360)
    store.rebuild(trials)
    lines = publish.changed(tmp_path).splitlines()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines if line.startswith("| Sec")]
    assert [row[1:5] for row in rows] == [
        ["stop_gradient: without collapses", "reproduced", "contradicted", "without base_lr=0.1 <"],
        [
            "stop_gradient: without is worse than with by more than 10",
            "reproduced",
            "contradicted",
            "without base_lr=0.1 <, with base_lr=0.1 <",
        ],
    ]
    assert lines[-1] == "With the same verdict at both: 1 claims."
    assert publish.changed(tmp_path / "nowhere") == ""


def test_the_claims_that_change_are_in_the_papers_order() -> None:
    lines = publish.changed(publish.PUBLISHED).splitlines()
    tables = [line.split("|")[2].partition(":")[0].strip() for line in lines if line.startswith("| Sec")]
    assert len(set(tables)) > 1
    assert tables == sorted(tables, key=catalogue.names().index)
