"""The rows that a GPU is tested with, without one: one of each kind takes a step."""

from __future__ import annotations

import math

import pytest
import rows

from ablations import catalogue
from simsiam.methods import METHODS

CONFIGS = rows.configs()


def test_there_is_a_row_of_each_method_and_table() -> None:
    tables = {name.partition("/")[0] for name in CONFIGS}
    without_such_a_step = {"detection", "none"}
    assert {config.method for config in CONFIGS.values()} == METHODS.keys() - without_such_a_step
    apart = {table.name for table in map(catalogue.get, catalogue.names()) if not table.needs_encoder} - tables
    assert apart <= {"epochs", "cifar_methods"}  # whose rows are another table's, but for their length


@pytest.mark.parametrize("name", rows.kinds(CONFIGS))
def test_a_row_takes_a_step(name: str) -> None:
    (loss,) = rows.Run(CONFIGS[name], device="cpu").steps(1)
    assert math.isfinite(loss)
