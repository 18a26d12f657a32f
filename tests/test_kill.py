"""Killed anywhere, the same command completes it, bit for bit: real processes, and SIGKILL.

An import of torch costs thirty times a small trial. So one process imports it, and forks a child for each command.
"""

from __future__ import annotations

import json
import math
import os
import random
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
import torch

ROOT = Path(__file__).resolve().parent.parent

pytestmark = pytest.mark.timeout(600)  # hundreds of small files are waited for until they are on the disk


def command(*more: str, **fields: Any) -> list[str]:
    overrides = {**tiny.FIELDS, "batch_size": 64, **fields}  # 4 steps an epoch
    options = ["--table", "stop_gradient", "--launcher", "local", "--checkpoint-seconds", "0", *more]
    return options + [part for name, value in overrides.items() for part in ("--set", f"{name}={value}")]


BOTH_ROWS, STEPS = command(epochs=3), 24
ONE_ROW, CLOCK = command("--rows", "with"), 3  # a checkpoint within each epoch, and at its end

CLOCKS = {
    "seconds",
    "train_seconds",
    "eval_seconds",
    "images_per_second",
    "wall_seconds",
    "device_seconds",
    "started",
    "ended",
}


# The process that forks, and what its children do. A child passes moments: before and after a step of training, within,
# before and after a write, before and after a removal. Each is a line in its journal, and it can be told to die at one.


def serve() -> None:
    """Fork a child for each line of standard input, and answer with its exit code, or minus the signal it died of."""
    import sklearn.datasets  # noqa: F401

    from ablations import launch_local, printed, progress, provenance, run, verdict  # noqa: F401

    provenance.sources()  # kept from here on: whoever edits the sources meanwhile changes no fingerprint
    for line in sys.stdin:
        child = os.fork()
        if child == 0:
            os._exit(_command(**json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


def _command(arguments: list[str], results: str, aside: str, clock: int, die: list[Any] | None, fail: bool) -> int:
    """ablations/run.py with a checkpoint every `clock` steps, dying at the n-th moment of a name if `die` says so."""
    from ablations import board, rebuild, run
    from simsiam import checkpoint

    log = os.open(f"{aside}/log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    checkpoint.EVERY = clock
    # The clock writes nothing: a slow machine would leave more behind when it is killed.
    rebuild._SECONDS, board.Post._go_on = math.inf, lambda post: None  # type: ignore[method-assign]
    _keep_final_checkpoints(aside)
    _pass_moments(results, _Moments(f"{aside}/journal", die), fail)
    return run.main([*arguments, "--results", results])


class _Moments:
    def __init__(self, journal: str, die: list[Any] | None) -> None:
        self.journal = os.open(journal, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        self.name, self.left = die or ("", 0)

    def __call__(self, name: str, first: Callable[[], None] = lambda: None) -> None:
        """`first` is done only to die right after it."""
        os.write(self.journal, f"{name}\n".encode())
        self.left -= name == self.name
        if name == self.name and self.left == 0:
            first()
            os.kill(os.getpid(), signal.SIGKILL)


def _pass_moments(results: str, moment: _Moments, fail: bool) -> None:
    from ablations.files import Folder
    from simsiam import pretrain

    train_step, replace, remove = pretrain.train_step, os.replace, Folder.remove

    def step(*args: Any) -> Any:
        if fail:
            raise RuntimeError("as the test asked")
        moment("before step")
        loss = train_step(*args)
        moment("after step")
        return loss

    def rename(source: Any, target: Any) -> None:
        if not str(target).startswith(results):
            return replace(source, target)
        name = _named(os.path.relpath(target, results))
        moment(f"within the write of {name}", lambda: os.truncate(source, os.path.getsize(source) // 2))
        moment(f"before the rename of {name}")
        replace(source, target)
        moment(f"after the rename of {name}")

    def removal(folder: Folder, name: str) -> None:
        there = folder.exists(name)
        if there:
            moment(f"before the removal of {_named(name)}")
        remove(folder, name)
        if there:
            moment(f"after the removal of {_named(name)}")

    pretrain.train_step, os.replace, Folder.remove = step, rename, removal  # type: ignore[method-assign]


def _named(file: str) -> str:
    """Without the number of the process, which the trial of a write has."""
    return re.sub(r"^(\.\w+)-\d+$", r"\1", file)


def _keep_final_checkpoints(aside: str) -> None:
    """A finished trial's checkpoint is removed; the test wants the weights."""
    from ablations.store import Store

    write = Store.write

    def writing(store: Store, result: dict[str, Any], *args: Any, **kwargs: Any) -> None:
        content = store.checkpoint(result["fingerprint"], result["method"]).read()
        assert content is not None
        Path(aside, f"{result['fingerprint']}.pt").write_bytes(content)
        write(store, result, *args, **kwargs)

    Store.write = writing  # type: ignore[method-assign]


# What the tests see of it.


@dataclass
class Commands:
    """Runs one command again and again in one folder, each time in a process of its own."""

    server: subprocess.Popen[str]
    folder: Path
    arguments: list[str]
    kills: int = 0
    journal: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "aside").mkdir(parents=True, exist_ok=True)

    @property
    def results(self) -> Path:
        return self.folder / "results"

    def run(self, clock: int = 1, die: tuple[str, int] | None = None, fail: bool = False) -> int:
        order = dict(arguments=self.arguments, results=str(self.results), aside=str(self.folder / "aside"))
        assert self.server.stdin is not None
        assert self.server.stdout is not None
        print(json.dumps({**order, "clock": clock, "die": die, "fail": fail}), file=self.server.stdin, flush=True)
        code = int(self.server.stdout.readline())
        self.journal = (self.folder / "aside" / "journal").read_text().splitlines()
        self.kills += code == -signal.SIGKILL
        return code

    def saved(self) -> int:
        """Steps of BOTH_ROWS that are not done again: of finished trials, and of one with a checkpoint."""
        done = [*self.results.glob("trials/[!.]*")]
        halves = [torch.load(path, weights_only=True)["state"] for path in self.results.glob("checkpoints/[!.]*")]
        return len(done) * STEPS // 2 + sum(half["progress"]["step"] for half in halves)

    def complete(self, clock: int = 1) -> None:
        assert self.run(clock) == 0, (self.folder / "aside" / "log").read_text()

    def temporary(self) -> list[str]:
        """Hidden files."""
        return [path.name for path in self.results.rglob(".*") if path.name != ".lock"]

    def science(self, besides: tuple[str, ...]) -> dict[str, Any]:
        """Everything that is there, without the clock: bit for bit."""
        paths = sorted(path for path in self.results.rglob("[!.]*") if path.is_file())
        names = [path.relative_to(self.results).as_posix() for path in paths]
        found: dict[str, Any] = {"files": [name for name in names if not name.startswith(besides)]}
        for name in found["files"]:
            lines = pq.ParquetFile(self.results / name).read(use_threads=False).to_pylist()
            found[name] = [repr(_without_clock(line)) for line in lines]
        for path in sorted(self.folder.glob("aside/*.pt")):
            found[path.name] = _without_clock(torch.load(path, weights_only=True))
        return found


def _without_clock(state: Any) -> Any:
    if isinstance(state, dict):
        return {name: _without_clock(value) for name, value in state.items() if name not in CLOCKS}
    if isinstance(state, (list, tuple)):
        return [_without_clock(value) for value in state]
    return (str(state.dtype), state.numpy().tobytes()) if isinstance(state, torch.Tensor) else state


def assert_same(ours: Commands, undisturbed: Commands, besides: tuple[str, ...] = ()) -> None:
    found, wanted = ours.science(besides), undisturbed.science(besides)
    assert found["files"] == wanted["files"]
    assert found.keys() == wanted.keys()
    for name, content in wanted.items():
        assert found[name] == content, name
    assert len(ours.temporary()) <= ours.kills


@pytest.fixture(scope="module")
def server() -> Iterator[subprocess.Popen[str]]:
    # One thread: a fork of a process that runs more can hang.
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        [sys.executable, __file__],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        yield process
        os.killpg(process.pid, signal.SIGKILL)  # with a child that a timeout left behind


@pytest.fixture(scope="module")
def undisturbed(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Commands:
    commands = Commands(server, tmp_path_factory.mktemp("undisturbed"), BOTH_ROWS)
    commands.complete()
    assert sum(name.startswith("after the rename of checkpoints/") for name in commands.journal) == STEPS
    return commands


@pytest.mark.parametrize(
    "seed",
    [pytest.param(seed, marks=[pytest.mark.slow] if seed >= 3 else [], id=f"seed {seed}") for seed in range(20)],
)
def test_killed_at_a_random_step_and_resumed_is_the_run_that_was_not(
    seed: int, undisturbed: Commands, tmp_path: Path
) -> None:
    draw = random.Random(seed)
    clock, when, step = draw.choice((1, 2, 3)), draw.choice(("before step", "after step")), draw.randint(1, STEPS)
    print(f"seed {seed}: checkpoints every {clock} steps, killed {when} {step} of {STEPS}")
    commands = Commands(undisturbed.server, tmp_path, BOTH_ROWS)
    assert commands.run(clock, (when, step)) == -signal.SIGKILL
    saved = commands.saved()
    commands.complete(clock)
    assert commands.journal.count("after step") == STEPS - saved
    assert_same(commands, undisturbed)


def test_killed_again_and_again_it_still_comes_to_the_same_end(undisturbed: Commands, tmp_path: Path) -> None:
    commands = Commands(undisturbed.server, tmp_path, BOTH_ROWS)
    while commands.run(clock=2, die=("after step", 5)) == -signal.SIGKILL:
        assert commands.kills < STEPS
    assert commands.kills > 3
    assert_same(commands, undisturbed)


def test_killed_in_the_linear_evaluation_it_goes_on_there(server: subprocess.Popen[str], tmp_path: Path) -> None:
    arguments = command(
        "--rows", "with", protocol="cifar"
    )  # 8 steps, then 100 of a classifier that is trained on crops
    undisturbed, commands = (Commands(server, tmp_path / name, arguments) for name in ("undisturbed", "killed"))
    undisturbed.complete()
    writes = [name for name in undisturbed.journal if name.startswith("after the rename of checkpoints/")]
    assert len(writes) == 108
    assert commands.run(die=(writes[0], 50)) == -signal.SIGKILL
    commands.complete()
    assert "before step" not in commands.journal
    assert commands.journal.count(writes[0]) == 108 - 50
    assert_same(commands, undisturbed)


@pytest.fixture(scope="module")
def after_a_failure(server: subprocess.Popen[str], tmp_path_factory: pytest.TempPathFactory) -> Commands:
    """A row that failed, which the same command then trains."""
    commands = Commands(server, tmp_path_factory.mktemp("after_a_failure"), ONE_ROW)
    assert commands.run(fail=True) == 1
    shutil.copytree(commands.results, commands.folder / "failed")
    commands.complete(clock=CLOCK)
    return commands


def again(peer: Commands, number: int, folder: Path) -> tuple[int, Commands]:
    """Die at a moment of the peer's journal, then the same command again -> its exit code, and what is there."""
    commands = Commands(peer.server, folder / str(number), ONE_ROW)
    shutil.copytree(peer.folder / "failed", commands.results)
    name, before = peer.journal[number], peer.journal[: number + 1]
    assert commands.run(CLOCK, (name, before.count(name))) == -signal.SIGKILL
    return commands.run(CLOCK), commands


def clearing_up(journal: list[str]) -> range:
    """The moments when a trial is done, but what it no longer needs is still there."""
    done = [n for n, name in enumerate(journal) if name.startswith("after the rename of trials/")]
    cleared = [n for n, name in enumerate(journal) if name.startswith("after the removal of checkpoints/")]
    return range(done[-1], cleared[-1])


@pytest.mark.parametrize("file", [".writable", "stop_gradient.parquet", "checkpoints/", "curves/", "trials/"])
def test_killed_within_before_and_after_each_write_it_comes_to_the_same_end(
    file: str, after_a_failure: Commands, tmp_path: Path
) -> None:
    later = clearing_up(after_a_failure.journal)
    moments = [n for n, name in enumerate(after_a_failure.journal) if f" of {file}" in name and n not in later]
    assert len(moments) > 1
    for number in moments:
        code, commands = again(after_a_failure, number, tmp_path)
        assert code == 0, after_a_failure.journal[number]
        assert_same(commands, after_a_failure)


@pytest.fixture(scope="module")
def cut_short(after_a_failure: Commands, tmp_path_factory: pytest.TempPathFactory) -> list[tuple[int, Commands]]:
    """Killed around the removal of the failure, and before that of the checkpoint."""
    folder, moments = tmp_path_factory.mktemp("cut_short"), clearing_up(after_a_failure.journal)
    assert len(moments) == 4
    return [again(after_a_failure, number, folder) for number in moments]


def test_killed_while_a_finished_trial_clears_up_it_is_not_trained_again(
    cut_short: list[tuple[int, Commands]], after_a_failure: Commands
) -> None:
    for _, commands in cut_short:
        assert not any(name.endswith(" step") for name in commands.journal)
        assert_same(commands, after_a_failure, besides=("failed/", "checkpoints/"))


def test_killed_while_a_finished_trial_clears_up_it_has_not_failed(cut_short: list[tuple[int, Commands]]) -> None:
    for code, commands in cut_short:
        assert code == 0
        assert not list(commands.results.glob("failed/*"))


def test_killed_while_a_finished_trial_clears_up_it_leaves_no_checkpoint(
    cut_short: list[tuple[int, Commands]],
) -> None:
    for _, commands in cut_short:
        assert not list(commands.results.glob("checkpoints/*"))


if __name__ == "__main__":
    serve()
