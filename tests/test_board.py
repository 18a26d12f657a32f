"""What a run leaves of itself while it goes, and how another process shows it."""

from __future__ import annotations

import dataclasses
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import tiny

from ablations import board, run
from ablations.board import Board, Post, Told
from ablations.files import Folder
from ablations.results import __main__ as results_main

ROOT = Path(__file__).resolve().parent.parent
TRIAL = Told("table/row seed 0", "a" * 20, "running", 10, epoch=3, loss=-0.5, z_std=0.9, knn_top1=80.0, left=70.0)


def until(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_board_comes_back_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_SECONDS", 0.05)
    mine = Board("1 of 3 done", [TRIAL, Told("table/row seed 1", "b" * 20, "finished", 10, ended=True)])
    folder = Folder.at(tmp_path)
    with Post(folder, lambda: mine):
        until(lambda: bool(board.posted(folder)))
        ((seconds, found),) = board.posted(folder)
    assert seconds < 10
    assert found == mine
    assert board.posted(folder) == []


def test_a_folder_that_takes_nothing_stops_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_SECONDS", 0.05)
    (tmp_path / "running").write_text("a file, where the folder should be")
    with Post(Folder.at(tmp_path), lambda: Board("", [])):
        time.sleep(0.3)


def test_the_board_of_a_run_that_was_killed_goes_with_the_next_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board, "_SECONDS", 0.05)
    folder = Folder.at(tmp_path)
    told = json.loads(board.packed(Board("", [TRIAL])))
    for name, seconds in (("killed", 4000), ("silent", 100)):
        folder.write(f"running/{name}.json", json.dumps({**told, "written": time.time() - seconds}).encode())
    with Post(folder, lambda: Board("", [])):
        until(lambda: "killed.json" not in folder.names("running"))
    assert folder.names("running") == ["silent.json"]


def test_a_run_beside_another_says_what_is_trained_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(board, "_SECONDS", 0.05)
    mine = Board("", [TRIAL, Told("table/row seed 1", "b" * 20, "waiting", 10, waiting=True)])

    def heard(patience: float) -> str:
        text, deadline = "", time.monotonic() + patience
        while not text and time.monotonic() < deadline:
            time.sleep(0.05)
            text = capsys.readouterr().err
        return text

    for seconds, theirs, said in (
        (100, mine, ""),
        (1, Board("", [dataclasses.replace(TRIAL, ended=True)]), ""),
        (1, mine, r"heard of \d+ s ago, has 2 of these trainings too: table/row seed 0, table/row seed 1\."),
    ):
        told = {**json.loads(board.packed(theirs)), "written": time.time() - seconds}
        (tmp_path / "running").mkdir(exist_ok=True)
        (tmp_path / "running" / "a.json").write_text(json.dumps(told))
        with Post(Folder.at(tmp_path), lambda: mine):
            assert re.search(said or "^$", heard(20 if said else 0.3))
    (tmp_path / "running" / "a.json").unlink()
    with Post(Folder.at(tmp_path), lambda: mine), Post(Folder.at(tmp_path), lambda: mine):  # at the same time
        assert "has 2 of these trainings too" in heard(20)


def test_what_is_no_board_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "running").mkdir()
    (tmp_path / "running" / "a.json").write_text("{")
    (tmp_path / "running" / "b.json").write_text(json.dumps({"written": 0, "summary": "", "trials": [{"new": 1}]}))
    (tmp_path / "running" / "c.json").write_bytes(board.packed(Board("1 of 1 done", [TRIAL])))
    ((_, found),) = board.posted(Folder.at(tmp_path))
    assert found.trials == [TRIAL]


def test_watch_shows_what_runs_and_says_when_there_is_no_word(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert results_main.main(["watch", "--once", "--results", str(tmp_path)]) == 0
    assert "No run is under way" in capsys.readouterr().out
    (tmp_path / "running").mkdir()
    told = json.loads(board.packed(Board("1 of 3 done, 4:10 left in all", [TRIAL])))
    (tmp_path / "running" / "a.json").write_text(json.dumps({**told, "written": time.time() - 100}))
    assert results_main.main(["watch", "--once", "--results", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert "1 of 3 done, 4:10 left in all (no word for 1:40" in shown
    assert "| table/row seed 0 | running | 3/10  | -0.500 | 0.90  | 80.0 | 1:10 |" in shown


def test_progress_grows_as_a_second_process_watches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    command = [sys.executable, "ablations/run.py", "--table", "stop_gradient", "--rows", "with", "--launcher", "local"]
    fields = {**tiny.FIELDS, "epochs": 2000, "eval_every": 50}
    command += ["--results", str(tmp_path), *(f"--set={name}={value}" for name, value in fields.items())]
    running = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        seen: list[int] = []
        deadline = time.monotonic() + 120
        while len(set(seen)) < 2:
            assert time.monotonic() < deadline, seen
            assert running.poll() is None
            for _, found in board.posted(Folder.at(tmp_path)):
                seen += [found.trials[0].epoch] if found.trials[0].epoch else []
            time.sleep(0.5)
        assert seen == sorted(seen)
    finally:
        running.kill()
        running.wait()


def test_a_hundred_trials_fit_in_a_terminal_of_80_by_24() -> None:
    """rich draws the window within the height, whatever the number of trials."""
    code = (
        "from rich.console import Console; from ablations.board import Board, Told\n"
        "trials = [Told(f'symmetrization/asym_2x seed {i}', '', 'running', 100, epoch=12, loss=-0.9, z_std=0.9,"
        " knn_top1=90.0, left=4000.0) for i in range(4)]\n"
        "trials += [Told(f'batch_norm/not_affine seed {i}', '', 'waiting', 100, waiting=True) for i in range(96)]\n"
        "Console().print(Board('0 of 100 done, 3:12:05 left in all', trials).grid(24))"
    ).replace("\\\n", "\n")
    parent, child = pty.openpty()
    environment = {**os.environ, "COLUMNS": "80", "LINES": "24", "TERM": "xterm"}
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=child, env=environment)
    os.close(child)
    text = b""
    while select.select([parent], [], [], 60)[0]:
        try:
            text += os.read(parent, 65536)
        except OSError:  # the other end is closed
            break
    assert process.wait() == 0
    os.close(parent)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", text.decode()).splitlines()
    assert len(lines) <= 24
    assert all(len(line) <= 80 for line in lines)
    assert "0 of 100 done, 3:12:05 left in all" in lines[0]
    assert any("asym_2x seed 3" in line and "1:06:40" in line for line in lines)
    assert "and 82 more, 96 waiting in all" in lines[-1]


def test_a_run_leaves_no_board_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_SECONDS", 0.05)
    command = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *tiny.OVERRIDES]
    assert run.main([*command, "--results", str(tmp_path)]) == 0
    assert board.posted(Folder.at(tmp_path)) == []
