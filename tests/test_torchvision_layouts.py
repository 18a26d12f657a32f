"""The folders in which torchvision keeps CIFAR and STL-10, made here in small."""

from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
from torchvision.datasets import cifar, stl10

from simsiam import data

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _any_content(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision knows the digests of the real files."""
    for module in (cifar, stl10):
        monkeypatch.setattr(module, "check_integrity", lambda *_, **__: True)


def pictures(n: int, size: int) -> np.ndarray:
    return RNG.integers(0, 256, (n, 3, size, size), dtype=np.uint8)


def test_cifar10(tmp_path: Path) -> None:
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    names = [f"data_batch_{i}" for i in range(1, 6)] + ["test_batch"]
    content = {name: pictures(2, 32) for name in names}
    for i, name in enumerate(names):
        batch = {"data": content[name].reshape(2, -1), "labels": [i, 9]}
        (folder / name).write_bytes(pickle.dumps(batch))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij")}))

    source = data.locate(tmp_path)
    assert (source.layout, source.train_images, source.test_images) == ("cifar10", 50_000, 10_000)
    train, test = data.read(source, "train"), data.read(source, "test")
    assert train.labels.tolist() == [0, 9, 1, 9, 2, 9, 3, 9, 4, 9]
    assert train.pixels is not None
    assert test.pixels is not None
    assert np.array_equal(train.pixels[2].transpose(2, 0, 1), content["data_batch_2"][0])
    assert np.array_equal(test.pixels[1].transpose(2, 0, 1), content["test_batch"][1])


def test_stl10_trains_on_all_its_pictures_and_knows_which_have_labels(tmp_path: Path) -> None:
    folder = tmp_path / "stl10_binary"
    folder.mkdir()
    content = {"train": pictures(3, 96), "unlabeled": pictures(4, 96), "test": pictures(2, 96)}
    for name, images in content.items():
        images.transpose(0, 1, 3, 2).tofile(folder / f"{name}_X.bin")  # column by column
    np.array([1, 10, 5], np.uint8).tofile(folder / "train_y.bin")
    np.array([2, 3], np.uint8).tofile(folder / "test_y.bin")
    (folder / "class_names.txt").write_text("\n".join("abcdefghij"))

    source = data.locate(tmp_path)
    assert source.layout == "stl10"
    train, test = data.read(source, "train"), data.read(source, "test")
    assert train.labels.tolist() == [0, 9, 4, -1, -1, -1, -1]
    assert test.labels.tolist() == [1, 2]
    assert train.pixels is not None
    assert np.array_equal(train.pixels[4].transpose(2, 0, 1), content["unlabeled"][1])


def test_an_incomplete_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "cifar-10-batches-py").mkdir()
    with pytest.raises(data.DataError, match="no complete cifar10 as torchvision keeps it"):
        data.read(data.locate(tmp_path), "train")
