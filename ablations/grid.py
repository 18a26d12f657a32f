"""Tables of a command line: each combination of some fields' values as a row, on a recipe or on each row of a table."""

from __future__ import annotations

import dataclasses
import itertools
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from ablations.options import assignment
from ablations.table import Fields, Row, Table, Trial, UserError
from ablations.verdict import Line, differences
from simsiam import config as configs

Axes = Mapping[str, tuple[Any, ...]]  # field -> its values, in the order in which they were given

BASELINE = "baseline"  # the row of the recipe itself
_MOST_ROWS = 10_000


def axes(texts: Sequence[str], option: str) -> Axes:
    """What `--grid FIELD=VALUE,VALUE` say. Raises UserError."""
    found: dict[str, tuple[Any, ...]] = {}
    for text in texts:
        name, values = _axis(text, option)
        if name in found:
            raise UserError(f"{option} {name} is given twice. Give all its values at once.")
        found[name] = values
    if (rows := math.prod(map(len, found.values()))) > _MOST_ROWS:
        raise UserError(f"{option} must be at most {_MOST_ROWS:,} combinations. Got {rows:,} instead.")
    return found


def _axis(text: str, option: str) -> tuple[str, tuple[Any, ...]]:
    name, values = assignment(text, option, "FIELD=VALUE,VALUE")
    try:
        found = tuple(configs.parse(name, value.strip()) for value in values.split(","))
    except ValueError as error:
        raise UserError(f"{option} {text}: {error}") from None
    if twice := [value for i, value in enumerate(found) if value in found[:i]]:
        raise UserError(f"{option} {text}: {value(twice[0])} is there twice. Leave one out.")
    if len(found) < 2:
        raise UserError(f"{option} {text} is one value. Give several, or use --set {text}.")
    return name, found


def of_recipe(name: str, its: Axes) -> Table:
    """The recipe itself, and each combination as a row on it."""
    itself = Row(name=BASELINE, changes={})
    return Table(
        name=name,
        title=f"Grid of {' x '.join(sorted(its))}",
        section="ours",
        varies=tuple(its),
        rows=(itself, *(_point(itself, each, at(each)) for each in points(its))),
        axes=its,
        carried=True,
    )


def of_table(table: Table, name: str, its: Axes) -> Table:
    """The table's baseline, and each of its rows at each combination."""
    return dataclasses.replace(
        table,
        name=name,
        title=f"{table.title}, each row at each {' x '.join(sorted(its))}",
        varies=tuple(dict.fromkeys([*table.varies, *its])),
        rows=(Row(name=BASELINE, changes={}), *_varied(table.rows, its)),
        claims=(),
        axes=its,
        carried=True,
    )


def tuned(table: Table, name: str, its: Axes) -> Table:
    """The table's rows at the recipe's own setting, as they are, and each of them at each combination."""
    return dataclasses.replace(
        table,
        name=name,
        title=f"{table.title}, each row at its own {' and '.join(sorted(its))}",
        varies=tuple(dict.fromkeys([*table.varies, *its])),
        rows=(*table.rows, *_varied(table.rows, its)),
        axes=its,
        tuned=True,
        carried=True,
    )


def points(its: Axes) -> Iterable[Fields]:
    """Every combination."""
    return (dict(zip(its, values, strict=True)) for values in itertools.product(*its.values()))


def at(point: Fields) -> str:
    """A combination as text, as `base_lr=0.1 dim=64`, by the words of a command line."""
    return re.sub(r"=null(?= |$)", "=none", configs.canonical(point))


def value(of: Any) -> str:
    """The value of a field as text."""
    return at({"": of}).removeprefix("=")


def _varied(rows: Iterable[Row], its: Axes) -> list[Row]:
    return [_point(row, each, f"{row.name} {at(each)}") for row in rows for each in points(its)]


def _point(row: Row, point: Fields, name: str) -> Row:
    """A row at a combination: what the row says of a field is over what the combination says, as over `--set`."""
    changes = _over(row.changes, point)
    return dataclasses.replace(row, name=name, changes=changes, of=row.name, at=point, paper=None, note="")


def _over(changes: Fields | Callable[[Fields], Fields], point: Fields) -> Fields | Callable[[Fields], Fields]:
    if callable(changes):
        return lambda baseline: {**point, **changes({**baseline, **point})}
    return {**point, **changes}


def undecided(table: Table, lines: Sequence[Line], asked: Sequence[str] | None = None) -> list[str]:
    """The baseline and the rows of a grid whose difference to it may be none; nothing where all are decided.

    Args:
        asked: rows; None for all.
    """
    found = differences([row.name for row in table.rows], BASELINE, lines)
    found = {name: each for name, each in found.items() if asked is None or name in asked}
    rows = [name for name, each in found.items() if not each.interval.tells]
    return [BASELINE, *rows] if rows else []


def check_that_axes_act(table: Table, trials: Sequence[Trial], of: str | None) -> None:
    """Refuse an axis that no row changes with: each of them overwrites it, or has no use for it. Raises UserError.

    Args:
        trials: of all rows.
        of: the table as `--table` names it, or None for a recipe's grid.
    """
    option = "--tune" if table.tuned else "--grid"
    one = f"row of table {of}" if of else f"training of recipe {trials[0].recipe}"
    found = {trial.row.name: trial for trial in trials if trial.row.at}
    for name, values in table.axes.items():
        others: dict[tuple[Any, ...], set[str]] = {}
        for trial in found.values():
            besides = tuple(value for field, value in trial.row.at.items() if field != name)
            others.setdefault((trial.row.of, trial.config.seed, *besides), set()).add(trial.fingerprint)
        if found and all(len(each) == 1 for each in others.values()):
            raise UserError(
                f"{option} {name}={','.join(map(value, values))}: {name} changes no {one}: each has a value of its "
                "own, or no use for it. Leave it out, or vary another field."
            )
