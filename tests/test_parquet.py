"""Parquet as the Hub has it: config folders, shards, labels of all kinds, and classes in another order."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pictures import encoded, write_parquet

from simsiam import data
from simsiam.data import DataError


def write(file: Path, labels: Any, *, names: list[str] | None = None, kind: pa.DataType | None = None) -> None:
    """A picture for each label; None for no label column."""
    images = [{"bytes": encoded(i), "path": None} for i in range(len(labels or [0] * 4))]
    columns = {"image": pa.array(images)}
    if labels is not None:
        columns["label"] = pa.array(labels, kind)
    table = pa.table(columns)
    if names is not None:
        features = {"label": {"names": names, "_type": "ClassLabel"}, "image": {"_type": "Image"}}
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})
    file.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, file)


def labels(root: Path) -> list[list[int]]:
    source = data.locate(root)
    return [data.read(source, split).labels.tolist() for split in ("train", "test")]


def test_classes_in_another_order_are_matched_by_name(tmp_path: Path) -> None:
    write(tmp_path / "train.parquet", [0, 1, 2, -1], names=["cat", "dog", "eel"])
    write(tmp_path / "test.parquet", [0, 1, 2, 3], names=["owl", "eel", "cat", "dog"])
    assert labels(tmp_path) == [[0, 1, 2, -1], [3, 2, 0, 1]]
    assert data.locate(tmp_path).notes == ("1 class of test alone (owl): none of their pictures can be right",)


@pytest.mark.parametrize("names", [["cat", "dog"], None])
def test_classes_in_one_order_or_without_names_stay(tmp_path: Path, names: list[str] | None) -> None:
    write(tmp_path / "train.parquet", [1, 0], names=["cat", "dog"])
    write(tmp_path / "test.parquet", [0, 1], names=names)
    assert labels(tmp_path) == [[1, 0], [0, 1]]
    assert data.locate(tmp_path).notes == ()


def test_files_of_a_split_that_disagree_on_their_classes_are_refused(tmp_path: Path) -> None:
    for i, names in enumerate((["cat", "dog"], ["dog", "cat"])):
        write(tmp_path / f"train-0000{i}-of-00002.parquet", [0, 1], names=names)
    write(tmp_path / "test.parquet", [0, 1], names=["cat", "dog"])
    with pytest.raises(DataError, match=r"files of the train split of .* number their classes in different orders"):
        data.locate(tmp_path)


@pytest.mark.parametrize("test", [[2, 3], [0, 0]])
def test_numbers_are_classes_too(tmp_path: Path, test: list[int]) -> None:
    write(tmp_path / "train.parquet", [0, 1, 1, 0])
    write(tmp_path / "test.parquet", test)
    source = data.locate(tmp_path)
    if test == [2, 3]:
        with pytest.raises(DataError, match="no class in common: train has 0, 1, test has 2, 3"):
            data.check(source)
    else:
        assert data.check(source) == ["1 class of train alone (1): nothing is tested on them"]


@pytest.mark.parametrize(
    ("unknown", "kind"),
    [([-1] * 3, pa.int64()), ([None] * 3, pa.int64()), ([None] * 3, pa.null()), (None, None)],
    ids=["below 0", "null", "of null type", "no column"],
)
def test_a_test_split_without_labels_is_passed_over(tmp_path: Path, unknown: Any, kind: Any) -> None:
    write(tmp_path / "train.parquet", [0, 1])
    write(tmp_path / "test.parquet", unknown, kind=kind)
    with pytest.raises(DataError, match="no labels" if unknown else "no label column"):
        data.locate(tmp_path)
    write(tmp_path / "validation.parquet", [1, 0, 1])
    assert labels(tmp_path)[1] == [1, 0, 1]


@pytest.mark.parametrize("config", ["", "plain_text", "data"])
@pytest.mark.parametrize("hub", [True, False])
def test_a_config_folder_is_a_data_set(tmp_path: Path, config: str, hub: bool) -> None:
    for split, count in (("train", 3), ("test", 2)):
        for i in range(2):
            name = f"{split}/{i:04}.parquet" if hub else f"{split}-{i:05}-of-00002.parquet"
            write_parquet(tmp_path / config / name, range(4 * i, 4 * i + count))
    source = data.locate(tmp_path)
    assert (source.train_images, source.test_images) == (6, 4)
    assert source.digest == data.locate(tmp_path).digest


def test_of_several_config_folders_one_is_asked_for(tmp_path: Path) -> None:
    for config in ("b", "a"):
        for split in ("train", "test"):
            write_parquet(tmp_path / config / f"{split}.parquet", range(3))
    with pytest.raises(DataError, match=f"several data sets: a, b. Name the folder of one, as --data {tmp_path}/a"):
        data.locate(tmp_path)
    assert data.locate(tmp_path / "b").train_images == 3


@pytest.mark.parametrize(
    "files",
    [
        ["train-00000-of-00002-aaaa", "train-00000-of-00002-bbbb"],
        ["train-00000-of-00002", "train-00000-of-00003"],
        ["train-00001-of-00002", "train-00002-of-00002"],
        ["train", "train-00000-of-00001"],
        ["train/0000", "train/0002"],
    ],
)
def test_a_shard_twice_and_another_missing_is_refused(tmp_path: Path, files: list[str]) -> None:
    for name in (*files, "test/0000" if "/" in files[0] else "test"):
        write_parquet(tmp_path / f"{name}.parquet", range(3))
    with pytest.raises(DataError, match=r"Parquet files of split train.* Each of 0 to N-1 must be there once"):
        data.locate(tmp_path)


@pytest.mark.parametrize("name", ["test", "validation", "val", "valid", "dev", "eval"])
def test_a_test_split_may_have_many_names(tmp_path: Path, name: str) -> None:
    write_parquet(tmp_path / "train.parquet", range(4))
    write_parquet(tmp_path / f"{name}.parquet", range(3))
    assert data.locate(tmp_path).test_images == 3


def test_of_several_label_columns_one_is_named(tmp_path: Path) -> None:
    for split in ("train", "test"):
        write(tmp_path / f"{split}.parquet", [0, 1, 2, 3])
        table = pq.read_table(tmp_path / f"{split}.parquet").rename_columns(["image", "fine_label"])
        table = table.append_column("coarse_label", pa.array([1, 1, 0, 0]))
        pq.write_table(table, tmp_path / f"{split}.parquet")
    with pytest.raises(DataError, match=r"Its columns: image, fine_label, coarse_label\. Name it with --label-column"):
        data.locate(tmp_path)
    with pytest.raises(DataError, match=r"no label column\. Known names: label_fine\. Its columns"):
        data.locate(tmp_path, label_column="label_fine")
    names = set()
    for column, labels in (("fine_label", [0, 1, 2, 3]), ("coarse_label", [1, 1, 0, 0])):
        source = data.locate(tmp_path, label_column=column)
        assert data.read(source, "train").labels.tolist() == labels
        data.unchanged(source)
        names.add(source.name)
    assert len(names) == 2
    with pytest.raises(DataError, match="--label-column is of Parquet"):
        data.locate(None, label_column="fine_label")
