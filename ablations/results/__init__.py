"""Results for people and scripts: from ablations import results; results.load("batch_size")

On the command line: python -m ablations.results claims | compare | watch | fidelity | diff | export
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Collection, Hashable
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablations import catalogue, encoders, todays
from ablations import fidelity as fidelities
from ablations import lines as lines_of
from ablations import tuned as tuning
from ablations.columns import COLUMNS, CURVE, Columns, Result, encoded
from ablations.fidelity import Fidelity
from ablations.results import selection
from ablations.results.comparing import agreement, compare, diff
from ablations.results.selection import Root, opened
from ablations.store import Store
from ablations.table import Table, UserError
from ablations.tuned import Choice
from ablations.verdict import NO_RUN, Verdict

__all__ = ["agreement", "claims", "compare", "curves", "diff", "encoder", "export", "fidelity", "load", "opened"]
__all__ += ["paper", "pivot", "tuned"]

if TYPE_CHECKING:
    from simsiam.encoder import Transform
    from simsiam.model import Backbone

_TRIAL = {name: COLUMNS[name] for name in ("row", "recipe", "overrides", "data", "seed", "fingerprint")}  # of a curve
_NONE = "none"  # a missing key of `pivot`, as --set has it


def load(
    table: str,
    *,
    recipe: str | None = None,
    overrides: str | None = None,
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """A table as a frame, a line a row and seed, in the paper's row order.

    `frame.attrs["units"]` has the unit of each column. Lines of different recipes, overrides, data or encoders are not
    comparable: where there are several and none is chosen, a warning says so. Lines of another version of the recipe,
    of the table or of the row are left out, with a warning.

    Args:
        table: its name.
        recipe: only lines of this recipe; None for all.
        overrides: only lines of these overrides, in any order, "" for those without any; None for all.
        data: only lines of these data, `layout@digest`; None for all.
        encoder_from: without the lines of rows that start with another encoder; None for all.
        root: the results folder, or its s3:// or gs:// URI; None for where run.py puts them without
            `--results`: $SIMSIAM_RESULTS, else results/ of the repository or, where there is none, of the folder that
            one is in.

    Raises UserError for an unknown table, one that has no file there, and for a recipe, overrides, data or encoder that
    it has no line of.
    """
    lines = _lines(table, recipe, overrides, data, encoder_from, root)
    todays.warn_of_stale(table, lines)
    for name, several in selection.several(lines).items():
        todays.warn(f"The lines of {table} are of several {name}: {several}. Choose one with {name}=.")
    return _frame(lines, COLUMNS)


def _lines(
    table: str, recipe: str | None, overrides: str | None, data: str | None, encoder_from: str | None, root: Root
) -> list[Result]:
    store = opened(root)
    lines = selection.tables(store, [table]).get(table, [])
    if not lines:
        where = "" if root is None else f" --results {store.folder}"
        lacks = "has no lines" if store.folder.exists(f"{table}.parquet") else "does not exist"
        raise UserError(f"{store.folder}/{table}.parquet {lacks}. Run: python ablations/run.py --table {table}{where}")
    asked = {"recipe": recipe, "overrides": None if overrides is None else todays.canonical(overrides), "data": data}
    for column, value in asked.items():
        if value is not None:
            if value not in (known := sorted({line[column] for line in lines})):
                raise UserError(selection.unknown(f"{column} of the lines of {table}", value, known))
            lines = [line for line in lines if line[column] == value]
    if encoder_from is not None:
        if encoder_from not in (known := lines_of.origins(lines)):
            raise UserError(selection.unknown(f"encoder of the lines of {table}", encoder_from, known))
        lines = lines_of.of_encoder(lines, encoder_from)
    today = todays.mask(table, lines, store.definitions(table))
    return [line for line, its in zip(lines, today, strict=True) if its]


def curves(
    table: str,
    *,
    recipe: str | None = None,
    overrides: str | None = None,
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """The curves of a table's trials, a line an epoch, beside the row, recipe, overrides, data and seed of each.

    Arguments and exceptions as of `load`. A trial that has no curve (it failed, or is infeasible) has no line.
    """
    lines = load(table, recipe=recipe, overrides=overrides, data=data, encoder_from=encoder_from, root=root)
    found = opened(root).curves(table, lines.fingerprint)
    parts = [
        {**{str(name): value for name, value in line.items()}, **epoch}
        for line in lines[[*_TRIAL]].to_dict("records")
        for epoch in found.get(line["fingerprint"], [])
    ]
    return _frame(parts, {**_TRIAL, **CURVE})


def paper(table: str) -> pd.DataFrame:
    """The paper's numbers of a table: row, paper (linear top-1 on ImageNet, per cent), note, section.

    A row that the paper has no number of has NaN. Raises UserError for an unknown table.
    """
    found = catalogue.get(table)
    lines = [{"row": row.name, "paper": row.paper, "note": row.note, "section": found.section} for row in found.rows]
    return _with_units(pd.DataFrame(lines), COLUMNS)


def claims(
    recipe: str = "digits",
    *,
    overrides: str = "",
    data: str | None = None,
    encoder_from: str | None = None,
    names: Collection[str] = (),
    root: Root = None,
) -> list[tuple[Table, Verdict]]:
    """Every claim of the tables that have results on this recipe with these overrides, judged.

    Lines that are not `load`'s are left out, with a warning.

    Args:
        data: `layout@digest`; None where all lines are of the same.
        encoder_from: where the encoder is from that rows start with; None where each table's is one.
        names: of the tables; none for all.

    Raises UserError where there are no such lines, or lines of several data or encoders and none is chosen.
    """
    names = [names] if isinstance(names, str) else names
    return selection.judged(selection.lines(opened(root), recipe, overrides, data, encoder_from, names))


def tuned(
    table: str,
    *,
    recipe: str = "digits",
    overrides: str = "",
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> tuple[list[Choice], list[Verdict]]:
    """What each row of a table of `--tune` was given, and the table's claims with each row at its own best.

    `claims` has the same claims with each row at the recipe's setting. Raises UserError as `claims` does, and for a
    table that is not tuned.
    """
    found, lines = next(iter(selection.lines(opened(root), recipe, overrides, data, encoder_from, [table])), (None, []))
    if found is None or not found.tuned:
        raise UserError(
            f"Table {table} is not tuned. One that is comes from run.py --table {table} --tune FIELD=VALUES"
        )
    return tuning.choices(found, lines), tuning.judged(found, lines)


def encoder(fingerprint: str, *, root: Root = None) -> tuple[Backbone, Transform]:
    """A finished trial's backbone in eval mode, (n, 3, S, S) -> (n, D), and what makes its input of a picture.

    It computes in full float32, whatever the trial's precision. The trial must have been run with
    `--keep-checkpoints`. Raises UserError for an unknown one, or where no checkpoint is kept.
    """
    return encoders.loaded(fingerprint, _with_files(fingerprint, root))


def export(fingerprint: str, path: str | os.PathLike[str], *, root: Root = None) -> None:
    """Write a finished trial's backbone as safetensors under torchvision's names, with its Config in the metadata.

    Raises UserError as `encoder` does, and for a name that does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"An encoder is exported as .safetensors. Got {path} instead.")
    content = encoders.exported(fingerprint, _with_files(fingerprint, root))
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None


def _with_files(fingerprint: str, root: Root) -> Store:
    """The store there. Raises UserError for a trial that it has the numbers of and no files, as what is published."""
    store = opened(root)
    if store.trial(fingerprint) is not None:
        return store
    lines = (line for its in selection.tables(store).values() for line in its if line["outcome"] not in NO_RUN)
    if any(line["fingerprint"] == fingerprint for line in lines):
        raise UserError(
            f"{store.folder} has the numbers of trial {fingerprint} alone, as a published folder does: no encoder is "
            "kept there. Train it again with --keep-checkpoints."
        )
    return store


def pivot(
    table: str,
    *,
    rows: str | list[str] = "row",
    columns: str | list[str] = "overrides",
    value: str = "knn_top1",
    recipe: str | None = None,
    overrides: str | None = None,
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> pd.DataFrame:
    """Means of a column over seeds, by two others, as a table's rows by what `--set` changed.

    No row and no column is left out: a cell without a number is NaN, and where a key is missing, as where a field is of
    no use, it is "none".

    Raises UserError as `load` does, for an unknown column, and for lines that no mean should be over: of several
    recipes, overrides, data or encoders, where none is chosen and none of `rows` and `columns` is it.
    """
    lines = _lines(table, recipe, overrides, data, encoder_from, root)
    todays.warn_of_stale(table, lines)
    frame = _frame(lines, COLUMNS)
    down, across = ([names] if isinstance(names, str) else list(names) for names in (rows, columns))
    by = [*down, *across]
    for name in (*by, value):
        if name not in frame.columns:
            raise UserError(selection.unknown("column", name, list(frame.columns)))
    if not down or not across or len(set(by)) < len(by):
        raise UserError(f"rows and columns must be one column or more each, none twice. Got {rows!r} and {columns!r}.")
    for name in by:
        if not all(isinstance(each, Hashable) for each in frame[name]):
            raise UserError(f"{name} has several values a line, and makes no rows or columns. Choose another column.")
    if not pd.api.types.is_numeric_dtype(frame[value]):
        raise UserError(f"value={value!r} has no numbers, so no means. Choose a column that has.")
    for name, several in selection.several(lines).items():
        if name not in by:
            raise UserError(f"The lines of {table} are of several {name}: {several}. Choose one with {name}=.")
    # By hand: pandas' pivot_table drops rows and columns whose key is missing, or that have no number.
    keys = [frame[name].astype(object).where(frame[name].notna(), _NONE) for name in by]
    return frame[value].groupby(keys, sort=False).mean().unstack(across, sort=False)


def fidelity(
    table: str,
    *,
    recipe: str = "digits",
    overrides: str = "",
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> list[Fidelity]:
    """Whether this table ranks its rows alike at each two lengths that there are, the recipe's and `--set epochs=N`.

    Args:
        overrides: what both have besides `epochs`.

    Raises UserError as `load` does, for lines of several data or encoders where none is chosen, and where there are not
    two lengths.
    """
    wanted = todays.canonical(overrides)
    by_length: dict[int, list[Result]] = {}
    for line in _lines(table, recipe, None, data, encoder_from, root):
        epochs, besides = todays.length(line["recipe"], line["overrides"])
        if besides == wanted:
            by_length.setdefault(epochs, []).append(line)
    lines = [*itertools.chain.from_iterable(by_length.values())]
    todays.warn_of_stale(table, lines)
    selection.check_one(f"The lines of {table}", lines)
    found = [
        fidelities.between(by_length[short], by_length[long], (short, long))
        for short, long in itertools.combinations(sorted(by_length), 2)
    ]
    known = [each for each in found if each]
    if not known:
        there = ", ".join(map(str, sorted(by_length))) or "none"
        raise UserError(
            f"Table {table} needs two lengths with three rows and a seed in common. Epochs that there are: {there}. "
            "Run it with --set epochs=N, too."
        )
    return known


def _frame(lines: list[Result], columns: Columns) -> pd.DataFrame:
    """Lines as a frame of these columns, and of those that someone has added to a file; each with its unit."""
    others = [name for name in dict.fromkeys(name for line in lines for name in line) if name not in columns]
    try:
        frame = pd.read_parquet(io.BytesIO(encoded(columns, lines)))  # as a table's file is read
    except (ValueError, TypeError) as error:  # pyarrow's, of a file that somebody has written anew
        raise UserError(f"A column of these lines is of another type than this version's: {error}.") from None
    for name in others:
        frame[name] = pd.Series([line.get(name) for line in lines])
    return _with_units(frame, columns)


def _with_units(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    units = {name: unit for name, (_, unit) in columns.items()}
    frame.attrs["units"] = {name: units.get(name, "") for name in frame.columns}
    return frame
