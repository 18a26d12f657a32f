"""The trials of a run as a person sees them go."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import tiny

from ablations import catalogue, planning, progress, run
from ablations import trial as trials
from ablations.progress import Progress
from ablations.store import Store
from simsiam.config import fingerprint


def test_a_terminal_without_rich_has_plain_lines(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "rich", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    (trial,) = planning.plan(
        catalogue.get("stop_gradient"), recipe="digits", data="digits@0", train_images=1437, overrides={}, rows=["with"]
    )
    with Progress([trial]) as progress:
        progress.start(trial.fingerprint)
    assert capsys.readouterr().out == "stop_gradient/with seed 0: starting\n"


def test_a_trial_that_goes_on_from_a_checkpoint_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also one that has failed since, which a plan counts among the failed."""

    def broken(config: Any, *args: Any, **kwargs: Any) -> Any:
        Store.at(tmp_path).checkpoint(fingerprint(config), config.method).write(b"half")
        raise RuntimeError("it broke")

    monkeypatch.setattr(trials, "run", broken)
    command = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *tiny.OVERRIDES]
    for said in ("starting", "starting from its checkpoint"):
        assert run.main([*command, "--results", str(tmp_path)]) == 1
        assert f"stop_gradient/with seed 0: {said}\n" in capsys.readouterr().out


def a_hundred() -> list[Any]:
    asked = dict(recipe="digits", data="digits@0", train_images=1437, overrides={"epochs": 10})
    return planning.plan(catalogue.get("batch_norm"), seeds=range(20), **asked)


def test_what_is_left_in_all_is_told_from_the_speed_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    trials = a_hundred()[:4]  # of 10 epochs each
    view = Progress(trials)
    assert view.summary() == "0 of 4 done"
    for trial in trials[:2]:
        view.start(trial.fingerprint)
    clock[0] += 30
    for trial in trials[:2]:
        for epoch in (1, 2, 3):
            view.epoch(trial.fingerprint, {"epoch": epoch, "loss": -0.5, "z_std": 0.9, "knn_top1": 80.0})
    assert view.summary() == "0 of 4 done, 2:50 left in all"  # 6 epochs in 30 s, 34 to go
    view.finish(trials[0].fingerprint, {"outcome": "diverged"})
    assert view.summary() == "1 of 4 done, 2:15 left in all"


def test_a_trial_that_goes_on_from_a_checkpoint_counts_what_it_does(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    (trial,) = a_hundred()[:1]
    view = Progress([trial])
    view.start(trial.fingerprint)
    clock[0] += 10
    view.epoch(trial.fingerprint, {"epoch": 8, "loss": -0.5, "z_std": 0.9, "knn_top1": 80.0})
    assert view.summary() == "0 of 1 done, 0:20 left in all"


def test_a_hundred_trials_are_a_window_of_what_runs_what_ended_and_what_is_next() -> None:
    trials = a_hundred()
    view = Progress(trials)
    for trial in trials[:40]:
        view.start(trial.fingerprint)
        view.finish(trial.fingerprint, {"outcome": "finished"})
    for trial in trials[40:44]:
        view.start(trial.fingerprint)
    shown, others = view.board().window(24)
    names = [state.name for state in shown]
    assert len(names) == 18
    assert names[:4] == [trial.name for trial in trials[40:44]]
    assert names[4] == trials[39].name
    assert names[-1] == trials[50].name
    assert others == "and 82 more, 56 waiting in all"
    for trial in trials[44:]:
        view.start(trial.fingerprint)
    assert len(view.board().window(10)[0]) == 4
    few = Progress(trials[:3])
    assert few.board().window(24)[1] == ""
