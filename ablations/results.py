"""Results for people and scripts: from ablations import results; results.load("batch_size")

On the command line: python -m ablations.results claims | diff FINGERPRINT FINGERPRINT
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from ablations import provenance, report, verdict
from ablations import table as tables
from ablations.columns import COLUMNS, CURVE, Columns
from ablations.store import Store
from ablations.table import Table, UserError
from ablations.terminal import say
from ablations.verdict import Verdict
from simsiam import config as configs

Root = str | os.PathLike[str] | None


def load(table: str, *, recipe: str | None = None, overrides: str | None = None, root: Root = None) -> pd.DataFrame:
    """A table as a frame, a line a row and seed, in the paper's row order.

    `frame.attrs["units"]` has the unit of each column. Lines of different recipes or overrides are not comparable:
    choose one of each.

    Args:
        table: its name.
        recipe: only lines of this recipe; None for all.
        overrides: only lines of these overrides, "" for those without any; None for all.
        root: the results folder, or its s3:// or gs:// URI; None for results/ of the repository.

    Raises UserError for an unknown table, and for one that has no file there.
    """
    tables.get(table)
    folder = _store(root).folder
    content = folder.read(f"{table}.parquet")
    if content is None:
        raise UserError(f"{folder}/{table}.parquet does not exist. Run: python ablations/run.py --table {table}")
    frame = pd.read_parquet(io.BytesIO(content))
    for column, value in (("recipe", recipe), ("overrides", overrides)):
        if value is not None:
            frame = frame[frame[column] == value]
    return _with_units(frame.reset_index(drop=True), COLUMNS)


def curves(table: str, *, recipe: str | None = None, overrides: str | None = None, root: Root = None) -> pd.DataFrame:
    """The curves of a table's trials, a line an epoch, beside the row, recipe, overrides and seed of each.

    Arguments and exceptions as of `load`. A trial that has no curve (it failed, or is infeasible) has no line.
    """
    key = ["row", "recipe", "overrides", "seed", "fingerprint"]
    store, parts = _store(root), []
    for line in load(table, recipe=recipe, overrides=overrides, root=root)[key].to_dict("records"):
        if curve := store.curve(line["fingerprint"]):
            parts.append(pd.DataFrame(curve).assign(**{str(name): value for name, value in line.items()}))
    frame = pd.concat(parts, ignore_index=True) if parts else pd.DataFrame(columns=[*key, *CURVE])
    return _with_units(frame[[*key, *CURVE]], {**COLUMNS, **CURVE})


def paper(table: str) -> pd.DataFrame:
    """The paper's numbers of a table: row, paper (linear top-1 on ImageNet, per cent), note, section."""
    found = tables.get(table)
    lines = [{"row": row.name, "paper": row.paper, "note": row.note, "section": found.section} for row in found.rows]
    return _with_units(pd.DataFrame(lines), COLUMNS)


def claims(
    recipe: str = "digits",
    *,
    overrides: str = "",
    looks: int = 1,
    names: Iterable[str] | None = None,
    root: Root = None,
) -> list[tuple[Table, Verdict]]:
    """Every claim of the tables that have results on this recipe with these overrides, judged.

    Args:
        looks: how many numbers of seeds were looked at, if seeds were added until the claims were decided.
        names: of the tables; None for all.
    """
    store = _store(root)
    found: list[tuple[Table, Verdict]] = []
    for name in tables.names() if names is None else names:
        table = tables.get(name)
        lines = [line for line in store.table(name) if line["recipe"] == recipe and line["overrides"] == overrides]
        if lines:
            found.extend((table, each) for each in verdict.judge(table.claims, lines, looks=looks))
    return found


def diff(one: str, other: str, *, root: Root = None) -> str:
    """The fields in which two trials differ, and their results beside each other. Raises UserError for unknown ones."""
    store = _store(root)
    trials = []
    for fingerprint in (one, other):
        trial = store.trial(fingerprint)
        if trial is None:
            known = store.fingerprints()
            raise UserError(configs.unknown("trial", fingerprint, known))
        trials.append(trial)
    numbers = ("outcome", "loss", "z_std", "effective_rank", "knn_top1", "linear_top1", "wall_seconds", "sources")
    differing = configs.difference(*({name: trial[name] for name in configs.FIELDS} for trial in trials))
    cells: list[tuple[str, ...]] = [("", one, other)]
    cells += [(name, *(_text(trial[name]) for trial in trials)) for name in (*differing, *numbers)]
    return report.aligned(cells)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line. Returns the exit code: 0, or 2 for a wrong command."""
    parser = argparse.ArgumentParser(prog="python -m ablations.results")
    commands = parser.add_subparsers(dest="command", required=True)
    of_claims = commands.add_parser("claims", help="judge the paper's claims")
    of_claims.add_argument("tables", nargs="*", help="only of these tables")
    of_claims.add_argument("--recipe", default="digits")
    of_claims.add_argument("--overrides", default="", help="as in the column of that name")
    of_claims.add_argument("--looks", type=int, default=1, help="if seeds were added until decided: how many looks")
    of_diff = commands.add_parser("diff", help="the fields in which two trials differ, and their results")
    of_diff.add_argument("fingerprints", nargs=2)
    for command in (of_claims, of_diff):
        command.add_argument("--results", help="folder of the results (default: results/)")
    args = parser.parse_args(argv)
    try:
        if args.command == "diff":
            say(diff(*args.fingerprints, root=args.results))
        else:
            if args.looks < 1:
                raise UserError(f"--looks must be at least 1. Got {args.looks} instead.")
            found = claims(
                args.recipe, overrides=args.overrides, looks=args.looks, names=args.tables or None, root=args.results
            )
            if not found:
                of = f" with --overrides '{args.overrides}'" if args.overrides else ""
                raise UserError(f"{_store(args.results).folder} has no results of recipe {args.recipe}{of}.")
            say(report.claims(found))
    except UserError as error:
        say(f"error: {error}", error=True)
        return 2
    return 0


def _store(root: Root) -> Store:
    store = Store.at(provenance.ROOT / "results" if root is None else root)
    store.folder.check_readable()
    return store


def _with_units(frame: pd.DataFrame, columns: Columns) -> pd.DataFrame:
    units = {name: unit for name, (_, unit) in columns.items()}
    frame.attrs["units"] = {name: units.get(name, "") for name in frame.columns}
    return frame


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
