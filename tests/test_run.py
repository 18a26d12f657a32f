"""The command line, as a user types it, with the local launcher."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import tiny
import torch

from ablations import files, rebuild, results, run
from ablations import trial as trials
from ablations.lines import FAILED, unfinished
from ablations.store import Store
from simsiam.checkpoint import unpack
from simsiam.config import FIELDS, Config

ROOT = Path(__file__).resolve().parent.parent
TINY = ["--table", "stop_gradient", "--launcher", "local", *tiny.OVERRIDES]


def test_a_table_runs_once_and_a_deleted_trial_runs_again(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--seeds", "2", "--results", str(tmp_path)]
    assert run.main(command) == 0
    assert len(started) == 4
    first = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert list(first.row) == ["with", "with", "without", "without"]
    assert first.linear_top1.between(0, 100).all()
    assert (first.test_images == 360).all()

    assert run.main(command) == 0
    assert len(started) == 4
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "stop_gradient.parquet"), first)

    gone = first.fingerprint[2]
    (tmp_path / "trials" / f"{gone}.parquet").unlink()
    assert run.main(command) == 0
    assert started[4:] == [gone]
    again = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    clock = ["wall_seconds", "device_seconds", "eval_seconds", "images_per_second", "started", "ended"]
    pd.testing.assert_frame_equal(again.drop(columns=clock), first.drop(columns=clock))
    assert "| with *  | 67.7" in capsys.readouterr().out


def test_one_trials_exception_stops_neither_the_others_nor_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = trials.run

    def broken(config: Any, *args: Any, **kwargs: Any) -> Any:
        if config.stop_gradient:
            raise RuntimeError("the disk is on fire")
        return real(config, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", broken)
        assert run.main([*TINY, "--results", str(tmp_path)]) == 1
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet").set_index("row")
    assert table.outcome["with"] == "failed"
    assert table.message["with"] == "RuntimeError: the disk is on fire"
    assert table.outcome["without"] != "failed"
    assert "the disk is on fire" in capsys.readouterr().out
    assert run.main([*TINY, "--results", str(tmp_path)]) == 0  # a failure is not done: it runs again
    assert "failed" not in set(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome)


def test_a_rerun_that_fails_is_a_failure_and_keeps_the_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--rows", "with", "--results", str(tmp_path)]
    assert run.main(command) == 0
    before = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(trials.provenance, "sources", lambda *_: "5" * 16)
        patch.setattr(trials.loader, "load", lambda *_: 1 / 0)
        assert run.main([*command, "--rerun", "stale"]) == 1
    assert "ZeroDivisionError" in capsys.readouterr().out
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "stop_gradient.parquet"), before)


def test_seeds_are_added_to_the_rows_asked_for_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*TINY, "--rows", "without", "--results", str(tmp_path)]) == 0
    command = [*TINY, "--rows", "with", "--seeds-until-decided", "4", "--results", str(tmp_path)]
    assert run.main([*command, "--plan"]) == 0
    assert "That is the most: claims are judged after 3 and 4 seeds" in capsys.readouterr().out
    assert run.main(command) == 0
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert table[table.row == "without"].seed.tolist() == [0]
    assert table.groupby("row").looks.unique().map(list).to_dict() == {"with": [2], "without": [1]}
    shown = {verdict.looks for _, verdict in results.claims(overrides=table.overrides[0], root=tmp_path)}
    assert shown == {2}
    assert run.main([*TINY, "--rows", "with", "--results", str(tmp_path)]) == 0  # seeds that were looked at stay so
    assert set(pd.read_parquet(tmp_path / "stop_gradient.parquet").looks) == {1, 2}


def test_seeds_by_their_first_and_last(tmp_path: Path) -> None:
    for seeds, there in (("1-2", [1, 2]), ("2", [0, 1, 2])):
        assert run.main([*TINY, "--rows", "with", "--seeds", seeds, "--results", str(tmp_path)]) == 0
        assert pd.read_parquet(tmp_path / "stop_gradient.parquet").seed.tolist() == there
        assert len(list((tmp_path / "trials").iterdir())) == len(there)


def test_rows_that_are_not_asked_for_are_judged_by_the_results_they_have(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for rows in ("with", "without"):
        assert run.main([*TINY, "--rows", rows, "--seeds", "2", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    last = out.rpartition("| section")[2]
    assert "has not run" not in last
    assert "of 2 seeds collapsed" in last


def test_ctrl_c_keeps_what_is_finished_and_says_how_to_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    real = trials.run

    def interrupted(config: Any, *args: Any, **kwargs: Any) -> Any:
        if not config.stop_gradient:
            raise KeyboardInterrupt
        return real(config, *args, **kwargs)

    monkeypatch.setattr(trials, "run", interrupted)
    assert run.main([*TINY, "--results", str(tmp_path)]) == 130
    assert "the same command goes on from here" in capsys.readouterr().out
    assert list(pd.read_parquet(tmp_path / "stop_gradient.parquet").row) == ["with"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_run_keeps_its_trials_and_is_completed_by_the_same_command(tmp_path: Path) -> None:
    command = [*TINY, "--seeds", "6", "--results", str(tmp_path)]
    script = [sys.executable, str(ROOT / "ablations" / "run.py"), *command]
    with subprocess.Popen(script, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=tmp_path) as process:
        limit = time.monotonic() + 280
        while not [*tmp_path.glob("trials/*.parquet")] and time.monotonic() < limit:
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
    kept = {file: file.read_bytes() for file in tmp_path.glob("trials/*.parquet")}
    assert 0 < len(kept) < 12
    assert run.main(command) == 0
    assert len([*tmp_path.glob("trials/*.parquet")]) == 12
    assert all(file.read_bytes() == content for file, content in kept.items())
    assert len(pd.read_parquet(tmp_path / "stop_gradient.parquet")) == 12


@pytest.mark.slow
def test_a_command_with_nothing_to_train_ends_as_it_should_each_time(tmp_path: Path) -> None:
    # Arrow's threads, still starting at the end, used to abort one short command in three.
    command = [*TINY, "--seeds", "4", "--results", str(tmp_path)]
    assert run.main(command) == 0
    script = [sys.executable, str(ROOT / "ablations" / "run.py"), *command]
    ended = [subprocess.run(script, capture_output=True, text=True) for _ in range(8)]
    assert [(each.returncode, each.stderr) for each in ended] == [(0, "")] * 8


def test_the_plan_tells_what_is_there_and_starts_nothing(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--results", str(tmp_path)]
    assert run.main([*command, "--rows", "with"]) == 0
    capsys.readouterr()
    assert run.main([*command, "--plan"]) == 0
    out = capsys.readouterr().out
    assert "with seed 0: done" in out
    assert "without seed 0: to run" in out
    assert "2 rows x 1 seed = 2 results: 2 trainings; 1 done, 1 to run." in out
    assert len(started) == 1


def test_stale_results_are_shown_kept_and_rerun_on_demand(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*TINY, "--results", str(tmp_path)]
    assert run.main(command) == 0
    monkeypatch.setattr(trials.provenance, "sources", lambda *_: "5" * 16)
    assert run.main(command) == 0
    assert "with seed 0: stale" in capsys.readouterr().out
    assert len(started) == 2
    assert run.main([*command, "--rerun", "stale"]) == 0
    assert len(started) == 4
    assert len([*tmp_path.glob("superseded/trials/*.parquet")]) == 2
    assert set(pd.read_parquet(tmp_path / "stop_gradient.parquet").sources) == {"5" * 16}


def test_rerun_failed_runs_nothing_else(tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*TINY, "--results", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(trials.loader, "load", lambda *_: 1 / 0)
        assert run.main([*command, "--rows", "with"]) == 1
    assert run.main([*command, "--rerun", "failed"]) == 0
    assert len(started) == 2
    assert started[0] == started[1]


def test_a_disk_that_fills_up_costs_nothing_that_is_finished(
    tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*TINY, "--results", str(tmp_path)]
    real = files._write_to_disk

    def full(path: Path, content: bytes) -> None:
        if [*tmp_path.glob("trials/*.parquet")]:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "_write_to_disk", full)
        assert run.main(command) == 1
    assert (
        "No space left on device. Make room there, or name another folder. Finished trials are kept"
        in capsys.readouterr().err
    )
    kept = {path: path.read_bytes() for path in tmp_path.glob("trials/*.parquet")}
    assert len(kept) == 1
    assert run.main(command) == 0
    assert len(started) == 3  # the second trial twice
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(pd.read_parquet(tmp_path / "stop_gradient.parquet")) == 2


def test_list_names_tables_rows_and_recipes(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--list"]) == 0
    out = capsys.readouterr().out
    for word in ("stop_gradient", "predictor", "frozen", "digits", "imagenet"):
        assert word in out


def test_a_failure_beside_a_result_is_no_failure_of_the_run(tmp_path: Path) -> None:
    # A kill between writing a result and removing an old failure leaves both.
    command = [*TINY, "--results", str(tmp_path)]
    assert run.main(command) == 0
    store = Store.at(tmp_path)
    config = Config(**{name: store.table("stop_gradient")[0][name] for name in FIELDS})
    store.write_failure(unfinished(config, FAILED, "long ago"))
    assert run.main(command) == 0


def test_a_rerun_that_is_lost_is_no_success(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # The result of older sources is still there; what became of the new attempt could not be kept.
    command = [*TINY, "--results", str(tmp_path)]
    assert run.main(command) == 0
    monkeypatch.setattr(trials.provenance, "sources", lambda *_: "5" * 16)
    monkeypatch.setattr(trials, "run", lambda *_, **__: 1 / 0)
    monkeypatch.setattr(Store, "write_failure", lambda *_: None)
    assert run.main([*command, "--rerun", "stale"]) == 1


def test_a_checkpoint_is_kept_where_that_is_asked_for(tmp_path: Path) -> None:
    command = [*TINY, "--rows", "with", "--results", str(tmp_path)]
    assert run.main([*command, "--keep-checkpoints"]) == 0
    assert not [*tmp_path.glob("checkpoints/*")]
    (kept,) = tmp_path.glob("kept/*.pt")
    line = Store.at(tmp_path).table("stop_gradient")[0]
    assert kept.name == f"{line['fingerprint']}-{line['sources']}.pt"
    state = unpack(Config(**{name: line[name] for name in FIELDS}), kept.read_bytes())
    assert state is not None
    assert len(state["progress"]["curve"]) == line["epochs"]


def test_trials_that_end_together_are_in_the_table_before_the_next_one_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [0.0]
    monkeypatch.setattr(rebuild.time, "monotonic", lambda: clock[0])
    tried: list[float] = []

    def write(trials: list[Any], stamps: Any) -> None:
        tried.append(clock[0])
        if clock[0] == 5:
            raise OSError("the bucket is away for a moment")

    store = mock.Mock(rebuild=write, stamps=dict, table_files=set)
    now_and_then = rebuild.Rebuild(store, [])
    for clock[0], ended in ((1, True), (1.5, True), (2, False), (5, False), (6, False), (9, False), (13, False)):
        now_and_then(ended)
    assert tried == [1, 5, 9]


def test_a_gpu_that_has_failed_ends_the_run_and_the_same_command_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tried: list[Any] = []

    def broken(config: Any, *args: Any, **kwargs: Any) -> Any:
        tried.append(config)
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", broken)
        assert run.main([*TINY, "--results", str(tmp_path)]) == 1
    assert len(tried) == 1
    message = capsys.readouterr().err
    assert "with seed 0: AcceleratorError: CUDA error: an illegal memory access was encountered" in message
    assert "CUDA refuses all further work of this process" in message
    assert "the same command goes on" in message
    assert list(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome) == ["failed"]
    assert run.main([*TINY, "--results", str(tmp_path)]) == 0


def test_a_gpu_whose_libraries_say_first_that_it_has_failed_ends_the_run_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def dead() -> None:
        raise torch.AcceleratorError("CUDA error: unspecified launch failure")

    monkeypatch.setattr(trials, "run", mock.Mock(side_effect=RuntimeError("CUBLAS_STATUS_EXECUTION_FAILED")))
    monkeypatch.setattr(torch.cuda, "empty_cache", dead)
    assert run.main([*TINY, "--seeds", "2", "--results", str(tmp_path)]) == 1
    message = capsys.readouterr().err
    assert "CUBLAS_STATUS_EXECUTION_FAILED. CUDA refuses all further work of this process" in message
    assert list(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome) == ["failed"]


def test_after_an_out_of_memory_the_next_trial_has_all_of_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # torch.AcceleratorError is CUDA's word for it where torch's own allocator was not asked.
    held: list[weakref.ref[Any]] = []
    seen: list[bool] = []

    def full(config: Any, *args: Any, **kwargs: Any) -> Any:
        large = torch.zeros(1)
        held.append(weakref.ref(large))
        raise torch.AcceleratorError("CUDA error: out of memory")

    monkeypatch.setattr(trials, "run", full)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: seen.append(held[-1]() is None))
    assert run.main([*TINY, "--results", str(tmp_path)]) == 1
    assert seen == [True, True]
