"""The page of a results folder, and its tables and figures for a paper: python ablations/report.py"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import importlib.util
import os
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if not __package__:  # started as a script, the path begins with ablations/ itself and not with the repository
    sys.path[0] = str(Path(__file__).resolve().parent.parent)

from ablations import catalogue, files
from ablations.store import Store
from ablations.table import UserError
from ablations.terminal import answer, reason, say
from simsiam import config as configs

if TYPE_CHECKING:
    from ablations.page.evidence import Evidence, Stage

PAGE = "report.html"
FORMATS = ("latex", "markdown", "csv")

_SECONDS = 5.0  # between two looks of --watch
_WATCH = "write it again whenever a result arrives, until Ctrl-C; wait where the folder is not there yet"


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, 1 where a file fails, 2 for a wrong command, 130 after Ctrl-C."""
    args = _parser().parse_args(argv)
    try:
        store = Store.at(files.results_place(args.results))
        store.folder.check_readable()
        if args.table is not None and not (args.format or args.figures):
            raise UserError("--table is of --format and --figures: the page has all tables. Leave it out.")
        if args.watch:
            _watch(store)
        _check_there(store)
        if args.table is not None:
            _check_table(store, args.table)
        if args.format:
            answer(words(store, args.format, args.table))
        elif args.figures:
            for name in figures(store, Path(args.figures), args.table):
                say(name)
        else:
            say(write(store))
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    except OSError as error:
        say(f"error: {reason(error)}.", error=True)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ablations/report.py", description=f"Write {PAGE} beside the results.")
    parser.add_argument("--results", help="as of run.py; the page is written there, too")
    parser.add_argument("--table", help="only this one, of --format and --figures")
    other = parser.add_mutually_exclusive_group()
    other.add_argument("--watch", action="store_true", help=_WATCH)
    other.add_argument("--format", choices=FORMATS, help="print the tables, how they were made, and whom to cite")
    figures = "write each chart there as SVG and PDF, for two columns"
    other.add_argument("--figures", type=os.path.expanduser, metavar="DIR", help=figures)
    return parser


def write(store: Store) -> str:
    """Write the page beside the results -> where it is. Raises UserError, also where there is no such folder."""
    with _the_extra():
        from ablations.page import build, evidence

    content = build.page(evidence.read(store), store).encode()
    _check_there(store)  # by now: writing would make it again
    store.folder.write(PAGE, content)
    return f"{store.folder}/{PAGE}"


def _watch(store: Store) -> NoReturn:
    """Write the page whenever a result has arrived. Raises OSError once the folder is gone."""
    if not _there(store):
        say(f"Waiting for {store.folder}, which is not there yet.", error=True)
    while not _there(store):
        time.sleep(_SECONDS)
    seen: Any = None
    while _there(store):
        now = {name: store.folder.modified(name) for name in sorted(store.table_files())}
        if now != seen:
            say(write(store))
            seen = now
        time.sleep(_SECONDS)
    raise OSError(f"{store.folder} was removed meanwhile: there is nothing left to watch")


def _there(store: Store) -> bool:
    """Whether the results folder is. A bucket has none, but names of files that begin with it."""
    if store.folder.bucket:
        return any(store.folder.names(each) for each in ("", "trials", "failed"))
    try:
        os.stat(store.folder.uri)
    except FileNotFoundError:
        return False
    return True


def _check_there(store: Store) -> None:
    """Raises UserError where the results folder is not there: a page of it would be one of a name that is mistyped."""
    if not _there(store):
        raise UserError(f"The results folder {store.folder} does not exist. Give with --results the one of run.py.")


def _check_table(store: Store, table: str) -> None:
    """Raises UserError for a table that is not there, and for one whose file is damaged."""
    if table not in (known := catalogue.there(store)):
        if f"{table}.parquet" in store.table_files():
            store.definitions(table)  # says what is damaged
        raise UserError(configs.unknown("table", table, known))


def words(store: Store, format: str, table: str | None = None) -> str:
    """The tables in one of FORMATS, all but CSV with how they were made and whom to cite. Raises UserError."""
    with _the_extra():
        from ablations.page import paper

    return paper.FORMATS[format](_stages(store, table))


def figures(store: Store, place: Path, table: str | None = None) -> Iterator[str]:
    """Write each chart as SVG and PDF -> the files' names, as `digits_predictor_curves.svg`. Raises UserError."""
    with _the_extra():
        from ablations.page import charts

    stages = _stages(store, table)
    place.mkdir(parents=True, exist_ok=True)
    for stage in stages:
        for shown in stage.tables:
            for name, chart in charts.of(shown):
                file = place / f"{stage.slug}_{shown.table.name}_{name}"
                for kind in (".svg", ".pdf"):
                    charts.printed(chart).save(str(file.with_suffix(kind)))
                    yield file.with_suffix(kind).name


def _stages(store: Store, table: str | None) -> list[Stage]:
    """Each stage with its tables; with `table`, with that alone. Says what is missing of them.

    Raises UserError where there are none.
    """
    with _the_extra():
        from ablations.page import evidence

    found: Evidence = evidence.read(store)
    stages = [
        dataclasses.replace(stage, tables=its)
        for stage in found.stages
        if (its := [shown for shown in stage.tables if table in (None, shown.table.name)])
    ]
    missing = list(dict.fromkeys(found.missing(table)))
    for note in missing:
        say(note, error=True)
    if not stages:
        what = f"{f' of table {table}' if table else ''}{' that can be shown: see above' if missing else ''}"
        raise UserError(f"{store.folder} has no results{what}.")
    return stages


def installed() -> bool:
    """Whether there is all that the page needs."""
    return all(map(importlib.util.find_spec, ("altair", "jinja2", "pylatexenc", "vl_convert")))


@contextlib.contextmanager
def _the_extra() -> Iterator[None]:
    """What only the page needs. Raises UserError where it is not installed."""
    try:
        yield
    except ModuleNotFoundError as error:
        raise UserError(f'The page needs {error.name}: pip install -e ".[report]"') from None


if __name__ == "__main__":
    sys.exit(main())
