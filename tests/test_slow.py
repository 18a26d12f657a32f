"""What takes minutes, as a user would run it: make test-slow"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest

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


def test_a_killed_ray_driver_leaves_no_process_and_the_same_command_completes_the_table(tmp_path: Path) -> None:
    small = ["--set", "epochs=25", "--set", "width=4", "--seeds", "2"]
    command = [sys.executable, str(ROOT / "ablations" / "run.py"), "--table", "stop_gradient", *small]
    command += ["--results", str(tmp_path / "out")]
    environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    environment["RAY_TMPDIR"] = str(tmp_path / "ray")  # names this Ray's processes, so that others' are left alone
    (tmp_path / "ray").mkdir()
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=tmp_path) as process:
        limit = time.monotonic() + 240
        while not [*tmp_path.glob("out/trials/*.parquet")] and time.monotonic() < limit:
            time.sleep(0.2)
        os.kill(process.pid, signal.SIGKILL)
    kept = {path: path.read_bytes() for path in tmp_path.glob("out/trials/*.parquet")}
    assert 0 < len(kept) < 4
    limit = time.monotonic() + 60
    while _processes_of(tmp_path) and time.monotonic() < limit:
        time.sleep(0.5)
    assert _processes_of(tmp_path) == []
    assert subprocess.run(command, env=environment, cwd=tmp_path).returncode == 0
    assert all(path.read_bytes() == content for path, content in kept.items())
    assert len(pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet")) == 4


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
