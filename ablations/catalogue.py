"""The tables there are: those of ablations/tables, a file of one's own, and those that results carry with them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import pkgutil
import re
import sys
import traceback
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from ablations import definition
from ablations.definition import Definitions
from ablations.table import (
    COLLAPSES,
    DOES_NOT_COLLAPSE,
    ORDERING,
    UNSTABLE,
    WITHIN,
    WORSE,
    Claim,
    Row,
    Table,
    UserError,
)
from simsiam import config as configs

if TYPE_CHECKING:
    from ablations.store import Store

NAME = re.compile(r"[A-Za-z0-9_]+")

_ROWS = {
    COLLAPSES: (1, 1),
    DOES_NOT_COLLAPSE: (1, 1),
    UNSTABLE: (2, 2),
    WORSE: (2, 2),
    WITHIN: (2, 99),
    ORDERING: (2, 99),
}


def names() -> list[str]:
    """The tables of ablations/tables, those of the paper in its order."""
    from ablations import tables

    found = {module.name for module in pkgutil.iter_modules(tables.__path__)}
    return [name for name in tables.ORDER if name in found] + sorted(found - set(tables.ORDER))


@functools.cache
def get(name: str) -> Table:
    """The table of that name in ablations/tables. Raises UserError, with file and line for a file that is none."""
    if name not in names():
        raise UserError(configs.unknown("table", name, names()))
    specification = importlib.util.find_spec(f"ablations.tables.{name}")
    assert specification is not None
    file = Path(specification.origin or "")
    try:
        found = importlib.import_module(specification.name)
    except Exception as error:
        raise _broken(error, str(file)) from None
    return _checked(getattr(found, "TABLE", None), file.read_text(), str(file))


def of_file(path: str, text: str) -> Table:
    """The table of a file of one's own. Raises UserError with its line for what is none.

    Args:
        text: what the file holds. It is run, as any Python file that one starts is.
    """
    namespace = {"__name__": Path(path).stem, "__file__": path}
    try:
        exec(compile(text, path, "exec"), namespace)
    except Exception as error:
        raise _broken(error, path) from None
    table = _checked(namespace.get("TABLE"), text, path)
    if table.name in names():
        raise _at(path, text, f"the name '{table.name}' is of a table of this package. Give it another", table.name)
    return dataclasses.replace(table, carried=True)


def carried(name: str, recipe: str, overrides: str, definitions: Definitions) -> Table:
    """A table of this package, or the one that results carry for this recipe with these overrides.

    Raises UserError if there is none.
    """
    if name in names():
        return get(name)
    found = definitions.get(definition.key(recipe, overrides))
    if found is None:
        raise UserError(configs.unknown("table", name, names()))
    try:
        return definition.decoded(found)
    except ValueError as error:
        raise UserError(f"Table {name}: {error}.") from None


def there(store: Store) -> list[str]:
    """The tables of this package, and those that the files of a results folder carry."""
    ours = names()
    others = sorted({file.removesuffix(".parquet") for file in store.table_files()} - set(ours))
    return [*ours, *(name for name in others if _carries(name, store))]


def _carries(name: str, store: Store) -> bool:
    try:
        return bool(store.definitions(name))
    except UserError:  # a damaged file is of no table
        return False


def check_that_it_is_free(table: Table, store: Store) -> None:
    """Refuse a table whose name is of another one in a results folder. Raises UserError."""
    definitions = store.definitions(table.name) if table.carried else {}
    for other in (carried(table.name, name, "", definitions) for name in definitions):
        same = set(other.axes) == set(table.axes) and other.tuned == table.tuned
        if not same or (table.axes and sorted(_varied(other)) != sorted(_varied(table))):
            raise UserError(
                f"{store.folder}/{table.name}.parquet is of another table, '{other.title}'. Choose another name"
                f"{' with --name' if table.axes else ''}."
            )


def _varied(table: Table) -> set[str]:
    """The rows that a grid is on."""
    return {row.of for row in table.rows if row.of is not None}


def _broken(error: Exception, path: str) -> UserError:
    """What running a table's file has raised, with the line in it."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return UserError(f"{path}, line {error.lineno}: {error.msg}.")
    lines = [frame.lineno for frame in traceback.extract_tb(sys.exc_info()[2]) if frame.filename == path]
    return UserError(f"{path}, line {lines[-1] if lines else 1}: {type(error).__name__}: {error}.")


def _checked(table: object, text: str, path: str) -> Table:
    """The table of a file, if it is one. Raises UserError."""
    if not isinstance(table, Table):
        raise UserError(f"{path}, line 1: it needs TABLE = Table(...), of ablations.table. Got {table!r} instead.")
    stem = Path(path).stem
    if not NAME.fullmatch(stem):
        raise UserError(f"{path}, line 1: a table's file is named by letters, digits and _. Got {stem!r} instead.")
    if table.name != stem:
        raise _at(path, text, f"the name must be that of the file, '{stem}'. Got {table.name!r} instead", table.name)
    if not table.rows:
        raise _at(path, text, "a table needs at least one row", "rows")
    for row in table.rows:
        _check_row(row, text, path)
    for name, count in Counter(row.name for row in table.rows).items():
        if count > 1:
            raise _at(path, text, f"the row '{name}' is there {count} times. Give each a name of its own", name, "name")
    for name in table.varies:
        if name not in configs.FIELDS:
            raise _at(path, text, configs.unknown("field", name, configs.FIELDS).rstrip("."), name)
    for claim in table.claims:
        _check_claim(claim, table, text, path)
    return table


def _check_row(row: Row, text: str, path: str) -> None:
    name = row.name
    if not isinstance(name, str) or not name.isprintable() or name != name.strip() or not name or "," in name:
        raise _at(path, text, f"a row's name is text without commas. Got {name!r} instead", name, "name")
    for field in () if callable(row.changes) else row.changes:
        if field in ("data", "seed"):
            raise _at(path, text, f"row '{name}' changes {field}: use --{field}{'s' * (field == 'seed')}", field)
        if field not in configs.FIELDS:
            raise _at(path, text, f"row '{name}': {configs.unknown('field', field, configs.FIELDS)}".rstrip("."), field)


def _check_claim(claim: Claim, table: Table, text: str, path: str) -> None:
    rows = [row.name for row in table.rows]
    if claim.kind not in _ROWS:
        raise _at(path, text, configs.unknown("kind of claim", claim.kind, _ROWS).rstrip("."), claim.kind)
    least, most = _ROWS[claim.kind]
    if not least <= len(claim.rows) <= most:
        wanted = least if least == most else f"{least} or more"
        raise _at(path, text, f"'{claim.kind}' is said of {wanted} rows. Got {len(claim.rows)} instead", claim.kind)
    for name in claim.rows:
        if name not in rows:
            raise _at(path, text, configs.unknown("row", name, rows).rstrip("."), name)


def _at(path: str, text: str, complaint: str, word: object, argument: str | None = None) -> UserError:
    """The complaint, with the last line of the file on which the word stands: as text or as an argument's name.

    Args:
        argument: whose value the word is, if it is one's.
    """
    lines, its = [1], list[int]()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.keyword):
            if node.arg == word:
                lines.append(node.lineno)
            if node.arg == argument and isinstance(node.value, ast.Constant) and node.value.value == word:
                its.append(node.lineno)
        elif isinstance(node, ast.Constant) and node.value == word:
            lines.append(node.lineno)
    return UserError(f"{path}, line {max(its or lines)}: {complaint}.")
