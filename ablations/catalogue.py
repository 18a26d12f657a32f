"""The tables there are: those of ablations/tables, a file of one's own, and those that results carry with them."""

from __future__ import annotations

import ast
import dataclasses
import functools
import importlib
import importlib.util
import math
import pkgutil
import re
import sys
import traceback
import types
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations import definition
from ablations.definition import Definitions
from ablations.table import (
    COLLAPSES,
    DOES_NOT_COLLAPSE,
    ORDERING,
    SET_ELSEWHERE,
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


Wanted = Mapping[str, tuple[Callable[[Any], bool], str]]  # argument -> whether a value fits, and what it must be


def _text(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable()


def _several(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, tuple) and all(isinstance(each, kind) for each in value)


def _number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _changes(value: Any) -> bool:
    return callable(value) or isinstance(value, Mapping)


_SAYS = {"title": (_text, "a line of text"), "section": (_text, "a line of text")}
_TABLE: Wanted = {
    **_SAYS,
    "varies": (_several(str), "a tuple of fields, as ('momentum',)"),
    "rows": (_several(Row), "a tuple of Row(...)"),
    "base": (_changes, "field -> value, or a function of the recipe's fields"),
    "claims": (_several(Claim), "a tuple of Claim(...)"),
    "axes": (lambda value: not value, "left out: --grid and --tune give it"),
    "tuned": (lambda value: not value, "left out: --tune gives it"),
}
_ROW: Wanted = {
    "name": (lambda value: isinstance(value, str), "text"),
    "changes": (_changes, "field -> value, or a function of the baseline's fields"),
    "paper": (lambda value: value is None or _number(value), "a number, or None"),
    "note": (lambda value: value == "" or _text(value), "a line of text"),
    "of": (lambda value: value is None, "left out: --grid and --tune give it"),
    "at": (lambda value: not value, "left out: --grid and --tune give it"),
}
_CLAIM: Wanted = {
    "kind": (lambda value: isinstance(value, str), "one of those of ablations.table"),
    "rows": (_several(str), "a tuple of rows' names, as ('none',)"),
    "section": _SAYS["section"],
    "margin": (_number, "a number"),
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
    except (Exception, SystemExit) as error:
        raise _broken(error, str(file)) from None
    return _checked(getattr(found, "TABLE", None), file.read_text(), str(file))


def of_file(path: str, text: str) -> Table:
    """The table of a file of one's own. Raises UserError with its line for what is none.

    Args:
        text: what the file holds. It is run, as any Python file that one starts is.
    """
    module = types.ModuleType(f"simsiam_table_{Path(path).stem}")
    module.__file__, module.__package__ = path, ""  # of no package: nothing is beside it
    sys.modules[module.__name__] = module  # as what it defines may ask for
    try:
        exec(compile(text, path, "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        alone = " A table's file stands alone: it imports what is installed, and no file beside it."
        raise UserError(f"{_broken(error, path)}{alone if isinstance(error, ImportError) else ''}") from None
    table = _checked(getattr(module, "TABLE", None), text, path)
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
    return _decoded(name, found)


def _decoded(name: str, found: Mapping[str, Any]) -> Table:
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
    for other in (_decoded(table.name, found) for found in definitions.values()):
        same = set(other.axes) == set(table.axes) and other.tuned == table.tuned
        if not same or other.title != table.title:  # rows come and go: a table of one's own that is edited keeps these
            remedy = (
                "Choose another name with --name"
                if table.axes
                else f"This one's title is '{table.title}': give it, and its file, another name; or the same title, if "
                "it is that table, edited"
            )
            raise UserError(f"{store.folder}/{table.name}.parquet is of another table, '{other.title}'. {remedy}.")


def _broken(error: BaseException, path: str) -> UserError:
    """What running a table's file has raised, with the line in it."""
    if isinstance(error, SyntaxError) and error.filename == path:
        return UserError(f"{path}, line {error.lineno}: {error.msg}.")
    lines = [frame.lineno for frame in traceback.extract_tb(sys.exc_info()[2]) if frame.filename == path]
    said = " ".join(str(error).split())
    return UserError(f"{path}, line {lines[-1] if lines else 1}: {type(error).__name__}: {said}.")


def _checked(table: object, text: str, path: str) -> Table:
    """The table of a file, if it is one. Raises UserError."""
    if not isinstance(table, Table):
        raise UserError(f"{path}, line 1: it needs TABLE = Table(...), of ablations.table. Got {table!r} instead.")
    stem = Path(path).stem
    if not NAME.fullmatch(stem):
        raise UserError(f"{path}, line 1: a table's file is named by letters, digits and _. Got {stem!r} instead.")
    if table.name != stem:
        raise _at(path, text, f"the name must be that of the file, '{stem}'. Got {table.name!r} instead", table.name)
    _check_types(table, _TABLE, text, path)
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


def _check_types(thing: Table | Row | Claim, wanted: Wanted, text: str, path: str) -> None:
    """Refuse an argument of another type than the ones that are declared, one that only the command line gives, and
    text that no file takes."""
    for name, (fits, words) in wanted.items():
        value = getattr(thing, name)
        if not fits(value):
            raise _at(path, text, f"{name} must be {words}. Got {value!r} instead", value, name)


def _check_row(row: Row, text: str, path: str) -> None:
    _check_types(row, _ROW, text, path)
    if "," in row.name or not row.name.isprintable() or row.name != row.name.strip() or not row.name:
        raise _at(path, text, f"a row's name is text without commas. Got {row.name!r} instead", row.name, "name")
    for field in () if callable(row.changes) else row.changes:
        if field in SET_ELSEWHERE:
            raise _at(path, text, f"row '{row.name}' changes {field}: use {SET_ELSEWHERE[field]}", field)
        if field not in configs.FIELDS:
            said = configs.unknown("field", str(field), configs.FIELDS).rstrip(".")
            raise _at(path, text, f"row '{row.name}': {said}", field)


def _check_claim(claim: Claim, table: Table, text: str, path: str) -> None:
    _check_types(claim, _CLAIM, text, path)
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
            if node.arg in (word, argument):
                lines.append(node.lineno)
            if node.arg == argument and _literal(node.value) == (word,):
                its.append(node.lineno)
        elif isinstance(node, ast.Constant) and node.value == word:
            lines.append(node.lineno)
        elif isinstance(node, ast.List | ast.Dict | ast.Set) and _literal(node) == (word,):
            its.append(node.lineno)
    return UserError(f"{path}, line {max(its or lines)}: {complaint}.")


def _literal(node: ast.expr) -> tuple[object, ...]:
    """The value that an expression writes out, alone in a tuple; an empty one if it is computed."""
    try:
        return (ast.literal_eval(node),)
    except ValueError:
        return ()
