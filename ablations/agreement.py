"""Do two runs of the same tables, say with other seeds or by other people, agree? Row by row, and claim by claim.

A row agrees unless the difference of its means in kNN top-1, by Welch's t interval, leaves 0 out: all rows that are
compared share an error rate of 5 %. Where both have the same seeds the interval is a little too wide, never too narrow.
A row's outcomes differ where the two have none in common.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.table import Table
from ablations.verdict import ALPHA, METRIC, UNDECIDED, Interval, Verdict, interval, number, resolution

AGREE, DIFFER, TOO_FEW = "agree", "differ", "too few seeds"
SAME, OPEN, CONTRARY = "same", "open", "contrary"

Line = Mapping[str, Any]  # of results/<table>.parquet


@dataclass(frozen=True)
class Agreement:
    """A row in two runs.

    Args:
        outcomes: of one and of the other: outcome -> seeds.
        means: kNN top-1, per cent, of one and of the other, at 95 % each; None where no seed has a number.
        difference: one minus other, points, at 95 % over all rows compared; None with less than two seeds in either.
        shared: results that are in both with the same numbers, as of the same Config on the same kind of machine.
        apart: column -> its values in one and in the other, of what they were made of and by, where these differ.
    """

    table: str
    row: str
    outcomes: tuple[Counter[str], Counter[str]]
    means: tuple[Interval | None, Interval | None]
    difference: Interval | None
    shared: int
    apart: Mapping[str, tuple[str, str]]

    @property
    def says(self) -> str:
        if self.outcomes[0].keys().isdisjoint(self.outcomes[1]):
            return DIFFER
        if self.difference is None:
            return AGREE if not any(self.means) else TOO_FEW
        return AGREE if self.difference.low <= 0 <= self.difference.high else DIFFER


def rows(one: Sequence[Line], other: Sequence[Line]) -> list[Agreement]:
    """The rows that both runs have, in the order of `one`.

    Args:
        one, other: lines of one recipe, overrides, data and encoder each.
    """
    both = {_row(line) for line in other}
    shared = [row for row in dict.fromkeys(map(_row, one)) if row in both]
    return [
        _compared(
            row,
            [line for line in one if _row(line) == row],
            [line for line in other if _row(line) == row],
            ALPHA / len(shared),
        )
        for row in shared
    ]


def _row(line: Line) -> tuple[str, str]:
    return line["table"], line["row"]


def _compared(row: tuple[str, str], one: Sequence[Line], other: Sequence[Line], alpha: float) -> Agreement:
    values = [_values(lines) for lines in (one, other)]
    step = max(resolution(one), resolution(other))
    found = {line["fingerprint"]: line for line in one}
    return Agreement(
        *row,
        outcomes=(Counter(line["outcome"] for line in one), Counter(line["outcome"] for line in other)),
        means=(_mean(values[0], step), _mean(values[1], step)),
        difference=welch(values[0], values[1], alpha, resolution=step),
        shared=sum(
            line["fingerprint"] in found and all(line[name] == found[line["fingerprint"]][name] for name in _NUMBERS)
            for line in other
        ),
        apart={name: its for name in _MADE if len(set(its := (_several(one, name), _several(other, name)))) > 1},
    )


_NUMBERS = "outcome", "loss", METRIC, "linear_top1"
_MADE = "recipe", "overrides", "data", "encoder_from", "sources", "torch", "device"


def _several(lines: Iterable[Line], name: str) -> str:
    return ", ".join(sorted({str(line[name]) for line in lines if line.get(name) is not None})) or "none"


def _values(lines: Iterable[Line]) -> list[float]:
    return [line[METRIC] for line in lines if number(line[METRIC])]


def _mean(values: Sequence[float], step: float) -> Interval | None:
    return interval(values, resolution=step) if values else None


def welch(one: Sequence[float], other: Sequence[float], alpha: float, *, resolution: float = 0.0) -> Interval | None:
    """The two-sided interval of the difference of two means of unequal variances, at level 1 - alpha.

    None with less than two values in either. Standard deviations are taken as `resolution` at least, the step in which
    the values come.
    """
    if min(len(one), len(other)) < 2:
        return None
    from scipy import stats

    parts = [max(statistics.stdev(values), resolution) ** 2 / len(values) for values in (one, other)]
    if not any(parts):
        return Interval(statistics.fmean(one) - statistics.fmean(other), 0.0, len(one) + len(other))
    freedom = sum(parts) ** 2 / sum(
        part**2 / (len(values) - 1) for part, values in zip(parts, (one, other), strict=True)
    )
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


def claims(one: Iterable[tuple[Table, Verdict]], other: Iterable[tuple[Table, Verdict]]) -> list[ClaimTwice]:
    """The claims that both runs judge."""
    there = {(table.name, verdict.claim): verdict for table, verdict in other}
    return [
        ClaimTwice(table, verdict, there[table.name, verdict.claim])
        for table, verdict in one
        if (table.name, verdict.claim) in there
    ]
