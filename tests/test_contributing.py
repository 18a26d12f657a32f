"""CONTRIBUTING.md's changes are applied to a copy, and the command after each is run."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PARTS = re.findall(
    r"^## (.+?)\n.*?^```diff\n(.*?)^```\n\n    python (.*?)$",
    (ROOT / "CONTRIBUTING.md").read_text(),
    re.MULTILINE | re.DOTALL,
)


LONG = ("A method", "A layout of data")  # they train, as a switch does


@pytest.mark.parametrize(
    ("name", "change", "command"),
    [pytest.param(*part, marks=[pytest.mark.slow] if part[0] in LONG else [], id=part[0]) for part in PARTS],
)
def test_a_change_applies_is_small_and_its_command_runs(name: str, change: str, command: str, tmp_path: Path) -> None:
    for folder in ("simsiam", "ablations"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    applied = subprocess.run(["git", "apply", "-v", "-"], input=change, cwd=tmp_path, text=True, capture_output=True)
    assert applied.returncode == 0, applied.stderr
    added = [line for line in change.splitlines() if re.match(r"\+(?!\+)\s*\S", line)]
    assert 0 < len(added) <= 20
    generator = np.random.default_rng(0)
    (tmp_path / "pictures").mkdir()
    for split, n in (("train", 300), ("test", 100)):
        pixels = generator.integers(0, 256, (n, 12, 12, 3), np.uint8)
        np.savez(tmp_path / "pictures" / f"{split}.npz", pixels=pixels, labels=np.arange(n) % 10)
    done = subprocess.run(
        [sys.executable, *shlex.split(command), "--results", "out"], cwd=tmp_path, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (" trainings" if "--plan" in command else "out/stop_gradient.parquet") in done.stdout


def test_there_is_a_change_of_each_kind() -> None:
    kinds = ["A row", "A table", "A recipe", "A switch", "A method", "A layout of data"]
    assert [name for name, *_ in PARTS] == kinds
