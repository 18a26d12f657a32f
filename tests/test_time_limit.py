"""--time-limit: a run ends by itself in time, says so, and what goes on from it is what a run without a limit is."""

from __future__ import annotations

import contextlib
import math
import re
import signal
import time
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
import torch

from ablations import request as requests
from ablations import run, training
from ablations import trial as trials
from ablations.alarm import within
from simsiam import checkpoint, data, monitor, pretrain
from simsiam.checkpoint import Checkpointer, TimeLimitError

CLOCK = ["wall_seconds", "device_seconds", "eval_seconds", "images_per_second", "started", "ended"]
TINY = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *tiny.OVERRIDES]
LONG = [part.replace("epochs=2", "epochs=60") for part in TINY]


class Clock:
    """Time that passes when the test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 1e9
        for name in ("time", "monotonic"):
            monkeypatch.setattr(checkpoint.time, name, lambda: self.now)

    def checkpointer(self, place: tiny.Memory, until: float) -> Checkpointer:
        checkpointer = Checkpointer(tiny.config(), place, seconds=math.inf, until=1e9 + until)
        checkpointer.resume()
        return checkpointer

    def spend(self, checkpointer: Checkpointer, *stretches: float) -> None:
        for seconds in stretches:
            self.now += seconds
            checkpointer.save(lambda: {"at": self.now - 1e9})


def test_a_run_ends_where_its_longest_stretch_might_not_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, place = Clock(monkeypatch), tiny.Memory()
    checkpointer = clock.checkpointer(place, until=100)
    clock.spend(checkpointer, 1, 1, 30, 1, 1)  # an evaluation of 30 s: 45 are kept for another
    assert place.writes == 0
    with pytest.raises(TimeLimitError):
        clock.spend(checkpointer, *[1] * 30)
    assert checkpointer.part("at") == 56
    clock.now = 1e9
    again = clock.checkpointer(place, until=40)
    assert again.part("at") == 56
    with pytest.raises(TimeLimitError):  # the checkpoint knows how long an evaluation takes
        clock.spend(again, 1)


@pytest.mark.slow
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_run_that_its_limit_ends_goes_on_to_the_same_numbers(
    jobs: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    command = [*LONG, "--seeds", "2", "--jobs", str(jobs), "--results"]
    begun = time.monotonic()
    assert run.main([*command, str(tmp_path / "whole")]) == 0
    minutes = (time.monotonic() - begun) / 60
    monkeypatch.setattr(requests, "_END_SECONDS", 0.0)
    capfd.readouterr()
    codes = []
    while not codes or codes[-1] == 75:
        codes.append(run.main([*command, str(tmp_path / "limited"), "--time-limit", f"{0.6 * minutes:.4f}"]))
        assert len(codes) < 20
    assert codes[0] == 75
    assert codes[-1] == 0
    out = capfd.readouterr().out
    assert re.search(r"The time limit has come before [12] trainings\. The same command goes on from here\.", out)
    tables = [pd.read_parquet(tmp_path / name / "stop_gradient.parquet") for name in ("whole", "limited")]
    pd.testing.assert_frame_equal(*(table.drop(columns=CLOCK) for table in tables), check_exact=True)
    assert not [*(tmp_path / "limited" / "checkpoints").iterdir()]


def test_an_evaluation_that_takes_longer_than_any_before_is_broken_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    evaluated = []

    def measure(*args: Any, **more: Any) -> dict[str, Any]:
        evaluated.append(time.monotonic())
        if len(evaluated) == 2:
            time.sleep(600)
        return real(*args, **more)

    real = monitor.measure
    with monkeypatch.context() as patch:
        patch.setattr(pretrain.monitor, "measure", measure)
        patch.setattr(requests, "_END_SECONDS", 0.0)
        begun = time.monotonic()
        assert run.main([*TINY, "--results", str(tmp_path), "--time-limit", "0.1"]) == 75
        assert time.monotonic() - begun < 60
    assert run.main([*TINY, "--results", str(tmp_path)]) == 0


@pytest.mark.parametrize(("owner", "name"), [(trials, "shared"), (data, "check")])
def test_pictures_that_take_longer_than_the_limit_are_broken_off(
    owner: Any, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(owner, name, lambda *_: time.sleep(600))
    monkeypatch.setattr(requests, "_END_SECONDS", 0.0)
    training._notes.cache_clear()  # of an earlier test in this process
    assert run.main([*TINY, "--results", str(tmp_path), "--time-limit", "0.05"]) == 75
    assert "The time limit has come before 1 trainings" in capsys.readouterr().out


def test_no_handler_of_exceptions_eats_the_end_of_the_time() -> None:
    def work() -> None:
        while True:
            with contextlib.suppress(Exception):  # as where a torn checkpoint is none
                time.sleep(60)

    before = signal.getsignal(signal.SIGALRM)
    for seconds in (0.0, 0.1):
        with pytest.raises(TimeLimitError):
            within(time.time() + seconds, work)
    assert signal.getsignal(signal.SIGALRM) == before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)
    assert within(time.time() + 60, lambda: "done") == "done"


def limited_to(monkeypatch: pytest.MonkeyPatch, trainings: int) -> None:
    """The time is over after so many."""
    real, ended = trials.run, []

    def limited(config: Any, *args: Any, **kwargs: Any) -> Any:
        if len(ended) == trainings:
            raise TimeLimitError
        ended.append(config)
        return real(config, *args, **kwargs)

    monkeypatch.setattr(trials, "run", limited)


def test_tuned_claims_that_lack_seeds_are_undecided(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_to(monkeypatch, 11)  # the last of "without" at its own is left
    command = [part for part in TINY if part not in ("--rows", "with")]
    command += ["--tune", "momentum=0.8,0.95", "--seeds", "2", "--results", str(tmp_path)]
    assert run.main([*command, "--time-limit", "60"]) == 75
    out = capsys.readouterr().out
    claims = [line.split("|") for line in out.splitlines() if line.startswith("| Sec. 4.1")]
    about = [cells for cells in claims if "without" in cells[2]]
    assert len(about) == 2
    for cells in about:
        assert cells[4].strip() == "undecided"
        assert "short of seeds: the time limit has come first" in cells[6]


def test_claims_that_lack_seeds_are_undecided_and_get_no_more_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limited_to(monkeypatch, 4)
    command = [part for part in TINY if part not in ("--rows", "with")]
    command += ["--seeds-until-decided", "10", "--results", str(tmp_path)]
    assert run.main([*command, "--time-limit", "60"]) == 75
    out = capsys.readouterr().out
    assert out.count("Now: ") == 1
    claims = [line for line in out.splitlines() if line.startswith("| Sec. 4.1")]
    short = [line for line in claims if "without short of seeds: the time limit has come first" in line]
    assert len(claims) == 3
    assert len(short) == 2
    assert all("undecided" in line for line in short)


@pytest.mark.parametrize("minutes", ["0.2", "-1", "nan", "inf"])
def test_a_limit_that_leaves_no_time_to_train_is_refused(minutes: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*TINY, "--time-limit", minutes]) == 2
    assert f"Got {float(minutes):g} instead" in capsys.readouterr().err


def test_nothing_starts_once_the_time_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(requests, "_END_SECONDS", 5.99)
    monkeypatch.setattr(torch, "set_num_threads", lambda _: pytest.fail("a trial has started"))
    assert run.main([*TINY, "--results", str(tmp_path), "--time-limit", "0.1"]) == 75
