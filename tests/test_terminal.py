"""What a person sees never decides what becomes of a trial."""

from __future__ import annotations

import io
import os
import pty
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
import tiny

from ablations import terminal

ROOT = Path(__file__).resolve().parent.parent
TABLE = [sys.executable, str(ROOT / "ablations/run.py"), "--table", "stop_gradient", "--launcher", "local"]
LONG = [part.replace("epochs=2", "epochs=100000") for part in tiny.OVERRIDES]

# The trials' ends are the test's: a message with all that a terminal might trip over.
FAILING = """
import sys
from ablations import run, trial
def fail(*args, **kwargs):
    raise RuntimeError("[/tcp/pair.cc:538] [rank0] \\x1b]0;owned\\x07 \\N{CAT} \\udcf1 ±")
trial.run = fail
sys.exit(run.main(sys.argv[1:]))
"""


def in_a_terminal(command: list[str]) -> tuple[int, str]:
    """The exit code of a command whose three streams are a terminal of 100 columns, and what it showed."""
    shown = bytearray()

    def read(descriptor: int) -> bytes:
        content = os.read(descriptor, 65536)
        shown.extend(content)
        return content

    code = os.waitstatus_to_exitcode(pty.spawn(["env", "TERM=xterm", "COLUMNS=100", *command], read))
    return code, shown.decode(errors="replace")


@pytest.mark.parametrize("encoding", ["utf-8", pytest.param("ascii", marks=pytest.mark.slow)])
def test_a_live_terminal_shows_what_failed_as_it_stands(encoding: str, tmp_path: Path) -> None:
    command = ["env", f"PYTHONIOENCODING={encoding}", f"PYTHONPATH={ROOT}", sys.executable, "-c", FAILING]
    code, shown = in_a_terminal([*command, *TABLE[2:], *tiny.OVERRIDES, "--results", str(tmp_path)])
    assert code == 1
    assert "MarkupError" not in shown
    assert "UnicodeEncodeError" not in shown
    assert "[/tcp/pair.cc:538] [rank0] \\x1b]0;owned\\x07" in shown
    assert "\x1b]0;" not in shown
    assert "\x07" not in shown
    assert set(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome) == {"failed"}


def test_a_reader_that_has_gone_costs_no_trial(tmp_path: Path) -> None:
    command = [*TABLE, *tiny.OVERRIDES, "--results", str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert run.stderr is not None
        assert run.stdout.readline().startswith("Results: ")
        run.stdout.close()
        assert run.stderr.read() == ""
    assert run.returncode == 0
    assert not set(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome) & {"failed"}


@pytest.mark.parametrize(
    "locale",
    [
        {"PYTHONIOENCODING": "ascii"},
        pytest.param({"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}, marks=pytest.mark.slow),
    ],
)
def test_a_terminal_without_the_letters_gets_others(locale: dict[str, str], tmp_path: Path) -> None:
    command = [*TABLE, *tiny.OVERRIDES, "--seeds", "2", "--results", str(tmp_path)]
    out = subprocess.run(command, capture_output=True, env={**os.environ, **locale}, check=True).stdout
    assert b"\\xb1" in out  # the sign between a mean and its deviation
    assert out.isascii()


def test_a_closed_terminal_ends_the_run_and_the_same_command_goes_on(tmp_path: Path) -> None:
    command = [*TABLE, *LONG, "--checkpoint-seconds", "0", "--results", str(tmp_path)]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        while not [*tmp_path.glob("checkpoints/*.pt")]:
            assert run.poll() is None
            time.sleep(0.1)
        run.send_signal(signal.SIGHUP)
        out, _ = run.communicate(timeout=60)
    finally:
        run.kill()
        run.wait()
    assert run.returncode == 130
    assert "the same command goes on from here" in out
    assert "half done" in subprocess.run([*command, "--plan"], capture_output=True, text=True, check=True).stdout


def test_what_cannot_be_shown_is_escaped(monkeypatch: pytest.MonkeyPatch) -> None:
    for encoding, expected in (("utf-8", "\\x1b[31m ± 🐈\n"), ("latin-1", "\\x1b[31m ± \\U0001f408\n")):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        monkeypatch.setattr(sys, "stdout", stream)
        terminal.say("\x1b[31m ± 🐈")
        assert stream.buffer.getvalue() == expected.encode(encoding)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(28, "No space left on device", "/a"), "No space left on device: /a. Make room there, or name another"),
        (PermissionError(13, "Permission denied", "/a"), "Permission denied: /a. Let it be read and written by you"),
        (OSError(24, "Too many open files"), "Too many open files. Allow more open files: ulimit -n 65536"),
        (OSError("AWS Error"), "AWS Error"),
    ],
)
def test_what_the_system_says_comes_with_the_place_and_the_remedy(error: OSError, text: str) -> None:
    assert terminal.reason(error).startswith(text)
    assert "Errno" not in terminal.reason(error)


def test_help_of_a_job_is_run_pys_and_submits_nothing() -> None:
    command = [sys.executable, str(ROOT / "ablations/submit.py"), "--table", "epochs", "--help"]
    out = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, "PATH": ""}).stdout
    assert out.startswith("usage: ablations/submit.py")
    assert "--seeds-until-decided" in out


def test_a_run_without_any_standard_output_trains(tmp_path: Path) -> None:
    command = shlex.join([*TABLE, *tiny.OVERRIDES, "--rows", "with", "--results", str(tmp_path)])
    assert subprocess.run(f"{command} >&-", shell=True, capture_output=True).returncode == 0
    assert (tmp_path / "stop_gradient.parquet").exists()


def test_an_answer_that_a_full_disk_loses_is_an_error_and_one_that_nobody_reads_is_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with Path("/dev/full").open("w") as full:
        monkeypatch.setattr(sys, "stdout", full)
        with pytest.raises(OSError, match="No space left"):
            terminal.answer("x")
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        monkeypatch.setattr(sys, "stdout", pipe)
        assert not terminal.answer("x")
        assert terminal.answer("x")  # into nothing
