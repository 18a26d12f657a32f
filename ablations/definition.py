"""A table as JSON: what the results of a grid, or of a file of one's own, carry in their Parquet file.

With it, results are read, judged and shown where the file or the command that made them is not at hand. It holds values
alone: nothing of a results folder is run.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ablations.table import Claim, Row, Table, Trial

Definitions = Mapping[str, Any]  # of a results file: `key` -> the table


def key(recipe: str, overrides: str) -> str:
    """What a definition is filed under: rows may be functions of the recipe and of what `--set` changes of it."""
    return f"{recipe} {overrides}".strip()


def encoded(table: Table) -> dict[str, Any]:
    """A table whose changes are plain values (planning.resolved)."""
    return {name: value for name, value in dataclasses.asdict(table).items() if name != "carried"}


def decoded(values: Mapping[str, Any]) -> Table:
    """The table. Raises ValueError if these are not the values of one, say of a later version."""
    try:
        return Table(
            **{
                **values,
                "varies": tuple(values["varies"]),
                "axes": {name: tuple(each) for name, each in values["axes"].items()},
                "rows": tuple(Row(**row) for row in values["rows"]),
                "claims": tuple(Claim(**{**claim, "rows": tuple(claim["rows"])}) for claim in values["claims"]),
                "carried": True,
            }
        )
    except (TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"its table is none that this version reads ({error})") from None


def among(before: Definitions, trials: Sequence[Trial]) -> Definitions:
    """The definitions of a results file with that of these trials' table, all of one recipe and overrides.

    The rows of an earlier grid stay beside those of a finer one; of a tuned table, the choice is among the values of
    the last command.
    """
    trial = trials[0]
    if not trial.table.carried:
        return before
    name = key(trial.recipe, trial.overrides)
    table = trial.table
    if name in before and table.axes and not table.tuned:
        table = _finer(decoded(before[name]), table)
    return {**before, name: encoded(table)}


def order(definitions: Definitions, table: Table) -> Callable[[str, str, str], int]:
    """The place of a row among those of its table with a recipe and overrides; behind them, if it is none of them."""
    places = {name: {row["name"]: i for i, row in enumerate(found["rows"])} for name, found in definitions.items()}
    ours = {row.name: i for i, row in enumerate(table.rows)}

    def place(recipe: str, overrides: str, row: str) -> int:
        its = places.get(key(recipe, overrides), ours)
        return its.get(row, len(its))

    return place


def _finer(one: Table, other: Table) -> Table:
    """Both grids as one, each axis in its order."""
    axes = {name: _in_order(dict.fromkeys([*one.axes.get(name, ()), *values])) for name, values in other.axes.items()}
    rows = {row.name: row for row in (*one.rows, *other.rows)}
    bases = list(dict.fromkeys(row.of for row in (*other.rows, *one.rows)))

    def place(row: Row) -> list[int]:
        return [bases.index(row.of), *(axes[name].index(row.at[name]) if name in row.at else -1 for name in axes)]

    return dataclasses.replace(other, axes=axes, rows=tuple(sorted(rows.values(), key=place)))


def _in_order(values: Mapping[Any, Any]) -> tuple[Any, ...]:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    return tuple(sorted(values) if numbers else values)
