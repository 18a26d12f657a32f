"""What --list and --fields tell: the tables and recipes there are; the fields of a recipe's Config."""

from __future__ import annotations

import inspect
import re
import statistics
from collections.abc import Iterator

from ablations import catalogue, estimate, planning
from ablations.board import duration
from ablations.columns import Result
from ablations.store import Store
from ablations.table import SET_ELSEWHERE, Fields, UserError
from simsiam import config as configs
from simsiam.config import Config
from simsiam.recipes import DATA, RECIPES, WHAT

_KINDS = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
_GROUP = re.compile(r"    # (?P<title>.+)")
_FIELD = re.compile(r"    (?P<name>\w+): .*?(?:  # (?P<section>.+))?")
_NAME = 16  # characters


def listing(store: Store) -> tuple[str, list[str]]:
    """A line a table and a line a recipe; and what is wrong with files in ablations/tables that are none."""
    lines, wrong = ["Tables (--table), each with its rows:"], []
    for name in catalogue.names():
        try:
            table = catalogue.get(name)
        except UserError as error:
            wrong.append(str(error))
            continue
        rows = ", ".join(row.name for row in table.rows)
        lines.append(f"  {name:{_NAME}} {table.title} ({table.section}): {rows}")
    lines.append("\nRecipes (--recipe), each with its pictures, its network, and one training as measured:")
    try:
        costs = estimate.costs(store)
    except (UserError, OSError):  # a damaged file, a bucket out of reach: the list is of what there is to train
        costs = []
    for name, fields in RECIPES.items():
        data = DATA.get(name)
        pictures = "within scikit-learn" if data is None else f"fetches {data}, or --data"
        network = f"{fields['backbone']}, width {fields.get('width', 64)}, {fields['image_size']} px"
        parts = [WHAT[name], pictures, network, f"{fields['epochs']} epochs", _cost(name, costs)]
        lines.append(f"  {name:{_NAME}} {'; '.join(parts)}")
    return "\n".join([*lines, "\nFields of a recipe (--set, --grid, --tune): --fields --recipe NAME"]), wrong


def _cost(recipe: str, costs: list[Result]) -> str:
    """What one training of this recipe takes, here or where its published results were made."""
    for found in (costs, estimate.published(recipe)):
        its = [line for line in found if line["recipe"] == recipe and not line["overrides"]]
        if its:
            seconds = statistics.median(line["wall_seconds"] for line in its)
            return f"{duration(seconds)} on {', '.join(sorted({line['device'] for line in its}))}"
    return "not measured"


def fields(recipe: str, overrides: Fields) -> str:
    """Every field of a recipe's Config, in the Config's own groups. Raises UserError."""
    config = planning.recipe(recipe, f"{DATA.get(recipe, recipe)}@0", overrides)
    lines = [f"Recipe {recipe}{', --set ' + configs.canonical(overrides) if overrides else ''}."]
    lines.append("field = its value here [default]: what it may be (unit; where the paper has it)")
    for group, its in _groups():
        lines.append(f"\n{group}")
        for name, section in its:
            if name not in SET_ELSEWHERE:
                lines.append(_field(name, section, config))
    return "\n".join(lines)


def _field(name: str, section: str | None, config: Config) -> str:
    field = configs.FIELDS[name]
    kind = next(kind for kind in _KINDS if kind in (hint := configs.TYPES[name], *getattr(hint, "__args__", ())))
    rule = field.metadata.get("rule", "")
    wanted = rule if rule.startswith("one of") else f"{_KINDS[kind]} {rule}".strip()
    optional = " or none" if type(None) in getattr(configs.TYPES[name], "__args__", ()) else ""
    default = configs.canonical({name: field.default}).partition("=")[2] if field.default is not _NONE else "-"
    value = configs.canonical({name: getattr(config, name)})
    beside = "; ".join(each for each in (field.metadata.get("unit"), section) if each)
    return f"  {value:32} [{default}] {wanted}{optional}{f' ({beside})' if beside else ''}".replace("null", "none")


_NONE = configs.FIELDS["data"].default  # of a field that a recipe must give


def _groups() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """The comments of the Config's own text, each with the fields below it, and the remark beside a field."""
    title, its = "", list[tuple[str, str | None]]()
    for line in inspect.getsource(Config).splitlines():
        if heading := _GROUP.fullmatch(line):
            if its:
                yield title, its
            title, its = heading["title"], []
        elif (found := _FIELD.fullmatch(line)) and found["name"] in configs.FIELDS:
            its.append((found["name"], found["section"]))
    yield title, its
