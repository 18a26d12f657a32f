"""Which tables a command names: those of this package, a file of one's own, or a grid."""

from __future__ import annotations

import argparse
import json
import os
from collections import Counter
from pathlib import Path

from ablations import catalogue, definition, grid, planning
from ablations.table import Fields, Table, UserError

_LONGEST = 100  # characters of a table's name

FILES = "SIMSIAM_TABLE_FILES"  # of a submitted job: the text of each table's file, under the name as it is typed


def tables(args: argparse.Namespace) -> list[Table]:
    """The tables of `--table`, before any grid. Without it, which only a grid may be, none. Raises UserError."""
    if not args.table:
        if args.tune or not args.grid:
            raise UserError(f"Name a table with --table. Known: {', '.join(catalogue.names())}, all, or FILE.py.")
        return []
    return [_table(name) for name in (catalogue.names() if args.table == "all" else [args.table])]


def with_encoder(tables: list[Table], args: argparse.Namespace) -> list[Table]:
    """The tables that this command can start: with `all`, those that need no encoder unless one is given.

    Args:
        tables: of `with_grid`: where a function says that a row starts from an encoder, it has said so.

    Raises UserError.
    """
    given = "from" if args.given else "weights" if args.weights else None
    needing = [table.name for table in tables if table.needs_encoder]
    if given and not needing:
        known = ", ".join(name for name in catalogue.names() if catalogue.get(name).needs_encoder)
        got = f"--table {args.table}" if args.table else "a grid of a recipe"
        raise UserError(f"--{given} is for tables that start from an encoder: {known}. Got {got}.")
    if needing and not given and args.table != "all":
        raise UserError(f"Table {needing[0]} starts from an encoder: give --from TABLE/ROW or --weights FILE.")
    return [table for table in tables if given or not table.needs_encoder]


def _table(name: str) -> Table:
    """A table by its name, or by its file's. Raises UserError."""
    if not is_file(name):
        if "," in name:
            raise UserError(f"--table is one table, or all. Got {name}: run one command for each.")
        return catalogue.get(name)
    return catalogue.of_file(name, text(name))


def is_file(name: str) -> bool:
    """Whether `--table` names a file of one's own."""
    return name.endswith(".py")


def text(name: str) -> str:
    """What a table's file holds, be it here or with the job that this is. Raises UserError."""
    with_the_job: dict[str, str] = json.loads(os.environ.get(FILES, "{}"))
    if name in with_the_job:
        return with_the_job[name]
    try:
        return Path(name).expanduser().read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not UTF-8"
        raise UserError(f"--table {name} cannot be read: {said}.") from None


def with_grid(tables: list[Table], args: argparse.Namespace, *, data: str, overrides: Fields) -> list[Table]:
    """The tables as this command has them: with its grid on them, and what they carry as plain values.

    Raises UserError.
    """
    if args.grid or args.tune:
        tables = [_gridded(tables, "grid" if args.grid else "tune", args, overrides)]
    elif args.name is not None:
        raise UserError("--name is the name of a grid's table. Add --grid or --tune, or leave it out.")
    found = []
    for table in tables:
        if table.carried:
            table = planning.resolved(table, args.recipe, data, overrides)
            try:
                json.dumps(definition.encoded(table))
            except (TypeError, ValueError) as error:
                raise UserError(f"Table {table.name}: its values must be text, numbers or lists ({error}).") from None
        found.append(table)
    return found


def _gridded(tables: list[Table], option: str, args: argparse.Namespace, overrides: Fields) -> Table:
    """The table of `--grid` or `--tune`. Raises UserError."""
    if args.grid and args.tune:
        raise UserError("--grid and --tune exclude each other. Leave one out.")
    if args.table == "all" or (args.tune and not tables):
        raise UserError(f"--{option} is on one table. Name it with --table.")
    if args.tune and args.seeds_until_decided is not None:
        raise UserError(
            "--tune and --seeds-until-decided exclude each other: more seeds would choose anew. Use --seeds."
        )
    if args.grid and args.claims:
        raise UserError("--claims are of a table's own rows, and --grid has others. Leave one out, or use --tune.")
    axes = grid.axes(getattr(args, option), f"--{option}")
    if both := sorted(axes.keys() & overrides.keys()):
        raise UserError(f"--{option} {both[0]} and --set {both[0]} exclude each other. Leave one out.")
    its = [table.name for table in tables]
    name = args.name or "_".join([*its, "tuned" if args.tune else "grid", *axes])
    if not catalogue.NAME.fullmatch(name) or len(name) > _LONGEST or name in (*catalogue.names(), "all"):
        raise UserError(
            f"--name is letters, digits and _, at most {_LONGEST}, and no table's of this package. Got '{name}'."
        )
    if not tables:
        return grid.of_recipe(name, axes)
    table = (grid.tuned if args.tune else grid.of_table)(tables[0], name, axes)
    if twice := [row for row, count in Counter(row.name for row in table.rows).items() if count > 1]:
        raise UserError(
            f"--{option} gives table {its[0]} a second row '{twice[0]}'. Give the table's own another name."
        )
    return table


def rows(args: argparse.Namespace, tables: list[Table]) -> list[str] | None:
    """The rows that `--rows` names, None for all: of a table with a grid on it, each with all of its points, and the
    baseline; of a grid on a recipe, which has no rows of its own, these points and the baseline."""
    if args.rows is None:
        return None
    names = [name.strip() for name in args.rows.split(",")]
    if not args.table:
        return list(dict.fromkeys([grid.BASELINE, *names]))
    points = [
        row.name
        for table in tables
        for row in table.rows
        if row.of in names or (table.axes and not table.tuned and row.of is None)
    ]
    varied = {row.of for table in tables for row in table.rows} - {row.name for table in tables for row in table.rows}
    return list(dict.fromkeys([*(name for name in names if name not in varied), *points]))
