"""Which lines may be compared: of one recipe, one set of overrides, one data set and one encoder."""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Sequence

from ablations import catalogue, files, todays, verdict
from ablations import lines as lines_of
from ablations.columns import Result
from ablations.store import Store
from ablations.table import Table, UserError
from ablations.verdict import Verdict
from simsiam import config as configs

Root = str | os.PathLike[str] | None
Lines = list[tuple[Table, list[Result]]]  # tables, each with its lines

_SEVERAL = {"data": "are of several data sets", "encoder_from": "start from several encoders"}


def opened(root: Root = None) -> Store:
    """Where results lie. Raises UserError for a bucket that does not answer."""
    store = Store.at(files.results_place(None) if root is None else root)
    store.folder.check_readable()
    return store


def tables(store: Store, names: Collection[str] = ()) -> dict[str, list[Result]]:
    """The tables there that have lines, with these.

    Args:
        names: of the tables; none for all, of which one that cannot be read is left out, with a warning.

    Raises UserError for one that is named and is none, or cannot be read.
    """
    found = {}
    for name in names or catalogue.there(store):
        try:
            its = store.table(name)
        except UserError as error:
            if names:
                raise
            todays.warn(str(error))
            continue
        if names:
            check_table(name, store)
        found[name] = list(map(lines_of.whole, its))
    return {name: its for name, its in found.items() if its}


def check_table(name: str, store: Store) -> None:
    """Raises UserError for a name that is neither of a table of this package nor of one that results carry there."""
    if name not in (known := catalogue.there(store)):
        raise UserError(unknown("table", name, known))


def lines(
    store: Store,
    recipe: str,
    overrides: str,
    data: str | None,
    encoder_from: str | None,
    names: Collection[str] = (),
    option: str = "--",
) -> Lines:
    """Today's lines, of those tables that have some. Raises UserError for none, and for several data sets or encoders.

    Args:
        data, encoder_from: None where all are of the same.
        names: of the tables; none for all that there are.
        option: how the options begin that choose them, for errors.
    """
    overrides = todays.canonical(overrides)
    found: Lines = []
    of_recipe, encoders = list[Result](), set[str]()
    for name, its in tables(store, names).items():
        its = [line for line in its if line["recipe"] == recipe]
        of_recipe += its
        if its := [line for line in its if line["overrides"] == overrides and data in (None, line["data"])]:
            definitions = store.definitions(name)
            its = [line for line, today in zip(its, todays.mask(name, its, definitions), strict=True) if today]
            encoders |= set(lines_of.origins(its))
            if its := lines_of.of_encoder(its, encoder_from):
                todays.warn_of_stale(name, its)
                check_one(f"The lines of {name}", its, ["encoder_from"], option)
                found.append((catalogue.carried(name, recipe, overrides, definitions), its))
    if not any(line["overrides"] == overrides and data in (None, line["data"]) for line in of_recipe):
        wanted = f"{store.folder} has no results of recipe {recipe}"
        wanted += f" of table {', '.join(names)}" if names else ""
        wanted += f" with {option}overrides '{overrides}'" if overrides else " without overrides" if of_recipe else ""
        wanted += f" on {data}" if data else ""
        raise UserError(f"{wanted}. {_instead(store, of_recipe, overrides, option)}")
    if encoder_from not in (None, *encoders):
        raise UserError(unknown(f"encoder of the lines of recipe {recipe}", str(encoder_from), sorted(encoders)))
    check_one("The lines", [line for _, its in found for line in its], ["data"], option)
    return found


def _instead(store: Store, of_recipe: Sequence[Result], overrides: str, option: str) -> str:
    """What there is, where what is asked for is not: data with these overrides, overrides of this recipe, recipes."""
    if sets := sorted({line["data"] for line in of_recipe if line["overrides"] == overrides}):
        return f"Data that it has results on: {', '.join(sets)}."
    if others := sorted({line["overrides"] for line in of_recipe}):
        here = ", ".join(f"{option}overrides '{each}'" if each else "none" for each in others)
        return f"Overrides that it has results with: {here}."
    there = tables(store)
    recipes = sorted({line["recipe"] for its in there.values() for line in its})
    return f"Recipes there: {', '.join(recipes) or 'none'}. Tables there: {', '.join(there) or 'none'}."


def judged(lines: Lines) -> list[tuple[Table, Verdict]]:
    """Every claim of these tables."""
    return [(table, each) for table, its in lines for each in verdict.judge(table.claims, its)]


def several(lines: Sequence[Result]) -> dict[str, str]:
    """Of what lines should be one and are several: the column, and its values in words."""
    there = {name: sorted({line[name] for line in lines}) for name in ("recipe", "overrides", "data")}
    there["encoder_from"] = lines_of.origins(lines)
    return {
        name: ", ".join(each or "'' (none)" for each in values) for name, values in there.items() if len(values) > 1
    }


def check_one(what: str, lines: Iterable[Result], names: Collection[str] = tuple(_SEVERAL), option: str = "--") -> None:
    """Raises UserError if these lines are of several data sets, or start from several encoders."""
    for name, values in several(list(lines)).items():
        if name in names:
            chosen = option + name.replace("_", "-")
            raise UserError(f"{what} {_SEVERAL[name]}: {values}. Choose one with {chosen}.")


def unknown(what: str, value: str, known: Collection[str]) -> str:
    """The error for a value that no line has."""
    if not known:
        return f"Unknown {what} '{value}'. Known: none."
    return configs.unknown(what, value, [each or "'' (none)" for each in known])
