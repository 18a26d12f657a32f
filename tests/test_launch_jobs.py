"""Trials side by side, in processes of their own: what is shared, what dies with what, and that nothing stays."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import faulty
import pandas as pd
import pytest
import tiny
import torch

from ablations import launch_jobs, options, run
from ablations.store import Store
from simsiam.config import Runtime

ROOT = Path(__file__).resolve().parent.parent
TABLE = ["--table", "stop_gradient", "--launcher", "local", *tiny.OVERRIDES]
LONG = [part.replace("epochs=2", "epochs=100000") for part in TABLE]
SCIENCE = ["row", "seed", "outcome", "loss", "z_std", "effective_rank", "knn_top1", "linear_top1", "knn_top1_init"]


@pytest.fixture(autouse=True)
def one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def faults(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Has trials of --jobs come to grief: stop_gradient_seed -> (kind, how often). Gives the folder of all attempts."""
    folder = tmp_path / "faults"
    folder.mkdir()
    monkeypatch.setenv("FAULTS", str(folder))
    monkeypatch.setattr(launch_jobs, "_work", faulty.broken)

    def ask(**kinds: tuple[str, int]) -> Path:
        (folder / "faults").write_text(json.dumps({name.replace("_", " "): kind for name, kind in kinds.items()}))
        return folder

    return ask


def children(process: int) -> set[int]:
    """The processes that a process has started, and theirs."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found, new = set(), {process}
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= new
    return found


def alive(process: int) -> bool:
    """Not one that has ended and waits for init to notice."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_side_by_side_the_numbers_are_those_of_one_after_another(tmp_path: Path, faults: Any) -> None:
    attempts, threads = faults(), torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert run.main([*TABLE, "--seeds", "2", "--results", str(tmp_path / "one")]) == 0
    finally:
        torch.set_num_threads(threads)
    assert run.main([*TABLE, "--seeds", "2", "--jobs", "2", "--results", str(tmp_path / "two")]) == 0
    one, two = (pd.read_parquet(tmp_path / name / "stop_gradient.parquet") for name in ("one", "two"))
    pd.testing.assert_frame_equal(two[SCIENCE], one[SCIENCE])
    ran = [path.name.split() for path in attempts.glob("* * * *")]
    assert len(ran) == 4
    assert len({process for *_, process in ran}) == 2  # each is used again
    assert children(os.getpid()).isdisjoint(int(process) for *_, process in ran)


@pytest.mark.slow
def test_a_process_that_dies_costs_its_own_trial_alone(
    tmp_path: Path, faults: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    attempts = faults(True_0=("killed", 1), True_1=("killed", 99), False_0=("device", 1), False_1=("wrong", 1))
    command = [*TABLE, "--seeds", "3", "--jobs", "2", "--results", str(tmp_path / "out")]
    assert run.main(command) == 1
    table = pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet").set_index(["row", "seed"])
    failed = table[table.outcome == "failed"]
    assert sorted(failed.index) == [("with", 1), ("without", 1)]
    assert "3 times in one place, at last: its process was ended by SIGKILL." in failed.message["with", 1]
    assert failed.message["without", 1] == "RuntimeError: wrong"
    assert len([*attempts.glob("True 1 *")]) == 3
    assert len([*attempts.glob("False 1 *")]) == 1
    out = capsys.readouterr().out
    assert "with seed 0: starting again: its process was ended by SIGKILL" in out
    assert "without seed 0: starting again: AcceleratorError: CUDA error: an illegal memory access" in out


def test_processes_that_cannot_start_end_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(launch_jobs, "_work", faulty.stillborn)
    assert run.main([*TABLE, "--jobs", "2", "--results", str(tmp_path)]) == 1
    assert "No process for trials can start: the last of 3 ended with exit code 4" in capsys.readouterr().err


def test_a_trial_that_is_given_up_starts_no_further_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    started: list[Any] = []
    start = launch_jobs._Slot.start
    monkeypatch.setattr(launch_jobs._Slot, "start", lambda slot: (started.append(slot), start(slot)))
    monkeypatch.setattr(launch_jobs, "_work", faulty.dies)
    assert run.main([*TABLE, "--rows", "with", "--jobs", "8", "--results", str(tmp_path)]) == 1
    assert len(started) == 3
    assert "1 trial at once on cpu" in capsys.readouterr().out


def test_a_precision_that_is_not_to_be_had_here_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*TABLE, "--jobs", "2", "--set", "precision=tf32", "--results", str(tmp_path)]) == 2
    assert "error: precision=tf32" in capsys.readouterr().err
    assert not (tmp_path / "stop_gradient.parquet").exists()


def test_what_is_wrong_with_the_data_fails_all_that_wait_however_many(tmp_path: Path) -> None:
    store, progress = mock.Mock(), mock.Mock()
    trials = run.requests.read(options.parser().parse_args([*TABLE, "--rows", "with"])).trials(range(1500))
    plan = launch_jobs._Plan(trials[1:], Runtime(), store, progress, mock.Mock(), 2)
    slot: Any = mock.Mock(trial=trials[0])
    store.fail.side_effect = lambda config, why: {"message": why}
    plan.hear(slot, launch_jobs._ENDED, {"message": "DataError: Corrupt image in x.png"})
    assert not plan.waiting
    assert progress.finish.call_count == 1500
    assert slot.trial is None


def test_a_result_that_was_kept_before_its_process_died_counts(tmp_path: Path) -> None:
    store, progress = Store.at(tmp_path), mock.Mock()
    (trial,) = run.requests.read(options.parser().parse_args([*TABLE, "--rows", "with"])).trials([0])
    plan = launch_jobs._Plan([trial], Runtime(), store, progress, mock.Mock(), 2)
    slot = mock.Mock(trial=None, broken="")
    plan.hear(slot, launch_jobs._READY, ("cpu", None, 1))
    result = {
        "fingerprint": trial.fingerprint,
        "method": "simsiam",
        "sources": launch_jobs.provenance.sources(),
        "outcome": "finished",
    }
    store.write(result, [])
    plan.died(slot, "was ended by SIGKILL")
    assert not plan.waiting
    assert progress.finish.call_args.args[1]["outcome"] == "finished"


@pytest.mark.parametrize(
    "number",
    [signal.SIGTERM, *(pytest.param(each, marks=pytest.mark.slow) for each in (signal.SIGINT, signal.SIGKILL))],
)
def test_no_process_stays_behind(number: signal.Signals, tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "ablations" / "run.py"), *LONG, "--seeds", "2"]
    with subprocess.Popen(
        [*script, "--jobs", "2", "--checkpoint-seconds", "0", "--results", str(tmp_path)],
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        limit = time.monotonic() + 120
        while len([*tmp_path.glob("checkpoints/[!.]*")]) < 2 and time.monotonic() < limit:
            time.sleep(0.1)
        started = children(process.pid)
        assert len(started) >= 2
        if number == signal.SIGINT:  # as a terminal does it
            os.killpg(process.pid, number)
        else:
            process.send_signal(number)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == (130 if number == signal.SIGINT else -number)
    limit = time.monotonic() + 20
    while (left := [child for child in started if alive(child)]) and time.monotonic() < limit:
        time.sleep(0.1)
    assert not left
    assert ("the same command goes on from here" in out) == (number == signal.SIGINT)


def test_each_has_its_share_of_the_gpu(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "A GPU")
    pipe = mock.Mock(recv=mock.Mock(side_effect=EOFError))
    for asked, share in ((1.0, 0.25), (0.2, 0.2)):
        with pytest.raises(EOFError):
            launch_jobs._run_trials(pipe, Runtime(gpu_fraction=asked), Store.at(tmp_path), 4, [])
        what, (device, got, _) = pipe.send.call_args.args[0]
        assert (what, device, got) == (launch_jobs._READY, "A GPU", share)


def test_the_first_line_says_whether_mps_is_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("CUDA_MPS_PIPE_DIRECTORY", str(tmp_path))
    assert "No MPS daemon is seen" in launch_jobs._first_line(4, "A GPU", 0.25, 1)
    daemon = tmp_path / "nvidia-cuda-mps-control.pid"
    daemon.write_text(f"{os.getpid()}\n")
    assert launch_jobs._first_line(4, "A GPU", 0.25, 1) == (
        "4 trials at once on A GPU, each in a process of its own with 25% of the memory. "
        "MPS is on: their kernels run at the same time."
    )
    with subprocess.Popen(["true"]) as ended:
        pass
    daemon.write_text(f"{ended.pid}\n")
    assert "No MPS daemon is seen" in launch_jobs._first_line(4, "A GPU", 0.25, 1)
