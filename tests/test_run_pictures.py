"""The command line on pictures in folders, with the local launcher."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny
from pictures import encoded, write_both_splits, write_images

from ablations import run
from ablations import trial as trials

ROOT = Path(__file__).resolve().parent.parent


def test_pictures_of_two_folders_stand_beside_each_other(tmp_path: Path) -> None:
    small = ["--set", "batch_size=16", "--set", "epochs=1", "--set", "image_size=8", "--set", "width=4"]
    command = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *small]
    results = ["--results", str(tmp_path / "out")]
    for name, seeds in (("a", "2"), ("b", "1")):
        folder = write_both_splits(tmp_path / name, [encoded(9 * i + ord(name)) for i in range(16)])
        assert run.main([*command, "--data", str(folder), "--seeds", seeds, *results]) == 0
    table = pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet")
    assert sorted(table.groupby("data").size()) == [1, 2]


def test_a_picture_that_goes_while_a_table_runs_fails_what_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    names = [f"{split}/{label}/{i}.png" for split in ("train", "val") for label in "ab" for i in range(12)]
    write_images(tmp_path / "in", {name: i for i, name in enumerate(names)})
    (tmp_path / "in/train/a/0.png").write_bytes(encoded(1, 20, 30))  # of another size: they are read while training
    real = trials.pretrain.pretrain

    def pretrain(*args: Any, **kwargs: Any) -> Any:
        found = real(*args, **kwargs)
        (tmp_path / "in/train/b/7.png").unlink(missing_ok=True)
        return found

    monkeypatch.setattr(trials.pretrain, "pretrain", pretrain)
    command = ["--table", "stop_gradient", "--launcher", "local", "--data", str(tmp_path / "in"), *tiny.OVERRIDES]
    command = [part.replace("train_images=300", "batch_size=8") for part in command]
    assert run.main([*command, "--results", str(tmp_path / "out")]) == 1
    table = pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet")
    assert list(table.outcome) == ["failed", "failed"]
    # The second row would have come to the same.
    assert all(text.endswith("b/7.png: No such file or directory. Replace or remove it.") for text in table.message)
    assert run.main([*command, "--results", str(tmp_path / "out")]) == 0  # planned with what is there


def test_pictures_go_from_a_folder_to_parquet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # Two sizes, so that they are decoded while reading.
    images = [encoded(i % 20, 12, 12 + i % 2) for i in range(40)]
    folder = write_both_splits(tmp_path / "data", images, image="img", label="labels")
    small = ["--set", "batch_size=16", "--set", "epochs=1", "--set", "image_size=8", "--set", "width=4"]
    command = ["--table", "stop_gradient", "--launcher", "local", "--data", str(folder), *small]
    assert run.main([*command, "--results", str(tmp_path / "out")]) == 0
    table = pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet")
    assert table.data.str.startswith("parquet@").all()
    assert (table.test_images == 40).all()
    hint = "--loader-processes N has N others do it."
    assert capsys.readouterr().out.count(hint) == 1
    (tmp_path / "out" / "trials" / f"{table.fingerprint[0]}.parquet").unlink()
    assert run.main([*command, "--loader-processes", "1", "--results", str(tmp_path / "out")]) == 0
    assert hint not in capsys.readouterr().out


@pytest.mark.parametrize(
    "odd",
    [
        {"train/a/html.jpg": b"<html>"},
        {"train/a/cut.png": encoded(1)[:50]},
        {"train/a/\x1b]0;x\x07\n\U0001f408.png": encoded(1), "train/notes.txt": b"x"},
        {"val/c/1.png": encoded(1), "train/._1.png": b"\x00"},
        {"train/a/empty.webp": b""},
    ],
    ids=["html", "cut", "name", "others", "empty"],
)
def test_an_odd_folder_ends_with_0_or_2_and_never_in_a_traceback(odd: dict[str, bytes], tmp_path: Path) -> None:
    write_images(tmp_path, {f"{split}/{label}/1.png": 1 for split in ("train", "val") for label in "ab"})
    for name, content in odd.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(content)
    command = [sys.executable, str(ROOT / "ablations/run.py"), "--data", str(tmp_path), "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    broken = any(name.startswith("train/a/") and content != encoded(1) for name, content in odd.items())
    assert done.returncode == (2 if broken else 0)
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) == broken
    if not broken:
        pictures = 2 + sum(name.startswith("train/a/") for name in odd)
        assert f"  train: {pictures} pictures" in done.stdout
    assert "\x1b" not in done.stdout + done.stderr
