"""Which trials have another published number beside the paper's."""

from __future__ import annotations

from typing import Any

import pytest
from torchvision import datasets

from ablations import catalogue, planning, references
from simsiam.data import DataError, locate, read
from simsiam.data.torchvision_folders import FOLDERS

MANY = 50_000


def numbers(table: str, data: str = "cifar10@0123456789abcdef", recipe: str = "cifar10", **overrides: Any) -> Any:
    trials = planning.plan(catalogue.get(table), recipe=recipe, data=data, train_images=MANY, overrides=overrides)
    found = [(trial.row.name, references.find(trial)) for trial in trials]
    return {row: reference.accuracy for row, reference in found if reference}


def test_a_method_by_itself_has_the_number_of_its_length_and_batch() -> None:
    assert numbers("cifar_methods") == {"simsiam": 90.4, "simclr": 87.9}
    assert numbers("cifar_methods", epochs=200) == {"simsiam": 76.4, "simclr": 84.8}
    assert numbers("cifar_methods", epochs=1000, batch_size=256) == {"simsiam": 90.51, "simclr": 90.74}
    assert numbers("cifar_methods", data="cifar100@0", epochs=1000, batch_size=256) == {
        "simsiam": 66.04,
        "simclr": 65.78,
    }
    assert numbers("relations", epochs=200, batch_size=128) == {
        "simclr": 84.7, "swav": 81.2, "byol": 86.9, "byol_no_momentum": 81.9, "moco": 83.8
    }  # fmt: skip


def test_a_row_that_changes_a_part_has_none() -> None:
    assert numbers("stop_gradient") == {"with": 90.4}
    assert numbers("stop_gradient", similarity="cross_entropy") == {}
    assert numbers("batch_norm") == {"default": 90.4}


@pytest.mark.parametrize(
    "asked",
    [
        {"data": "parquet@0123456789abcdef"},  # JPEG-coded, say
        {"epochs": 400},
        {"batch_size": 256},
        {"width": 32},
        {"train_images": 10_000},
        {"recipe": "digits", "data": "digits@0"},
        {"recipe": "cifar10_short"},
    ],
)
def test_other_data_networks_and_lengths_have_none(asked: dict[str, Any]) -> None:
    assert numbers("cifar_methods", **asked) == {}


def test_data_that_are_called_cifar_are_those_whose_checksums_torchvision_knows(tmp_path: Any) -> None:
    """So a number may stand beside them by their layout: other files in such a folder are refused."""
    assert set(references._PUBLISHED) <= {layout for layout, *_ in FOLDERS.values()}
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list:
        (folder / name).write_bytes(b"another picture")
    with pytest.raises(DataError, match="no complete cifar10"):
        read(locate(tmp_path), "train")
