"""What is kept of a trial to draw it: against scikit-learn, and small."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
from conftest import random_images
from pictures import encoded, write_both_splits
from PIL import Image
from sklearn.decomposition import PCA
from sklearn.neighbors import NearestNeighbors
from test_monitor import SMALL, trained_model

from ablations import run, trial
from ablations.columns import PICTURES
from ablations.columns import encoded as parquet
from simsiam import data, gallery, loader, monitor
from simsiam.config import Config, Runtime
from simsiam.recipes import RECIPES

COMMAND = ["--table", "stop_gradient", "--rows", "with", *tiny.OVERRIDES, "--launcher", "local"]


def test_neighbours_and_the_plane_are_scikit_learns() -> None:
    model = trained_model().double().eval()
    train, test = random_images(301, seed=1, size=8), random_images(90, seed=2, size=8)
    got = monitor.measure(model, train, test, SMALL, last=3)
    bank, features = (monitor.embed(model.features, images, SMALL.crop)[0].numpy() for images in (train, test))
    near = NearestNeighbors(n_neighbors=5, metric="cosine").fit(bank)
    assert len(got["neighbours"]) == 8
    for asked, *found in got["neighbours"]:
        distances = near.kneighbors(features[asked : asked + 1])[0][0]
        ours = 1 - bank[found] @ features[asked] / np.linalg.norm(bank[found], axis=1) / np.linalg.norm(features[asked])
        np.testing.assert_allclose(ours, distances, atol=1e-12)  # of equals, either may stand there

    z = model.z(torch.from_numpy(features)).numpy()
    points = PCA(2).fit_transform(z / np.linalg.norm(z, axis=1, keepdims=True))
    found = np.array(got["plane"])
    assert len(found) == 90
    order = np.argsort(np.abs(found[:, 0]))
    expected = points[np.argsort(np.abs(points[:, 0]))]
    np.testing.assert_allclose(np.abs(found[order][:, :2]), np.abs(expected), atol=1e-6)


def kept(results: Path) -> pd.DataFrame:
    (file,) = (results / "pictures").iterdir()
    assert file.stat().st_size < 200_000
    return pd.read_parquet(file)


def test_a_trial_keeps_twelve_pictures_with_two_views_eight_with_five_neighbours_and_a_plane(tmp_path: Path) -> None:
    assert run.main([*COMMAND, "--results", str(tmp_path)]) == 0
    lines = kept(tmp_path)
    assert lines.columns.tolist() == list(PICTURES)
    views, near, plane = (lines[lines.kind == kind] for kind in ("view", "neighbour", "z"))
    assert views.groupby("group").place.apply(list).tolist() == [[0, 1, 2]] * 12
    assert near.groupby("group").place.apply(list).tolist() == [[0, 1, 2, 3, 4, 5]] * 8
    assert len(plane) == 360
    digits = data.read(data.locate(None), "test")
    for line in near[near.place == 0].to_dict("records"):
        assert line["label"] == digits.labels[int(line["picture"])]
        assert Image.open(io.BytesIO(line["image"])).size == (8, 8)
    assert not plane[["x", "y"]].isna().any().any()


def test_ones_own_pictures_are_kept_only_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = write_both_splits(tmp_path / "data", [encoded(i, 12, 12) for i in range(40)])
    command = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", "--data", str(folder)]
    for field, value in (tiny.FIELDS | {"batch_size": 16, "train_images": 30}).items():
        command += ["--set", f"{field}={value}"]
    for name, more in {"without": [], "with": ["--pictures"]}.items():
        assert run.main([*command, *more, "--results", str(tmp_path / name)]) == 0
    assert not (tmp_path / "without" / "pictures").exists()
    assert set(kept(tmp_path / "with").kind) == {"view", "neighbour", "z"}


@pytest.mark.parametrize("name", ["flowers", "imagenette", "cifar10"])
def test_what_is_kept_of_real_pictures_is_small(name: str) -> None:
    folder = Path(__file__).resolve().parents[2] / "shared" / "data" / name
    if not folder.exists():
        pytest.skip(f"the pictures of {name} are not beside the project")
    source = data.locate(folder)
    config = Config(data=source.name, **RECIPES[name])
    train, test = loader.load(loader.decode(source, None) or source, config, Runtime())
    near = [[i, *range(5 * i, 5 * i + 5)] for i in range(8)]
    lines: list[dict[str, Any]] = gallery.rows(config, train, test, near, [[0.1, 0.2, 3.0]] * 500)
    assert sum(line["kind"] != "z" for line in lines) == 12 * 3 + 8 * 6
    assert len(parquet(PICTURES, lines)) < 200_000


def test_a_diverged_trial_keeps_none(tmp_path: Path) -> None:
    config = tiny.config(base_lr=1e30, epochs=2)
    decoded = trial.shared(data.locate(None), [config])[config.train_images]
    assert decoded is not None
    runtime = Runtime(pictures=True)
    result, _ = trial.run(config, runtime, pictures=decoded, place=tiny.Memory(), on_epoch=lambda line: None)
    assert result["outcome"] == "diverged"
    assert "pictures" not in result
