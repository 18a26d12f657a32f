"""Which lines may be compared: of one recipe, one set of overrides, one data set and one encoder."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Mapping
from typing import Any

import pandas as pd

from ablations import catalogue, files, todays, verdict
from ablations import lines as lines_of
from ablations.columns import Result
from ablations.store import Store
from ablations.table import Table, UserError
from ablations.verdict import Verdict
from simsiam import config as configs

Root = str | os.PathLike[str] | None
Lines = list[tuple[Table, list[Result]]]  # tables, each with its lines


def opened(root: Root = None) -> Store:
    """Where results lie. Raises UserError for a bucket that does not answer."""
    store = Store.at(files.results_place(None) if root is None else root)
    store.folder.check_readable()
    return store


def readable(store: Store) -> dict[str, list[Result]]:
    """The tables there that have lines, with these. One that cannot be read is left out."""
    found = {}
    for name in catalogue.there(store):
        with contextlib.suppress(UserError):
            found[name] = store.table(name)
    return {name: lines for name, lines in found.items() if lines}


def lines(
    store: Store,
    recipe: str,
    overrides: str,
    data: str | None,
    encoder_from: str | None,
    names: Collection[str] = (),
) -> Lines:
    """Today's lines, of those tables that have some. Raises UserError for none, and for several data sets or encoders.

    Args:
        data, encoder_from: None where all are of the same.
        names: of the tables; none for all that there are.
    """
    overrides = todays.canonical(overrides)
    found: Lines = []
    there, others, encoders = False, set[str](), set[str]()
    for name in names or catalogue.there(store):
        definitions = store.definitions(name)
        if not definitions:
            catalogue.get(name)
        its = [line for line in store.table(name) if line["recipe"] == recipe]
        others |= {line["overrides"] for line in its}
        if its := [line for line in its if line["overrides"] == overrides and data in (None, line["data"])]:
            there = True
            its = [line for line, today in zip(its, todays.mask(name, its, definitions), strict=True) if today]
            encoders |= set(lines_of.origins(its))
            if its := lines_of.of_encoder(its, encoder_from):
                check_one_encoder(name, its)
                found.append((catalogue.carried(name, recipe, overrides, definitions), its))
    if not there:
        raise UserError(_none(store, recipe, overrides, data, names, others))
    if encoder_from not in (None, *encoders):
        raise UserError(unknown(f"encoder of the lines of recipe {recipe}", str(encoder_from), sorted(encoders)))
    sets = sorted({line["data"] for _, its in found for line in its})
    if len(sets) > 1:
        raise UserError(f"The lines are of several data sets: {', '.join(sets)}. Choose one with --data.")
    return found


def _none(store: Store, recipe: str, overrides: str, data: str | None, names: Collection[str], others: set[str]) -> str:
    """The error for no such lines: what is asked for, and what is there."""
    of = f" of table {', '.join(names)}" if names else ""
    of += f" with --overrides '{overrides}'" if overrides else " without overrides" if others else ""
    of += f" on {data}" if data else ""
    if others:
        here = ", ".join(f"--overrides '{each}'" if each else "none" for each in sorted(others))
        besides = f"Overrides that it has results with: {here}."
    else:
        tables = readable(store)
        recipes = sorted({line["recipe"] for its in tables.values() for line in its})
        besides = f"Recipes there: {', '.join(recipes) or 'none'}. Tables there: {', '.join(tables) or 'none'}."
    return f"{store.folder} has no results of recipe {recipe}{of}. {besides}"


def judged(lines: Lines) -> list[tuple[Table, Verdict]]:
    """Every claim of these tables."""
    return [(table, each) for table, its in lines for each in verdict.judge(table.claims, its)]


def origins(frame: pd.DataFrame) -> list[str]:
    """Where the encoders are from that the rows of a frame start with."""
    return lines_of.origins(frame.reindex(columns=["encoder_from"]).to_dict("records"))  # files of before lack it


def several(frame: pd.DataFrame) -> dict[str, str]:
    """Of what the lines of a frame should be one and are several: the column, and its values in words."""
    there = {name: sorted(set(frame[name])) for name in ("recipe", "overrides", "data")}
    there["encoder_from"] = origins(frame)
    return {
        name: ", ".join(each or "'' (none)" for each in values) for name, values in there.items() if len(values) > 1
    }


def check_one_encoder(table: str, lines: Iterable[Mapping[Any, Any]]) -> None:
    """Raises UserError if a table's lines start from several."""
    if len(several := lines_of.origins(lines)) > 1:
        raise UserError(
            f"The lines of {table} start from several encoders: {', '.join(several)}. Choose one with --encoder-from."
        )


def unknown(what: str, value: str, known: list[str]) -> str:
    """The error for a value that no line has."""
    return configs.unknown(what, value, [each or "'' (none)" for each in known])
