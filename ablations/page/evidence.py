"""What a results folder holds, as a reader goes through it: stages, their tables, and what is missing and why."""

from __future__ import annotations

import functools
import itertools
import operator
import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from ablations import catalogue, fidelity, todays, tuned, verdict
from ablations import lines as lines_of
from ablations.columns import Result
from ablations.definition import Definitions
from ablations.fidelity import Fidelity
from ablations.printed import beside, in_no_mean, plural, same_trainings
from ablations.store import Store
from ablations.table import Row, Table, UserError
from ablations.verdict import NO_RUN, Interval, Verdict
from simsiam import config as configs

MOST_DRAWN = 40  # rows of a table

_Key = tuple[str, str, str, str]  # recipe, overrides, data, and the encoder where a table has rows from several


@dataclass(frozen=True)
class Shown:
    """A table on one stage: today's lines of it, and what became of its claims.

    Args:
        curves: fingerprint -> curve, of the trials that have one.
        missing: what is not shown and why, a sentence each.
        notes: what is said of that which is.
    """

    table: Table
    lines: Sequence[Result]
    verdicts: Sequence[Verdict]
    curves: Mapping[str, Sequence[Result]]
    missing: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def rows(self) -> list[Row]:
        """Those that have a line, in the paper's order."""
        return [row for row in self.table.rows if row.name in self._by_row]

    def of(self, row: Row) -> list[Result]:
        """The lines of a row, by seed."""
        return self._by_row.get(row.name, [])

    def ran(self, row: Row) -> list[Result]:
        """Those of them that have run, which are a row's seeds here as they are a claim's: a diverged one has."""
        return [line for line in self.of(row) if line["outcome"] not in NO_RUN]

    @functools.cached_property
    def _by_row(self) -> dict[str, list[Result]]:
        return lines_of.grouped(self.lines, operator.itemgetter("row"))

    def mean(self, row: Row, name: str) -> Interval | None:
        """Of a column over a row's seeds, with its 95 % interval; None where no seed has a number."""
        return verdict.mean(self.of(row), name)


@dataclass(frozen=True)
class Stage:
    """Tables of one recipe, with one set of overrides, on one data set: what may be compared.

    Args:
        apart: the data again, where another stage differs in nothing else; else "".
        origin: where the encoder is from, where a table's rows start from several; else "".
    """

    recipe: str
    overrides: str
    data: str
    tables: Sequence[Shown]
    apart: str = ""
    origin: str = ""

    @property
    def name(self) -> str:
        changed = f" --set {self.overrides}" if self.overrides else ""
        which = ", ".join(filter(None, (self.apart, self.origin and f"from {self.origin}")))
        return f"{self.recipe}{changed}" + (f" ({which})" if which else "")

    @property
    def slug(self) -> str:
        """The same as part of a file's name."""
        return re.sub(r"[^\w.=-]+", "_", f"{self.recipe} {self.overrides} {self.apart} {self.origin}".strip())


class Note(NamedTuple):
    """Why nothing is shown of a table, or of a stage of it, in a sentence."""

    table: str
    text: str


@dataclass(frozen=True)
class Evidence:
    """All that is shown of a results folder; `notes` are of what cannot be."""

    place: str
    stages: Sequence[Stage]
    notes: Sequence[Note]

    def missing(self, table: str | None = None) -> list[str]:
        """What is not shown of this table, or of all, and why, a sentence each."""
        found = [note.text for note in self.notes if table in (None, note.table)]
        for stage in self.stages:
            for shown in stage.tables:
                if table in (None, shown.table.name):
                    found += [f"{stage.name}, {shown.table.name}: {text}" for text in shown.missing]
        return found


def read(store: Store) -> Evidence:
    """The stages of a results folder, that with the most results first. What cannot be read becomes a note."""
    notes: list[Note] = []
    found: dict[_Key, list[Shown]] = {}
    known = catalogue.there(store)
    for name in known:
        try:
            lines = list(map(lines_of.whole, store.table(name)))
            definitions = store.definitions(name)
        except UserError as error:
            notes.append(Note(name, str(error)))
            continue
        for key, its in _by_stage(lines).items():
            today, missing = _today(name, its, definitions)
            if today:
                found.setdefault(key, []).append(_shown(name, today, definitions, store, missing))
            else:
                recipe, overrides, of, origin = key
                stage = Stage(recipe, overrides, of, (), apart=of, origin=origin)
                notes += [Note(name, f"{stage.name}: {text}") for text in missing]
    files = sorted(file.removesuffix(".parquet") for file in store.table_files())
    notes += [Note(name, _unknown(name, store)) for name in files if name not in known]
    named = Counter((recipe, overrides) for recipe, overrides, _ in {key[:3] for key in found})
    stages = []
    for (recipe, overrides, of, origin), tables in found.items():
        apart = of if named[recipe, overrides] > 1 else ""
        stages.append(Stage(recipe, overrides, of, tables, apart=apart, origin=origin))
    stages.sort(key=lambda stage: -sum(len(shown.lines) for shown in stage.tables))
    return Evidence(str(store.folder), stages, notes)


def fidelities(stages: Sequence[Stage]) -> Iterator[tuple[str, Fidelity]]:
    """How well shorter tables rank the rows of longer ones: the table's name with its recipe, and each two lengths."""
    found: dict[tuple[str, ...], dict[int, Sequence[Result]]] = {}
    for stage in stages:
        epochs, besides = todays.length(stage.recipe, stage.overrides)
        for shown in stage.tables:
            origin = lines_of.origins(shown.lines)
            found.setdefault((shown.table.name, stage.recipe, besides, stage.data, *origin), {})[epochs] = shown.lines
    for (name, recipe, besides, *_), lines in found.items():
        for short, long in itertools.combinations(sorted(lines), 2):
            if each := fidelity.between(lines[short], lines[long], (short, long)):
                yield f"{name}, {recipe} {besides}".strip(), each


def _unknown(name: str, store: Store) -> str:
    """Why a file is of no table: it may have been one of a grid before it was damaged."""
    try:
        store.definitions(name)
    except UserError as error:
        return str(error)
    return f"{name}.parquet is of no table that this version knows."


def _by_stage(lines: Sequence[Result]) -> dict[_Key, list[Result]]:
    """A table's lines by what may be compared. Rows that start from no encoder are beside those of each."""
    found: dict[_Key, list[Result]] = {}
    for key, its in lines_of.grouped(lines, operator.itemgetter("recipe", "overrides", "data")).items():
        origins = lines_of.origins(its)
        for origin in origins if len(origins) > 1 else [""]:
            found[*key, origin] = lines_of.of_encoder(its, origin or None)
    return found


def _each_at_its_own(table: Table, lines: Sequence[Result]) -> Iterator[str]:
    """What each row of a tuned table was given, and the claims at that, a sentence each."""
    for choice in tuned.choices(table, lines):
        given = "none" if choice.point is None else configs.canonical(choice.point)
        beyond = "; a better one may lie beyond" if choice.edge else ""
        why = f" ({choice.why})" if choice.why else ""
        yield f"{choice.row} at its own best: {given}{beyond}{why}."
    for each in tuned.judged(table, lines):
        yield f"Each row at its own best, {each.claim}: {each.verdict} ({each.evidence})."


def _today(name: str, lines: Sequence[Result], definitions: Definitions) -> tuple[list[Result], list[str]]:
    """Today's lines of one stage, one a row and seed, and which are left out and why, a sentence each."""
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        today = [line for line, its in zip(lines, todays.mask(name, lines, definitions), strict=True) if its]
        todays.warn_of_stale(name, today)
    missing = [str(each.message) for each in told]
    last = [dict(line) for seeds in verdict.by_row(today).values() for line in seeds.values()]  # as claims take them
    if twice := len(today) - len(last):
        missing.append(f"{plural(twice, 'line')} left out: of several of a row and seed, the last counts.")
    return last, missing


def _shown(name: str, lines: list[Result], definitions: Definitions, store: Store, missing: Sequence[str]) -> Shown:
    """A table with today's lines of one stage, of which some may be missing already."""
    table = catalogue.carried(name, lines[0]["recipe"], lines[0]["overrides"], definitions)
    try:
        curves = store.curves(name, [line["fingerprint"] for line in lines])
    except UserError as error:
        curves, missing = {}, [*missing, str(error)]
    missing = [*missing, *in_no_mean(lines)]
    trained = {line["fingerprint"] for line in lines if line["outcome"] not in NO_RUN}
    if gone := len(trained - curves.keys()):
        missing.append(f"No curve is kept of {gone} of {plural(len(trained), 'training')}.")
    if (rows := len({line["row"] for line in lines})) > MOST_DRAWN:
        missing.append(f"{rows} rows are too many to draw: the table has them.")
    notes: list[str] = []
    if not table.axes:  # a grid has the baseline's own point
        notes += [*same_trainings(lines), *beside(table, lines)]
    if table.tuned:
        notes += _each_at_its_own(table, lines)
    return Shown(table, lines, verdict.judge(table.claims, lines), curves, missing, notes)
