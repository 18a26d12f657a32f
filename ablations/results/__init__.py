"""Results for people and scripts: from ablations import results; results.load("batch_size")

On the command line: python -m ablations.results claims | compare | watch | fidelity | diff | export
"""

from __future__ import annotations

import io
import itertools
import os
from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING

import pandas as pd

from ablations import catalogue, encoders, todays
from ablations import fidelity as fidelities
from ablations import tuned as tuning
from ablations.columns import COLUMNS, CURVE, Columns, Result
from ablations.fidelity import Fidelity
from ablations.results import selection
from ablations.results.comparing import agreement, compare, diff
from ablations.results.selection import Root, opened
from ablations.table import Table, UserError
from ablations.tuned import Choice
from ablations.verdict import Verdict

__all__ = ["agreement", "claims", "compare", "curves", "diff", "encoder", "export", "fidelity", "load", "opened"]
__all__ += ["paper", "pivot", "tuned"]

if TYPE_CHECKING:
    from simsiam.encoder import Transform
    from simsiam.model import Backbone


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
            `--results`: $SIMSIAM_RESULTS, else results/ of the repository.

    Raises UserError for an unknown table, one that has no file there, and for a recipe, overrides, data or encoder that
    it has no line of.
    """
    frame = _load(table, recipe, overrides, data, encoder_from, root)
    for name, several in selection.several(frame).items():
        todays.warn(f"The lines of {table} are of several {name}: {several}. Choose one with {name}=.")
    return frame


def _load(
    table: str, recipe: str | None, overrides: str | None, data: str | None, encoder_from: str | None, root: Root
) -> pd.DataFrame:
    store = opened(root)
    content = store.folder.read(f"{table}.parquet")
    if content is None:
        catalogue.get(table)  # a name that is none is told so
        where = "" if root is None else f" --results {store.folder}"
        raise UserError(
            f"{store.folder}/{table}.parquet does not exist. Run: python ablations/run.py --table {table}{where}"
        )
    frame = pd.read_parquet(io.BytesIO(content))
    asked = {"recipe": recipe, "overrides": None if overrides is None else todays.canonical(overrides), "data": data}
    for column, value in asked.items():
        if value is not None:
            if value not in (known := sorted(set(frame[column]))):
                raise UserError(selection.unknown(f"{column} of the lines of {table}", value, known))
            frame = frame[frame[column] == value]
    if encoder_from is not None:
        if encoder_from not in (known := selection.origins(frame)):
            raise UserError(selection.unknown(f"encoder of the lines of {table}", encoder_from, known))
        frame = frame[~frame["encoder_from"].isin(set(known) - {encoder_from})]
    lines = frame.reindex(columns=todays.NEEDED).astype(object)  # files of before lack some
    today = todays.mask(table, lines.where(lines.notna(), None).to_dict("records"), store.definitions(table))
    return _with_units(frame[today].reset_index(drop=True), COLUMNS)


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
    found, parts = opened(root).curves(table, lines.fingerprint), []
    for line in lines[todays.KEY].to_dict("records"):
        if curve := found.get(line["fingerprint"]):
            parts.append(pd.DataFrame(curve).assign(**{str(name): value for name, value in line.items()}))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*todays.KEY, *CURVE])
    reals = {
        name: "float64" for name, (kind, _) in CURVE.items() if str(kind) == "double"
    }  # a column of None is one too
    frame = frame.reindex(columns=[*todays.KEY, *CURVE])  # files of before lack some
    return _with_units(frame.astype(reals), {**COLUMNS, **CURVE})


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
    return encoders.loaded(fingerprint, opened(root))


def export(fingerprint: str, path: str | os.PathLike[str], *, root: Root = None) -> None:
    """Write a finished trial's backbone as safetensors under torchvision's names, with its Config in the metadata.

    Raises UserError as `encoder` does, and for a name that does not end in .safetensors.
    """
    if Path(path).suffix != ".safetensors":
        raise UserError(f"An encoder is exported as .safetensors. Got {path} instead.")
    content = encoders.exported(fingerprint, opened(root))
    try:
        Path(path).write_bytes(content)
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error.strerror or error}.") from None


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

    Raises UserError as `load` does, for an unknown column, and for lines that no mean should be over: of several
    recipes, overrides, data or encoders, where none is chosen and none of `rows` and `columns` is it.
    """
    frame = _load(table, recipe, overrides, data, encoder_from, root)
    by = [*([rows] if isinstance(rows, str) else rows), *([columns] if isinstance(columns, str) else columns)]
    for name in (*by, value):
        if name not in frame.columns:
            raise UserError(selection.unknown("column", name, list(frame.columns)))
    if not pd.api.types.is_numeric_dtype(frame[value]):
        raise UserError(f"value={value!r} has no numbers, so no means. Choose a column that has.")
    for name, several in selection.several(frame).items():
        if name not in by:
            raise UserError(f"The lines of {table} are of several {name}: {several}. Choose one with {name}=.")
    return frame.pivot_table(index=rows, columns=columns, values=value, aggfunc="mean", sort=False)


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

    Raises UserError as `load` does, and where there are not two lengths.
    """
    lines = _load(table, recipe, None, data, encoder_from, root).to_dict("records")
    selection.check_one_encoder(table, lines)
    wanted = todays.canonical(overrides)
    by_length: dict[int, list[Result]] = {}
    for line in lines:
        epochs, besides = todays.length(line["recipe"], line["overrides"])
        if besides == wanted:
            by_length.setdefault(epochs, []).append({str(name): value for name, value in line.items()})
    found = [
        fidelities.between(by_length[short], by_length[long], (short, long))
        for short, long in itertools.combinations(sorted(by_length), 2)
    ]
    known = [each for each in found if each]
    if not known:
        there = ", ".join(map(str, sorted(by_length))) or "none"
        raise UserError(
            f"Table {table} needs two lengths with three rows and a seed in common. There are: {there} epochs. Run it "
            "with --set epochs=N, too."
        )
    return known


def _with_units(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    units = {name: unit for name, (_, unit) in columns.items()}
    frame.attrs["units"] = {name: units.get(name, "") for name in frame.columns}
    return frame
