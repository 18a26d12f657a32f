"""Two of something beside each other: rows, runs, trials."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ablations import agreement as agreements
from ablations import lines as lines_of
from ablations import printed, verdict
from ablations.agreement import Agreement, ClaimTwice
from ablations.columns import METRICS, PROVENANCE, Result
from ablations.results import selection
from ablations.results.selection import Root, opened
from ablations.store import Store
from ablations.table import UserError
from ablations.verdict import METRIC, Interval
from simsiam import config as configs

_MEASURED = [
    name
    for name, (kind, _) in {**METRICS, **PROVENANCE}.items()
    if kind == "double" and name not in ("paper", "reference", "gpu_fraction", "price")
]


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
        value: a column of what was measured; kNN top-1, points, unless given. Of loss_roughness its log2 is compared.

    Raises UserError as `claims` does, for an unknown row or column, and with no seed in common.
    """
    row, other = str(row), str(other)  # 256 is the row '256'
    lines = [
        line for _, its in selection.lines(opened(root), recipe, overrides, data, encoder_from, [table]) for line in its
    ]
    by_row = verdict.by_row(lines)
    for name in (row, other):
        if name not in by_row:
            raise UserError(selection.unknown(f"row of {table} with results", name, list(by_row)))
    if row == other:
        raise UserError(f"{row} and {other} are one row: give two.")
    if value not in _MEASURED:
        raise UserError(selection.unknown("column of what was measured", value, _MEASURED))
    values = verdict.paired(by_row[row], by_row[other], value)
    if not values:
        if any({row, other} <= {*group} for group in lines_of.same_trainings(lines)):
            raise UserError(f"{row} and {other} of {table} are one training a seed: their settings come to the same.")
        ended = "; ".join(f"{name}: {printed.outcomes(list(by_row[name].values()))}" for name in (row, other))
        raise UserError(f"{row} and {other} of {table} have no seed in common that both have a number for ({ended}).")
    step = verdict.resolution(by_row[row].values(), value)
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
    other_data: str | None = None,
    other_encoder_from: str | None = None,
) -> tuple[list[Agreement], list[ClaimTwice]]:
    """Whether two results folders agree, say of other seeds or people: row by row, and claim by claim.

    Each folder's lines are of one data set and one encoder; where both have not the same, a row's `apart` has them.

    Args:
        other_recipe, other_overrides: of the other, which may be the same folder; None for those of one.
        other_data, other_encoder_from: of the other; None for those of one, unless that has another recipe.

    Raises UserError as `claims` does, and where they have no row in common.
    """
    same = other_recipe in (None, recipe)
    its_recipe = recipe if other_recipe is None else other_recipe
    changed = overrides if other_overrides is None else other_overrides
    its_data = data if same and other_data is None else other_data
    its_encoder = encoder_from if same and other_encoder_from is None else other_encoder_from
    lines = [
        selection.lines(opened(one), recipe, overrides, data, encoder_from),
        selection.lines(opened(other), its_recipe, changed, its_data, its_encoder, option="--other-"),
    ]
    rows = agreements.rows(*([line for _, its in each for line in its] for each in lines))
    if not rows:
        raise UserError(
            f"{one} and {other} have no row of recipe {' and '.join(dict.fromkeys((recipe, its_recipe)))} in common."
        )
    judged, others = map(selection.judged, lines)
    return rows, agreements.claims(judged, others, rows)


def diff(one: str, other: str, *, root: Root = None) -> str:
    """The fields in which two trials differ, and their results beside each other.

    Args:
        one, other: each a fingerprint, its first digits, or TABLE/ROW/SEED, where that is without overrides if any is;
            without the seed it is the first.

    Raises UserError for one that is not there, and where several are meant.
    """
    store = opened(root)
    tables = selection.tables(store)
    names, trials = zip(*(_trial(address, store, tables) for address in (one, other)), strict=True)
    numbers = ("outcome", "loss", "z_std", "effective_rank", METRIC, "linear_top1", "wall_seconds", "sources")
    differing = configs.difference(*({name: trial[name] for name in configs.FIELDS} for trial in trials))
    cells: list[tuple[str, ...]] = [("", *names)]
    cells += [(name, *(_text(trial[name]) for trial in trials)) for name in ("fingerprint", *differing, *numbers)]
    return printed.aligned(cells)


def _trial(address: str, store: Store, tables: Mapping[str, list[Result]]) -> tuple[str, Result]:
    """The trial that is meant: its name in the first table that has it, and its result. Raises UserError."""
    lines = [line for its in tables.values() for line in its]
    of = _at(address, lines)
    known = {line["fingerprint"] for line in lines} | {*store.fingerprints()}
    found = {line["fingerprint"] for line in of} or {address} & known
    found = found or {each for each in known if each.startswith(address)}
    if not found:
        raise UserError(
            f"{store.folder} has no trial {address}. Give a fingerprint, its first digits, or TABLE/ROW/SEED. Tables "
            f"there: {', '.join(tables) or 'none'}. run.py --plan --fingerprints lists a table's."
        )
    if len(found) > 1:
        of_which = {line["fingerprint"]: f" ({_name(line)}, {printed.which(line).rstrip('.')})" for line in of or lines}
        several = [f"{each}{of_which.get(each, '')}" for each in sorted(found)[:_NAMED]]
        more = ["..."] * (len(found) > _NAMED)
        raise UserError(f"{address} is {len(found)} trials: {'; '.join(several + more)}. Give the digits of one.")
    (fingerprint,) = found
    names = [line for line in of or lines if line["fingerprint"] == fingerprint]
    return _name(names[0]) if names else fingerprint, lines_of.whole(store.trial(fingerprint) or names[0])


def _at(address: str, lines: Sequence[Result]) -> list[Result]:
    """The lines of TABLE/ROW/SEED, and of the first seed of TABLE/ROW, for a row's name may end as a seed does; of
    these the ones without overrides, if any is."""
    of_seed = [line for line in lines if f"{line['table']}/{line['row']}/{line['seed']}" == address]
    of_row = [line for line in lines if f"{line['table']}/{line['row']}" == address]
    first: dict[tuple[str, ...], Result] = {}
    for line in sorted(of_row, key=lambda line: int(line["seed"])):
        first.setdefault((line["recipe"], line["overrides"], line["data"], line.get("encoder_from") or ""), line)
    of = [*of_seed, *first.values()]
    return [line for line in of if not line["overrides"]] or of


_NAMED = 5  # trials in a message


def _name(line: Result) -> str:
    return f"{line['table']}/{line['row']} seed {line['seed']}"


def _text(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
