"""Which lines may be compared: of one recipe, one set of overrides, one data set and one encoder."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from ablations import catalogue, todays
from ablations import lines as lines_of
from ablations.columns import Result
from ablations.store import Store
from ablations.table import Table, UserError
from simsiam import config as configs

Lines = list[tuple[Table, list[Result]]]  # tables, each with its lines


def lines(
    store: Store,
    recipe: str,
    overrides: str,
    data: str | None,
    encoder_from: str | None,
    names: Iterable[str] | None = None,
) -> Lines:
    """Today's lines, of those tables that have some. Raises UserError for none, and for several data sets or encoders.

    Args:
        data, encoder_from: None where all are of the same.
        names: of the tables; None for all that there are.
    """
    overrides = todays.canonical(overrides)
    found: Lines = []
    there, others, encoders = False, set[str](), set[str]()
    for name in catalogue.there(store) if names is None else names:
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
        here = ", ".join(f"--overrides '{each}'" if each else "none" for each in sorted(others))
        of = f" with --overrides '{overrides}'" if overrides else " without overrides" if others else ""
        of += f" on {data}" if data else ""
        besides = f" Overrides that it has results with: {here}." if others else ""
        raise UserError(f"{store.folder} has no results of recipe {recipe}{of}.{besides}")
    if encoder_from not in (None, *encoders):
        raise UserError(unknown(f"encoder of the lines of recipe {recipe}", str(encoder_from), sorted(encoders)))
    sets = sorted({line["data"] for _, its in found for line in its})
    if len(sets) > 1:
        raise UserError(f"The lines are of several data sets: {', '.join(sets)}. Choose one with --data.")
    return found


def origins(frame: pd.DataFrame) -> list[str]:
    """Where the encoders are from that the rows of a frame start with."""
    return lines_of.origins(frame.reindex(columns=["encoder_from"]).to_dict("records"))  # files of before lack it


def check_one_encoder(table: str, lines: Iterable[Mapping[Any, Any]]) -> None:
    """Raises UserError if a table's lines start from several."""
    if len(several := lines_of.origins(lines)) > 1:
        raise UserError(
            f"The lines of {table} start from several encoders: {', '.join(several)}. Choose one with --encoder-from."
        )


def unknown(what: str, value: str, known: list[str]) -> str:
    """The error for a value that no line has."""
    return configs.unknown(what, value, [each or "'' (none)" for each in known])
