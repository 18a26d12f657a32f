"""What takes minutes, as a user would run it: make test-slow"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny

from ablations import run

ROOT = Path(__file__).resolve().parent.parent
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


@pytest.mark.parametrize("seed", range(2))
def test_the_digits_recipe_learns_with_the_stop_gradient_and_collapses_without(seed: int, tmp_path: Path) -> None:
    command = ["--table", "stop_gradient", "--launcher", "local", "--seeds", str(seed + 1), "--results", str(tmp_path)]
    assert run.main(command) == 0
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    fine, collapsed = table[table.row == "with"], table[table.row == "without"]
    assert set(fine.outcome) == {"finished"}
    assert (fine.z_std >= 0.8).all()
    assert (fine.knn_top1 >= fine.knn_top1_init + 10).all()
    assert set(collapsed.outcome) == {"collapsed"}
    assert (collapsed.z_std <= 0.3).all()


def test_each_method_learns_on_the_digits_and_does_not_collapse(tmp_path: Path) -> None:
    methods = ("simclr", "moco", "byol", "swav")
    command = ["--table", "relations", "--rows", ",".join(methods), "--seeds", "3", "--launcher", "local"]
    assert run.main([*command, "--jobs", "2", "--results", str(tmp_path)]) == 0
    table = pd.read_parquet(tmp_path / "relations.parquet")
    assert table.groupby("row").seed.apply(list).to_dict() == {name: [0, 1, 2] for name in methods}
    assert set(table.outcome) == {"finished"}
    assert (table.knn_top1 >= table.knn_top1_init + 15).all()


@pytest.fixture
def ray_folder() -> Iterator[Path]:
    """A folder of its own for Ray's sockets: its name is in their command lines, and must be short."""
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


def started(results: Path, ray_folder: Path) -> subprocess.Popen[str]:
    """A table on Ray in a process of its own that a shell would have put into the background: SIGINT is ignored."""
    small = ["--set", "epochs=25", "--set", "width=4", "--seeds", "2", "--results", str(results)]
    command = [sys.executable, str(ROOT / "ablations" / "run.py"), "--table", "stop_gradient", *small]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = str(ray_folder)
    return subprocess.Popen(
        ["env", "--ignore-signal=INT", *command], env=environment, stdout=subprocess.PIPE, text=True, cwd=results.parent
    )


def wait_for_a_trial(results: Path) -> dict[Path, bytes]:
    """The files of finished trials, once there is one."""
    limit = time.monotonic() + 240
    while not [*results.glob("trials/*.parquet")] and time.monotonic() < limit:
        time.sleep(0.2)
    return {path: path.read_bytes() for path in results.glob("trials/*.parquet")}


def assert_gone(folder: Path) -> None:
    limit = time.monotonic() + 60
    while _processes_of(folder) and time.monotonic() < limit:
        time.sleep(0.5)
    assert _processes_of(folder) == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_run_that_is_killed_or_stopped_leaves_no_process_and_the_same_command_completes_the_table(
    number: signal.Signals, tmp_path: Path, ray_folder: Path
) -> None:
    results = tmp_path / "out"
    with started(results, ray_folder) as process:
        kept = wait_for_a_trial(results)
        process.send_signal(number)
        out, _ = process.communicate()
    assert 0 < len(kept) < 4
    if number == signal.SIGTERM:
        assert process.returncode == 130
        assert "the same command goes on from here" in out
    assert_gone(ray_folder)
    with started(results, ray_folder) as again:
        out, _ = again.communicate()
    assert again.returncode == 0, out
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(pd.read_parquet(results / "stop_gradient.parquet")) == 4


def test_code_that_is_edited_while_a_table_runs_changes_none_of_its_trials(tmp_path: Path, ray_folder: Path) -> None:
    checkout, results = tmp_path / "checkout", tmp_path / "out"
    for package in ("simsiam", "ablations"):
        shutil.copytree(ROOT / package, checkout / package)
    command = [sys.executable, "ablations/run.py", "--table", "stop_gradient", *tiny.OVERRIDES, "--seeds", "4"]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment |= {"RAY_TMPDIR": str(ray_folder)}
    process = subprocess.Popen([*command, "--results", str(results)], env=environment, cwd=checkout)
    try:
        assert wait_for_a_trial(results)
        (checkout / "simsiam" / "monitor.py").write_text("raise RuntimeError('half an edit')")
        assert process.wait() == 0
    finally:
        process.terminate()  # it takes its Ray along
        process.wait()
    table = pd.read_parquet(results / "stop_gradient.parquet")
    assert len(table) == 8
    assert table.sources.nunique() == 1


def _processes_of(folder: Path) -> list[str]:
    """Command lines of the processes that name a folder."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            line = path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_cifar10_from_parquet_to_parquet(tmp_path: Path) -> None:
    if not CIFAR10.exists():
        pytest.skip("CIFAR-10 as Parquet is not beside the project in shared/data/cifar10")
    small = dict(train_images=1000, epochs=1, width=8, batch_size=128, dim=64, projector_hidden=64, protocol="small")
    command = ["--table", "stop_gradient", "--recipe", "cifar10", "--data", str(CIFAR10), "--launcher", "local"]
    for name, value in small.items():
        command += ["--set", f"{name}={value}"]
    assert run.main([*command, "--results", str(tmp_path)]) == 0
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert list(table.test_images) == [10_000, 10_000]
    assert table.knn_top1.between(15, 60).all()  # 10 is chance
