"""--check: what the data are, and a sheet of pictures beside the views that are trained on."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, write_images, write_parquet
from PIL import Image
from torchvision.transforms.v2.functional import hflip

from ablations import data_check, run
from ablations.table import UserError
from simsiam import data

PLAIN = dict(jitter_p=0.0, grayscale_p=0.0, blur_p=0.0, flip_p=1.0, crop_min_area=1.0)
COMMAND = ["--recipe", "flowers", "--set", "image_size=8"]


def test_classes_counts_sizes_and_what_is_left_out_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, {f"{split}/{name}/1.png": 1 for split in ("train", "val") for name in ("a\x07", "b")})
    write_images(tmp_path, {"train/b/2.png": 2, "val/c/1.png": 3, "train/stray.png": 4})
    (tmp_path / "train/b/wide.png").write_bytes(encoded(1, 5, 30))
    frames = [Image.new("RGB", (7, 9), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "train/b/moves.gif", save_all=True, append_images=frames[1:])
    assert run.main([*COMMAND, "--data", str(tmp_path), "--check"]) == 0
    out = capsys.readouterr().out
    assert out.splitlines()[1:] == [
        "  train: 5 pictures, 7 to 30 wide, 5 to 9 high",
        "  test: 3 pictures, all 7 x 9",
        "  3 classes, with their pictures in train + test:",
        "    a\\x07: 1 + 1",
        "    b: 4 + 1",
        "    c: 0 + 1",
        "  1 class of test alone (c): none of their pictures can be right",
        "  left out 1 file without a class, as train/stray.png",
        *[line for line in out.splitlines() if "several frames" in line],
    ]
    assert f"of 1 pictures with several frames the first is taken, as of {tmp_path}/train/b/moves.gif" in out


def test_broken_data_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_images(tmp_path, {f"{split}/{name}/1.png": 1 for split in ("train", "val") for name in "ab"})
    (tmp_path / "val/a/1.png").write_bytes(b"<html>")
    assert run.main([*COMMAND, "--data", str(tmp_path), "--check"]) == 2
    assert "val/a/1.png: it is in no known format" in capsys.readouterr().err


def test_the_sheet_has_the_pictures_and_their_views(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", range(40))
    config = run.planning.recipe("flowers", data.locate(tmp_path).name, {**PLAIN, "image_size": 8})
    precious = tmp_path / "my.parquet"
    precious.write_text("precious")
    with pytest.raises(UserError, match=r"ends in \.png, as views\.png\. Got .*my\.parquet"):
        data_check.sheet(data.locate(tmp_path), config, precious)
    assert precious.read_text() == "precious"
    data_check.sheet(data.locate(tmp_path), config, tmp_path / "views.png")
    drawn = np.asarray(Image.open(tmp_path / "views.png"))
    assert drawn.shape == (4 * 128, 9 * 128, 3)
    # The whole picture, turned over: the first view of the second picture that is shown, against torchvision.
    picture = Image.open(io.BytesIO(encoded(3)))
    expected = np.asarray(hflip(picture).resize((8, 8), Image.Resampling.BILINEAR).resize((124, 124), 0)).astype(int)
    assert np.abs(drawn[:124, 4 * 128 : 4 * 128 + 124] - expected).max() <= 2


def test_a_sheet_that_cannot_be_written_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--check", str(tmp_path / "no" / "views.png")]) == 2
    assert "views.png cannot be written: No such file" in capsys.readouterr().err
