"""Do two runs of the same tables, say with other seeds or by other people, agree? Row by row, and claim by claim.

A row is asked two things, each with half of an error rate of 5 % over all rows: whether as many of its seeds collapsed
and diverged, by Fisher's exact test and Hochberg's steps; and whether its mean kNN top-1 is the same, by a t interval
of the difference: of pairs where both have the same seeds, Welch's otherwise. Rows whose seeds cannot tell are
undecided, and detectors are.
"""

from __future__ import annotations

import math
import operator
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.lines import grouped
from ablations.table import Table
from ablations.verdict import ALPHA, LOST, METRIC, UNDECIDED, Interval, Verdict, interval, mean, number, resolution

AGREE, DIFFER = "agree", "differ"
SAME, OPEN, CONTRARY = "same", "open", "contrary"

Line = Mapping[str, Any]  # of results/<table>.parquet


@dataclass(frozen=True)
class Agreement:
    """A row in two runs.

    Args:
        outcomes: of one and of the other: outcome -> seeds.
        means: kNN top-1, per cent, of one and of the other, at 95 % each; None where no seed has a number.
        apart_by_outcomes: whether other numbers of seeds collapsed or diverged than chance gives, or one could not run.
        difference: one minus other, points, at its share of 95 % over all rows; None with less than two seeds in
            either, or where seeds failed or diverged: what is left may be what went well.
        shared: results that are in both with the same numbers, as of the same Config on the same kind of machine.
        fingerprints: of both runs' trainings: rows that share one are no evidence beside each other.
        apart: column -> its values in one and in the other, of what they were made of and by, where these differ.
    """

    table: str
    row: str
    outcomes: tuple[Counter[str], Counter[str]]
    means: tuple[Interval | None, Interval | None]
    apart_by_outcomes: bool
    difference: Interval | None
    shared: int
    fingerprints: frozenset[str]
    apart: Mapping[str, tuple[str, str]]

    @property
    def says(self) -> str:
        """`agree`, `differ` or `undecided`."""
        one, other = self.outcomes
        if self.apart_by_outcomes or (self.difference and self.difference.tells):
            return DIFFER
        alike = one.keys() == other.keys() and one.keys() in ({"diverged"}, {"infeasible"})
        if alike or (self.difference and not one.keys().isdisjoint(other)):
            return AGREE
        return UNDECIDED


def rows(one: Sequence[Line], other: Sequence[Line]) -> list[Agreement]:
    """The rows that both runs have, in the order of `one`.

    Args:
        one, other: lines of one recipe, overrides, data and encoder each; of several of a row and seed the last counts.
    """
    one, other = (
        list({(line["table"], line["row"], line["seed"]): line for line in each}.values()) for each in (one, other)
    )
    here, there = (grouped(lines, operator.itemgetter("table", "row")) for lines in (one, other))
    both = {row: (its, there[row]) for row, its in here.items() if row in there}
    chances = {row: _chances(*map(_outcomes, pair)) for row, pair in both.items()}
    # Hochberg's: of rows that all differ each is told, where an equal share for each would tell none.
    known = sorted(chance for its in chances.values() for chance in its)
    limit = max((chance for i, chance in enumerate(known) if chance <= ALPHA / 2 / (len(known) - i)), default=-1.0)
    compared = sum(min(map(len, map(_whole, pair))) > 1 for pair in both.values())
    return [
        _compared(
            row,
            *pair,
            apart=any(chance <= limit for chance in chances[row]),
            alpha=ALPHA / 2 / max(1, compared),
        )
        for row, pair in both.items()
    ]


def _compared(
    row: tuple[str, str], one: Sequence[Line], other: Sequence[Line], *, apart: bool, alpha: float
) -> Agreement:
    step = max(resolution(one), resolution(other))
    found = {line["fingerprint"]: line for line in one}
    outcomes = _outcomes(one), _outcomes(other)
    return Agreement(
        *row,
        outcomes=outcomes,
        means=(mean(one), mean(other)),
        apart_by_outcomes=apart or len({"infeasible" in each for each in outcomes}) > 1,
        difference=_difference(_whole(one), _whole(other), alpha, step),
        shared=sum(line["fingerprint"] in found and _same_numbers(line, found[line["fingerprint"]]) for line in other),
        fingerprints=frozenset(line["fingerprint"] for line in (*one, *other)),
        apart={name: its for name in _MADE if len(set(its := (_several(one, name), _several(other, name)))) > 1},
    )


def _outcomes(lines: Iterable[Line]) -> Counter[str]:
    return Counter(line["outcome"] for line in lines)


def _chances(one: Counter[str], other: Counter[str]) -> list[float]:
    """Fisher's exact p of each outcome that some seeds had and others had not: where all ended alike there is nothing
    to test, and nothing to share an error rate with."""
    from scipy import stats

    chances = []
    for name in ("collapsed", "diverged"):
        table = [(each[name], sum(each[ended] for ended in _ENDED) - each[name]) for each in (one, other)]
        if all(map(sum, table)) and all(map(sum, zip(*table, strict=True))):
            chances.append(float(stats.fisher_exact(table).pvalue))
    return chances


def _same_numbers(one: Line, other: Line) -> bool:
    """A diverged seed's NaN is the same as another's; one that failed has none."""
    pairs = [(one.get(name), other.get(name)) for name in _NUMBERS]
    return one["outcome"] != "failed" and all(a == b or (a != a and b != b) for a, b in pairs)


_ENDED = "finished", "collapsed", "diverged"
_NUMBERS = "outcome", "loss", METRIC, "linear_top1", "ap"
_MADE = "recipe", "overrides", "data", "encoder_from", "sources", "torch", "device"


def _several(lines: Iterable[Line], name: str) -> str:
    return ", ".join(sorted({str(line[name]) for line in lines if line.get(name) is not None})) or "none"


def _values(lines: Iterable[Line]) -> dict[int, float]:
    """Seed -> number."""
    return {line["seed"]: line[METRIC] for line in lines if number(line[METRIC])}


def _whole(lines: Sequence[Line]) -> dict[int, float]:
    """The same; none where a seed has failed or diverged."""
    return _values(lines) if LOST.isdisjoint(line["outcome"] for line in lines) else {}


def _difference(one: Mapping[int, float], other: Mapping[int, float], alpha: float, step: float) -> Interval | None:
    if one.keys() == other.keys():
        paired = [one[seed] - other[seed] for seed in one]
        return interval(paired, alpha, resolution=step) if len(paired) > 1 else None
    return welch([*one.values()], [*other.values()], alpha, resolution=step)


def welch(one: Sequence[float], other: Sequence[float], alpha: float, *, resolution: float = 0.0) -> Interval | None:
    """The two-sided interval of the difference of two means of unequal variances, at level 1 - alpha.

    None with less than two values in either. Standard deviations are taken as `resolution` at least, the step in which
    the values come. Of unequal numbers of values the degrees of freedom are those of the fewer, as Hsu has it: Welch's
    would give intervals that are too narrow.
    """
    if min(len(one), len(other)) < 2:
        return None
    from scipy import stats

    parts = [max(statistics.stdev(values), resolution) ** 2 / len(values) for values in (one, other)]
    if not any(parts):
        return Interval(statistics.fmean(one) - statistics.fmean(other), 0.0, len(one) + len(other))
    freedom = float(min(len(one), len(other)) - 1)
    if len(one) == len(other):
        freedom *= sum(parts) ** 2 / sum(part**2 for part in parts)
    half = float(stats.t.ppf(1 - alpha / 2, freedom)) * math.sqrt(sum(parts))
    return Interval(statistics.fmean(one) - statistics.fmean(other), half, len(one) + len(other))


@dataclass(frozen=True)
class ClaimTwice:
    """A claim of a table, judged in two runs."""

    table: Table
    one: Verdict
    other: Verdict

    @property
    def says(self) -> str:
        """`same`, `open` where one of both is undecided, or `contrary`."""
        verdicts = {self.one.verdict, self.other.verdict}
        return SAME if len(verdicts) == 1 else OPEN if UNDECIDED in verdicts else CONTRARY


def claims(
    one: Iterable[tuple[Table, Verdict]], other: Iterable[tuple[Table, Verdict]], rows: Iterable[Agreement]
) -> list[ClaimTwice]:
    """The claims that both runs judge, on rows that both have: two that have not run would be undecided alike."""
    shared = {(row.table, row.row) for row in rows}
    there = {(table.name, verdict.claim): verdict for table, verdict in other}
    return [
        ClaimTwice(table, verdict, there[table.name, verdict.claim])
        for table, verdict in one
        if (table.name, verdict.claim) in there and all((table.name, row) in shared for row in verdict.claim.rows)
    ]
