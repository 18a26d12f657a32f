"""Data on disk: what is read, in which order, and what is refused with which words."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import assert_holds, encoded, picture, write_images, write_parquet
from sklearn.datasets import load_digits
from torchvision.datasets import ImageFolder

from simsiam import data
from simsiam.data import DataError, arrow, parquet_files


@pytest.mark.parametrize("image", ["image", "img"])
@pytest.mark.parametrize("label", ["label", "labels"])
@pytest.mark.parametrize("struct", [True, False])
def test_parquet_columns(tmp_path: Path, image: str, label: str, struct: bool) -> None:
    for split, seeds in (("train", range(5)), ("test", range(10, 13))):
        write_parquet(tmp_path / f"{split}.parquet", seeds, image=image, label=label, struct=struct)
    source = data.locate(tmp_path)
    assert (source.layout, source.train_images, source.test_images) == ("parquet", 5, 3)
    assert re.fullmatch(r"parquet@[0-9a-f]{16}", source.name)
    assert_holds(data.read(source, "train"), range(5))
    assert_holds(data.read(source, "test"), range(10, 13))


@pytest.mark.parametrize("folder", [".", "data"])
@pytest.mark.parametrize("test", ["test", "validation", "val"])
@pytest.mark.parametrize("shard", ["-{i:05d}-of-00002", "-{i:05d}-of-00002-0123456789abcdef"])
def test_parquet_shards_are_one_split_in_order(tmp_path: Path, folder: str, test: str, shard: str) -> None:
    for name, first in (("train", 0), (test, 20)):
        for i in (1, 0):  # not in the order of their names
            rows = range(first + 4 * i, first + 4 * i + 4 - i)
            write_parquet(tmp_path / folder / f"{name}{shard.format(i=i)}.parquet", rows)
    source = data.locate(tmp_path)
    assert (source.train_images, source.test_images) == (7, 7)
    train = data.read(source, "train")
    assert_holds(train, range(7))
    assert_holds(data.read(source, "test"), range(20, 27))
    second = tmp_path / folder / f"train{shard.format(i=1)}.parquet"
    assert [train.where(i) for i in (4, 6)] == [f"{second}, row 0", f"{second}, row 2"]


def test_other_parquet_files_are_left_out(tmp_path: Path) -> None:
    for name in ("train", "test", "unsupervised", "training", "extra-train", "train_old"):
        write_parquet(tmp_path / f"{name}.parquet", range(2))
    source = data.locate(tmp_path)
    assert (source.train_images, source.test_images) == (2, 2)


FOLDER = {
    "train/dog/b.png": 1,
    "train/dog/a.PNG": 2,
    "train/cat/z.png": 3,
    "train/Eel/deep/c.png": 4,
    "train/cat/a.png": 5,
    "val/cat/1.png": 6,
    "val/dog/1.png": 7,
    "val/Eel/1.png": 8,
}


@pytest.mark.parametrize("test", ["val", "test", "validation"])
def test_image_folder_is_torchvisions(tmp_path: Path, test: str) -> None:
    write_images(tmp_path, {name.replace("val/", f"{test}/"): seed for name, seed in FOLDER.items()})
    (tmp_path / "train/cat/notes.txt").write_text("no picture")
    source = data.locate(tmp_path)
    assert (source.layout, source.train_images, source.test_images) == ("images", 5, 3)
    for split, folder in (("train", "train"), ("test", test)):
        theirs = ImageFolder(str(tmp_path / folder))
        ours = data.read(source, split)
        assert [ours.where(i) for i in range(len(ours))] == [path for path, _ in theirs.samples]
        assert ours.labels.tolist() == theirs.targets
        for i in range(len(theirs)):
            assert np.array_equal(np.asarray(ours.decode(i)), np.asarray(theirs[i][0]))


def test_a_class_has_one_number_in_both_splits(tmp_path: Path) -> None:
    write_images(tmp_path, {**FOLDER, "train/bee/a.png": 9})
    source = data.locate(tmp_path)
    for split, file in (("train", "train/dog/b.png"), ("test", "val/dog/1.png")):
        pictures = data.read(source, split)
        names = [pictures.where(i) for i in range(len(pictures))]
        assert pictures.labels[names.index(str(tmp_path / file))] == 3  # Eel, bee, cat, dog


@pytest.mark.parametrize("layout", ["parquet", "images"])
def test_a_test_and_a_validation_split_beside_each_other(tmp_path: Path, layout: str) -> None:
    for seed, split in enumerate(("train", "test", "validation")):
        if layout == "parquet":
            write_parquet(tmp_path / f"{split}.parquet", [seed])
        else:
            write_images(tmp_path, {f"{split}/a/1.png": seed, f"{split}/b/1.png": seed})
    source = data.locate(tmp_path)
    assert source.test_images == (1 if layout == "parquet" else 2)
    assert np.array_equal(np.asarray(data.read(source, "test").decode(0)), picture(1))


@pytest.mark.parametrize("shard", ["", "-00000-of-00001"])
def test_a_test_split_without_labels_is_passed_over_for_one_that_has_some(tmp_path: Path, shard: str) -> None:
    write_parquet(tmp_path / "train.parquet", range(5))
    write_parquet(tmp_path / f"test{shard}.parquet", range(20, 24), known=False)
    with pytest.raises(DataError, match=r"The test split of .* has no labels.* validation or val"):
        data.locate(tmp_path)
    write_parquet(tmp_path / f"validation{shard}.parquet", range(10, 13))
    source = data.locate(tmp_path)
    assert source.test_images == 3
    assert_holds(data.read(source, data.TEST), range(10, 13))


def test_what_is_no_data_is_refused(tmp_path: Path) -> None:
    missing, empty, file = tmp_path / "missing", tmp_path / "empty", tmp_path / "file.parquet"
    empty.mkdir()
    file.write_bytes(b"")
    for path, message in (
        (missing, f"The data folder {missing} does not exist"),
        (file, f"must be a folder. Got the file {file}"),
        (empty, f"The data folder {empty} holds nothing that can be read"),
    ):
        with pytest.raises(DataError, match=re.escape(message)):
            data.locate(path)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (
            lambda root: write_parquet(root / "train.parquet", [1]),
            "no test split. Name it test or validation or val",
        ),
        (lambda root: write_parquet(root / "test.parquet", [1]), "no train split. Name it train"),
        (lambda root: write_images(root, {"train/a/1.png": 1}), "no test split"),
        (lambda root: write_images(root, {"val/a/1.png": 1}), "no train split"),
        (lambda root: write_images(root, {"train/1.png": 1, "val/a/1.png": 1}), "no train split"),
    ],
)
def test_a_missing_split_is_refused(tmp_path: Path, write: Callable[[Path], None], message: str) -> None:
    write(tmp_path)
    with pytest.raises(DataError, match=re.escape(f"{tmp_path} has {message}")):
        data.locate(tmp_path)


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        (
            {"image": "pixels"},
            "has no image column. Known names: image, img. Its columns: pixels, other, label.",
        ),
        (
            {"label": "class"},
            "has no label column. Known names: label, labels. Its columns: image, other, class.",
        ),
    ],
)
def test_a_missing_column_is_refused(tmp_path: Path, columns: dict[str, str], message: str) -> None:
    write_parquet(tmp_path / "train.parquet", [1])
    write_parquet(tmp_path / "test.parquet", [1], **columns)  # type: ignore[arg-type]
    with pytest.raises(DataError, match=re.escape(f"{tmp_path / 'test.parquet'} {message}")):
        data.locate(tmp_path)


@pytest.mark.parametrize("keep", [0, 4, 0.5, -1])
def test_truncated_parquet_is_refused(tmp_path: Path, keep: float) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", range(3))
    file = tmp_path / "train.parquet"
    content = file.read_bytes()
    file.write_bytes(content[: int(keep * len(content)) if 0 < keep < 1 else int(keep)])
    with pytest.raises(DataError, match=re.escape(f"{file} is no readable Parquet file")):
        data.locate(tmp_path)


def test_parquet_broken_in_the_middle_is_refused_when_read(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write_parquet(tmp_path / f"{split}.parquet", range(3))
    file = tmp_path / "train.parquet"
    content = bytearray(file.read_bytes())
    content[4:200] = bytes(196)
    file.write_bytes(content)
    with pytest.raises(DataError, match=re.escape(f"{file} cannot be read")):
        data.read(data.locate(tmp_path), "train")


def test_a_disk_that_is_full_is_named_and_gets_its_room_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    place = tmp_path / "data"
    for split in ("train", "test"):
        write_parquet(place / f"{split}.parquet", range(3))
    half = arrow._kept(str(place), parquet_files.splits(str(place))["train"], "tmp")
    half.parent.mkdir()
    half.symlink_to("/dev/full")  # which takes nothing
    source = data.locate(place)
    with pytest.raises(DataError, match=r"cannot be copied into .*No space left.*another folder in \$SIMSIAM_CACHE"):
        data.read(source, "train")
    assert not half.is_symlink()
    assert_holds(data.read(source, "train"), range(3))


BROKEN: dict[str, Callable[[bytes], bytes]] = {
    "half": lambda content: content[: len(content) // 2],
    "text": lambda content: b"this is no picture",
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_corrupt_picture_in_parquet_is_named(tmp_path: Path, how: str) -> None:
    for name in ("train-00000-of-00002", "test"):
        write_parquet(tmp_path / f"{name}.parquet", range(3))
    images = [encoded(0), BROKEN[how](encoded(1)), encoded(2)]
    file = tmp_path / "train-00001-of-00002.parquet"
    column = [{"bytes": content, "path": None} for content in images]
    pq.write_table(pa.table({"image": column, "label": [0, 1, 2]}), file)
    source = data.locate(tmp_path)
    train = data.read(source, "train")
    for i in (0, 1, 2, 3, 5):
        train.decode(i)
    message = re.escape(f"Corrupt image in {file}, row 1: ")
    with pytest.raises(DataError, match=message):
        train.decode(4)
    with pytest.raises(DataError, match=message):
        data.check(source)
    with pytest.raises(DataError, match=message):
        train.subset(np.array([0, 4])).decode(1)


def test_a_null_picture_in_parquet_is_refused_while_it_is_read(tmp_path: Path) -> None:
    write_parquet(tmp_path / "test.parquet", range(3))
    column = [{"bytes": content, "path": None} for content in (encoded(0), None, encoded(2))]
    pq.write_table(pa.table({"image": column, "label": [0, 1, 2]}), tmp_path / "train.parquet")
    with pytest.raises(DataError, match=r"Corrupt image in .*/train\.parquet, row 1: it is null\."):
        data.read(data.locate(tmp_path), "train")


@pytest.mark.parametrize("how", ["half", "text", "empty"])
def test_a_corrupt_picture_in_a_folder_is_named(tmp_path: Path, how: str) -> None:
    write_images(tmp_path, FOLDER)
    file = tmp_path / "val/dog/1.png"
    file.write_bytes(BROKEN[how](file.read_bytes()) or b"")
    source = data.locate(tmp_path)
    data.read(source, "test").decode(0)
    with pytest.raises(DataError, match=re.escape(f"Corrupt image in {file}: ")):
        data.check(source)


def test_check_finds_nothing_in_sound_data(tmp_path: Path) -> None:
    write_images(tmp_path, FOLDER)
    data.check(data.locate(tmp_path))


@pytest.mark.parametrize("layout", ["parquet", "images"])
def test_digest_is_of_names_and_sizes_and_not_of_the_place(tmp_path: Path, layout: str) -> None:
    root = tmp_path / "here"
    if layout == "images":
        write_images(root, FOLDER)
    else:
        write_parquet(root / "train.parquet", range(4))
        write_parquet(root / "data/test.parquet", range(3))
    file = root / ("train/cat/z.png" if layout == "images" else "train.parquet")

    names = [data.locate(root).name, data.locate(Path(shutil.copytree(root, tmp_path / "a/b"))).name]
    assert names[0] == names[1]
    if layout == "images":
        file.write_bytes(file.read_bytes() + b"x")
    else:
        write_parquet(file, range(5))
    names.append(data.locate(root).name)
    file.rename(file.with_name("y.png" if layout == "images" else "train-00000-of-00001.parquet"))
    names.append(data.locate(root).name)
    assert len(set(names)) == 3


def test_digits_are_scikit_learns() -> None:
    source = data.locate(None)
    assert (source.layout, source.train_images, source.test_images) == ("digits", 1437, 360)
    train, test = data.read(source, "train"), data.read(source, "test")
    assert (len(train), len(test)) == (1437, 360)
    bunch = load_digits()
    expected: dict[tuple[bytes, int], int] = {}
    for image, label in zip(bunch.images, bunch.target, strict=True):
        gray = np.array([[int(v * 255 / 16 + 0.5) for v in row] for row in image], np.uint8)
        key = gray.tobytes(), int(label)
        expected[key] = expected.get(key, 0) + 1
    for pictures in (train, test):
        assert pictures.pixels is not None
        assert pictures.pixels.shape[1:] == (8, 8, 3)
        assert pictures.pixels.dtype == np.uint8
        assert (pictures.pixels == pictures.pixels[..., :1]).all()
        for pixels, label in zip(pictures.pixels[..., 0], pictures.labels, strict=True):
            expected[pixels.tobytes(), int(label)] -= 1
        # Shuffled: each digit is about a tenth of either split.
        assert np.bincount(pictures.labels).min() > 0.06 * len(pictures)
    assert set(expected.values()) == {0}
    data.check(source)


def test_subset_is_the_pictures_asked_for(tmp_path: Path) -> None:
    write_images(tmp_path, FOLDER)
    folder = data.read(data.locate(tmp_path), "train")
    part = folder.subset(np.array([3, 0]))
    assert part.labels.tolist() == folder.labels[[3, 0]].tolist()
    assert [part.where(0), part.where(1)] == [folder.where(3), folder.where(0)]
    assert np.array_equal(np.asarray(part.decode(0)), np.asarray(folder.decode(3)))
    digits = data.read(data.locate(None), "train")
    part = digits.subset(np.array([9, 1, 5])).subset(np.array([2, 0]))
    assert part.pixels is not None
    assert digits.pixels is not None
    assert np.array_equal(part.pixels, digits.pixels[[5, 9]])
    assert part.labels.tolist() == digits.labels[[5, 9]].tolist()


def test_fewer_training_pictures_are_a_fixed_choice_and_never_all() -> None:
    source = data.locate(None)
    whole, some, more = (data.read(source, "train", n) for n in (None, 100, 200))
    assert whole.pixels is not None
    assert some.pixels is not None
    assert len(some) == 100
    assert np.array_equal(some.pixels, data.read(source, "train", 100).pixels)  # type: ignore[arg-type]
    places = [[pictures.where(i) for i in range(len(pictures))] for pictures in (some, more)]
    assert set(places[0]) < set(places[1])
    rows = [int(place.removeprefix("digits, row ")) for place in places[0]]
    assert rows == sorted(rows)
    assert rows[-1] > 1300  # from all over the set
    assert len(data.read(source, "train", 1436)) == 1436
    for n in (1437, 5000):
        with pytest.raises(DataError, match=rf"below the 1437 pictures there are \(none = all\). Got {n}"):
            data.read(source, "train", n)
