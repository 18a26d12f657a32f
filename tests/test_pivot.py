"""results.pivot beside means by hand: no row and no column is lost."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from ablations import results
from ablations.table import UserError

ROOT = Path(__file__).resolve().parent.parent / "results" / "published" / "digits"


@pytest.mark.parametrize(
    ("table", "rows", "columns"),
    [
        ("batch_size", "row", "seed"),  # two rows are infeasible
        ("predictor", "row", "predictor_lr"),  # two rows have none
        ("batch_size", "row", "encoder_from"),  # no row has one
        ("predictor", ["row", "predictor_lr"], ["seed"]),
        ("predictor", "row", ["predictor_lr", "seed"]),
        ("batch_size", "outcome", "row"),
    ],
)
def test_every_row_and_column_is_there_with_its_mean(table: str, rows: Any, columns: Any) -> None:
    found = results.pivot(table, rows=rows, columns=columns, overrides="", root=ROOT)
    frame = results.load(table, overrides="", root=ROOT)
    down, across = ([each] if isinstance(each, str) else each for each in (rows, columns))
    lines = frame.astype(object).where(frame.notna(), None).to_dict("records")

    def key(line: Any, names: list[str]) -> Any:
        its = tuple("none" if line[name] is None else line[name] for name in names)
        return its if len(its) > 1 else its[0]

    def axis(names: list[str], index: pd.Index[Any]) -> None:
        assert list(index.names) == names
        assert set(index) == {key(line, names) for line in lines}

    axis(down, found.index)
    axis(across, found.columns.get_level_values(0) if len(across) == 1 else found.columns)
    for row in found.index:
        for column in found.columns:
            here = column if len(across) > 1 or not isinstance(column, tuple) else column[0]
            its = [line["knn_top1"] for line in lines if (key(line, down), key(line, across)) == (row, here)]
            values = [value for value in its if value is not None]
            mean = found.loc[row][column]
            assert math.isnan(mean) if not values else mean == pytest.approx(sum(values) / len(values))


def test_what_makes_no_rows_or_columns_is_refused() -> None:
    for asked, error in (
        ({"rows": "row", "columns": "row"}, r"one column or more each, none twice\. Got 'row' and 'row'\."),
        ({"rows": []}, "one column or more each"),
        ({"columns": "z_singular_values"}, "z_singular_values has several values a line"),
        ({"columns": ["seed", "knn"]}, "Unknown column 'knn'"),
    ):
        with pytest.raises(UserError, match=error):
            results.pivot("batch_size", root=ROOT, **asked)  # type: ignore[arg-type]
