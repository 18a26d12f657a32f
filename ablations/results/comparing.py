"""Two of something beside each other: rows, runs, trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations import agreement as agreements
from ablations import catalogue, printed, verdict
from ablations import lines as lines_of
from ablations.agreement import Agreement, ClaimTwice
from ablations.columns import Result
from ablations.results import selection
from ablations.results.selection import Root, opened
from ablations.store import Store
from ablations.table import UserError
from ablations.verdict import METRIC, Interval
from simsiam import config as configs


def compare(
    table: str,
    row: str,
    other: str,
    *,
    value: str = METRIC,
    recipe: str = "digits",
    overrides: str = "",
    data: str | None = None,
    encoder_from: str | None = None,
    root: Root = None,
) -> Interval:
    """The difference of two rows in a column, `row` minus `other`: its mean over the seeds that both have.

    Its 95 % t interval is of this one difference alone: a table's claims share their error rate.

    Args:
        value: the column, of numbers; kNN top-1, points, unless given. Of loss_roughness it is log2 that is compared.

    Raises UserError as `load` does, for an unknown row or column, and with no seed in common.
    """
    lines = [
        line for _, its in selection.lines(opened(root), recipe, overrides, data, encoder_from, [table]) for line in its
    ]
    by_row = verdict.by_row(lines)
    for name in (row, other):
        if name not in by_row:
            raise UserError(selection.unknown(f"row of {table} with results", name, list(by_row)))
    numbers = [name for name in lines[0] if any(isinstance(line[name], float) for line in lines)]
    if value not in numbers:
        raise UserError(selection.unknown("column of numbers", value, numbers))
    values = verdict.paired(by_row[row], by_row[other], value)
    if not values:
        if any({row, other} <= {*group} for group in lines_of.same_trainings(lines)):
            raise UserError(f"{row} and {other} of {table} are one training a seed: their settings come to the same.")
        ended = "; ".join(f"{name}: {printed.outcomes(list(by_row[name].values()))}" for name in (row, other))
        raise UserError(f"{row} and {other} of {table} have no seed in common that both have a number for ({ended}).")
    step = verdict.resolution(by_row[row].values()) if value.endswith("top1") else 0.0
    return verdict.interval(values, resolution=step)


def agreement(
    one: Root,
    other: Root,
    *,
    recipe: str = "digits",
    overrides: str = "",
    data: str | None = None,
    encoder_from: str | None = None,
    other_recipe: str | None = None,
    other_overrides: str | None = None,
) -> tuple[list[Agreement], list[ClaimTwice]]:
    """Whether two results folders agree, say of other seeds or people: row by row, and claim by claim.

    Each folder's lines are of one data set and one encoder; where both have not the same, a row's `apart` has them.

    Args:
        other_recipe, other_overrides: of the other, which may be the same folder; None for those of one.

    Raises UserError as `claims` does, and where they have no row in common.
    """
    others = recipe if other_recipe is None else other_recipe
    changed = overrides if other_overrides is None else other_overrides
    lines = [
        selection.lines(opened(one), recipe, overrides, data, encoder_from),
        selection.lines(opened(other), others, changed, data, encoder_from),
    ]
    rows = agreements.rows(*([line for _, its in each for line in its] for each in lines))
    if not rows:
        raise UserError(f"{one} and {other} have no row of recipe {' and '.join({recipe: 0, others: 0})} in common.")
    return rows, agreements.claims(*(map(selection.judged, lines)))


def diff(one: str, other: str, *, root: Root = None) -> str:
    """The fields in which two trials differ, and their results beside each other.

    Args:
        one, other: each a fingerprint, its first digits, or TABLE/ROW/SEED, where that is without overrides if any is;
            without the seed it is the first.

    Raises UserError for one that is not there, and where several are meant.
    """
    store = opened(root)
    names, trials = zip(*(_trial(address, store) for address in (one, other)), strict=True)
    numbers = ("outcome", "loss", "z_std", "effective_rank", METRIC, "linear_top1", "wall_seconds", "sources")
    differing = configs.difference(*({name: trial[name] for name in configs.FIELDS} for trial in trials))
    cells: list[tuple[str, ...]] = [("", *names)]
    cells += [(name, *(_text(trial[name]) for trial in trials)) for name in ("fingerprint", *differing, *numbers)]
    return printed.aligned(cells)


def _trial(address: str, store: Store) -> tuple[str, Mapping[str, Any]]:
    """The trial that is meant: its name in the first table that has it, and its result. Raises UserError."""
    lines = [line for table in catalogue.there(store) for line in store.table(table)]
    of = _at(address, lines)
    known = {line["fingerprint"] for line in lines} | {*store.fingerprints()}
    found = {line["fingerprint"] for line in of} or {address} & known
    found = found or {each for each in known if each.startswith(address)}
    if not found:
        tables = ", ".join(sorted(file.removesuffix(".parquet") for file in store.table_files())) or "none"
        raise UserError(
            f"{store.folder} has no trial {address}. Give a fingerprint, its first digits, or TABLE/ROW/SEED. Tables "
            f"there: {tables}. run.py --plan --fingerprints lists a table's."
        )
    if len(found) > 1:
        of_which = {line["fingerprint"]: f" ({_name(line)}, {printed.which(line).rstrip('.')})" for line in lines}
        several = [f"{each}{of_which.get(each, '')}" for each in sorted(found)[:_NAMED]]
        more = ["..."] * (len(found) > _NAMED)
        raise UserError(f"{address} is {len(found)} trials: {'; '.join(several + more)}. Give the digits of one.")
    (fingerprint,) = found
    names = [line for line in of or lines if line["fingerprint"] == fingerprint]
    return _name(names[0]) if names else fingerprint, store.trial(fingerprint) or names[0]


def _at(address: str, lines: Sequence[Result]) -> list[Result]:
    """The lines of TABLE/ROW/SEED, or of the first seed of TABLE/ROW; of these those without overrides, if any is."""
    of = [line for line in lines if f"{line['table']}/{line['row']}/{line['seed']}" == address]
    of = of or [line for line in lines if f"{line['table']}/{line['row']}" == address]
    first = min((line["seed"] for line in of), default=0)
    of = [line for line in of if line["seed"] == first]
    return [line for line in of if not line["overrides"]] or of


_NAMED = 5  # trials in a message


def _name(line: Mapping[str, Any]) -> str:
    return f"{line['table']}/{line['row']} seed {line['seed']}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
