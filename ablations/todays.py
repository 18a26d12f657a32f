"""Which lines of a results file are of the Configs that today's tables and recipes give."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

from ablations import catalogue, planning, provenance
from ablations.definition import Definitions
from ablations.table import UNKNOWN, Encoder, Encoders
from simsiam import config as configs
from simsiam.recipes import RECIPES

Lines = Sequence[Mapping[Any, Any]]

_ENOUGH = 1 << 40  # training pictures: whether there are too few changes no Config


def mask(table: str, lines: Lines, definitions: Definitions) -> list[bool]:
    """Whether each line is of the Config that today's table, row and recipe give. Warns of those that are not.

    Args:
        definitions: those that the lines' file carries.
    """
    planned: dict[tuple[Any, ...], dict[tuple[str, int], str]] = {}
    tuned = False
    for kind in {_kind(line) for line in lines}:
        recipe, overrides, data, _ = kind
        try:
            its = catalogue.carried(table, recipe, overrides, definitions)
            tuned |= its.tuned
            trials = planning.plan(
                its,
                recipe=recipe,
                data=data,
                train_images=_ENOUGH,
                overrides=fields(overrides),
                seeds=sorted({line["seed"] for line in lines}),
                encoders=_starts([line for line in lines if _kind(line) == kind]),
            )
        except ValueError:  # a recipe, or a field, that there is no more
            trials = []
        planned[kind] = {(each.row.name, each.config.seed): each.fingerprint for each in trials}
    today = [planned[_kind(line)].get((line["row"], line["seed"])) == line["fingerprint"] for line in lines]
    if others := today.count(False):
        made = "another version of the recipe, the table or the row made them"
        tune = ", or a --tune with other values. Run the last again with all values"
        made += tune if tuned else ". Run its command again"
        warn(f"{others} line{'s' * (others > 1)} of {table} left out: {made}.")
    return today


def warn_of_stale(table: str, lines: Lines) -> None:
    """Warn of lines that other sources than these have made: they stand beside the others, and are judged with them."""
    if stale := sum(map(provenance.is_stale, lines)):
        again = "`--rerun stale` trains them again"
        warn(f"{stale} of {len(lines)} lines of {table} are stale, since the code has changed: {again}.")


def warn(text: str) -> None:
    """Warn of lines, at the line outside of this package that has asked for them: each such line is told once."""
    level, frame = 0, inspect.currentframe()
    while frame is not None and str(frame.f_globals.get("__name__")).startswith("ablations."):
        level, frame = level + 1, frame.f_back
    warnings.warn(text, stacklevel=level + 1)


def canonical(overrides: str) -> str:
    """Overrides in the order in which they stand in a file; as they are if they are none."""
    try:
        return configs.canonical(fields(overrides))
    except ValueError:
        return overrides


def length(recipe: str, overrides: str) -> tuple[int, str]:
    """How many epochs a recipe with these overrides has, and the overrides without them."""
    changed = fields(overrides)
    epochs: int = changed.pop("epochs", RECIPES[recipe]["epochs"])
    return epochs, configs.canonical(changed)


def _kind(line: Mapping[Any, Any]) -> tuple[Any, ...]:
    """Lines of one kind are rows and seeds of one plan."""
    return (*(line[name] for name in ("recipe", "overrides", "data")), line.get("encoder_from"))


def _starts(lines: Lines) -> Encoders:
    """What the rows of these lines, all of one kind, start from: an encoder for each seed."""
    by_seed = {line["seed"]: line for line in [*lines, *(line for line in lines if line.get("encoder"))]}

    def start(kind: str, fields: Mapping[str, Any]) -> Encoder:
        line = by_seed.get(fields["seed"], lines[0])
        network = {name: line.get(name) for name in ("backbone", "stem", "width")}
        return Encoder(digest=line.get("encoder") or UNKNOWN, network=network, origin=line.get("encoder_from") or "")

    return start


def fields(overrides: str) -> dict[str, Any]:
    """Field -> value of overrides as they stand in a file. Raises ValueError if they are none."""
    return {name: configs.parse(name, value) for name, _, value in (text.partition("=") for text in overrides.split())}
