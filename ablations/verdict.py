"""From seeds to a verdict: mean and interval of a row, paired differences between rows, and the paper's claims judged.

Claims are judged on kNN top-1, per cent of the test set: the one accuracy that the untrained network has too, and that
has no optimiser of its own. Intervals are two-sided t intervals. All claims of a table hold together at 95 %: each of m
is judged at level 1 - 0.05/m, shared by its comparisons, and by the looks if seeds are added until it is decided.
What outcomes decide, a collapse or a divergence, is a count of these seeds, and has no error rate.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import statistics
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

from ablations.table import COLLAPSES, DOES_NOT_COLLAPSE, ORDERING, UNSTABLE, WITHIN, WORSE, Claim

REPRODUCED, CONTRADICTED, UNDECIDED = "reproduced", "contradicted", "undecided"
ALPHA = 0.05
METRIC, UNTRAINED, ROUGHNESS = "knn_top1", "knn_top1_init", "loss_roughness"
ROUGHER = 2.0  # an unstable row's loss changes by more than this times the other's, from epoch to epoch

Line = Mapping[str, Any]  # of results/<table>.parquet

NO_RUN = {"infeasible", "failed"}
LOST = {"failed", "diverged"}  # outcomes of a seed that has no number


@dataclass(frozen=True)
class Interval:
    """A mean with its t interval: mean - half .. mean + half, over n values."""

    mean: float
    half: float
    n: int

    @property
    def low(self) -> float:
        return self.mean - self.half

    @property
    def high(self) -> float:
        return self.mean + self.half

    @property
    def tells(self) -> bool:
        """Whether it tells the mean from none."""
        return self.low > 0 or self.high < 0

    def text(self, digits: int = 1, sign: str = "") -> str:
        half = f" ± {self.half:.{digits}f}" if math.isfinite(self.half) else ""
        return f"{self.mean:{sign}z.{digits}f}{half}"


@dataclass(frozen=True)
class Difference:
    """The difference of two rows, `better` minus `worse`, over the seeds that both have."""

    better: str
    worse: str
    interval: Interval

    def __str__(self) -> str:
        return f"{self.better} - {self.worse} = {self.interval.text(2, '+')}"


@dataclass(frozen=True)
class Verdict:
    """What our runs say of a claim, and why in words.

    Args:
        n: seeds that all of the claim's rows share.
        open: whether more seeds could decide it.
        differences: that the claim puts within `region(claim)`, with intervals that hold together; none of a claim on
            outcomes.
        looks: that share the error rate.
    """

    claim: Claim
    verdict: str
    evidence: str
    n: int
    open: bool = False
    differences: tuple[Difference, ...] = ()
    looks: int = 1

    @property
    def shows(self) -> float | None:
        """A true difference of this size is told from none in half of the cases. In the claim's unit; None without."""
        return max((each.interval.half for each in self.differences), default=None)


def interval(values: Sequence[float], alpha: float = ALPHA, *, resolution: float = 0.0) -> Interval:
    """The two-sided t interval of a mean at level 1 - alpha. With one value its half-width is infinite.

    Values that come in steps of `resolution` may agree by chance: their standard deviation is taken as one step at
    least.
    """
    n = len(values)
    if n < 2:
        return Interval(values[0], math.inf, n)
    from scipy import stats

    quantile = float(stats.t.ppf(1 - alpha / 2, n - 1))
    deviation = max(statistics.stdev(values), resolution)
    return Interval(statistics.fmean(values), quantile * deviation / math.sqrt(n), n)


def by_row(lines: Iterable[Line]) -> dict[str, dict[int, Line]]:
    """Row -> seed -> line."""
    rows: dict[str, dict[int, Line]] = {}
    for line in lines:
        rows.setdefault(line["row"], {})[line["seed"]] = line
    return rows


def judge(claims: Sequence[Claim], lines: Iterable[Line], *, short: Collection[str] = ()) -> list[Verdict]:
    """A verdict for each claim of a table.

    Args:
        lines: of one table, on one recipe with one set of overrides.
        short: rows that the time limit has left without some of their seeds. Claims on them are undecided.
    """
    rows = by_row(lines)
    share = looks(line for its in rows.values() for line in its.values())
    found = [
        _short_of_seeds(claim, rows, short) or _judge(claim, rows, ALPHA / len(claims) / share) for claim in claims
    ]
    return [dataclasses.replace(each, looks=share) for each in found]


def looks(lines: Iterable[Line]) -> int:
    """How often these lines are judged while seeds are added, at most: the looks share an error rate."""
    return max((line.get("looks") or 1 for line in lines), default=1)


def _short_of_seeds(claim: Claim, rows: Mapping[str, Mapping[int, Line]], short: Collection[str]) -> Verdict | None:
    """Undecided: those seeds that were done in time may be the ones that ended early, say by diverging."""
    missing = [row for row in claim.rows if row in short]
    if not missing:
        return None
    n = min(len(rows.get(row, {})) for row in claim.rows)
    return Verdict(claim, UNDECIDED, f"{' and '.join(missing)} short of seeds: the time limit has come first", n)


def _judge(claim: Claim, rows: Mapping[str, Mapping[int, Line]], alpha: float) -> Verdict:
    for row in claim.rows:
        outcomes = {line["outcome"] for line in rows.get(row, {}).values()}
        if not outcomes - NO_RUN:
            return Verdict(claim, UNDECIDED, f"{row} {' and '.join(sorted(outcomes)) or 'has not run'}", 0)
    if claim.kind in (COLLAPSES, DOES_NOT_COLLAPSE):
        return _judge_outcomes(claim, rows[claim.rows[0]])
    return _judge_differences(claim, rows, alpha)


def _judge_outcomes(claim: Claim, seeds: Mapping[int, Line]) -> Verdict:
    """Reproduced if every seed ended as claimed, contradicted if none did. A diverged seed has neither collapsed nor
    stood.
    """
    outcomes = [line["outcome"] for line in seeds.values() if line["outcome"] not in NO_RUN]
    n, collapsed, diverged = len(outcomes), outcomes.count("collapsed"), outcomes.count("diverged")
    as_claimed, against = collapsed, n - collapsed
    if claim.kind == DOES_NOT_COLLAPSE:
        as_claimed, against = n - collapsed - diverged, collapsed
    verdict = REPRODUCED if as_claimed == n else CONTRADICTED if as_claimed == 0 and against else UNDECIDED
    evidence = f"{collapsed} of {n} seeds collapsed" + f", {diverged} diverged" * (diverged > 0)
    return Verdict(claim, verdict, evidence, n)


def _judge_differences(claim: Claim, rows: Mapping[str, Mapping[int, Line]], alpha: float) -> Verdict:
    if diverged := _judge_divergence(claim, rows):
        return diverged
    pairs, (low, high) = _pairs(claim), region(claim)
    column = ROUGHNESS if claim.kind == UNSTABLE else METRIC
    found: list[Difference] = []
    for better, worse in pairs:
        values = paired(rows[better], rows[worse], column)
        if len(values) < 2:
            common = f"{len(values)} seed{'s' * (len(values) != 1)} in common"
            evidence = f"{better} and {worse} have {common}: too few for an interval"
            return Verdict(claim, UNDECIDED, evidence, len(values), open=True)
        step = resolution(rows[better].values(), column)
        found.append(Difference(better, worse, interval(values, alpha / len(pairs), resolution=step)))
    intervals = [each.interval for each in found]
    n = min(each.n for each in intervals)
    unit = " in log2 of the loss's roughness" if claim.kind == UNSTABLE else ""
    evidence, differences = "; ".join(map(str, found)) + unit, tuple(found)
    verdict = UNDECIDED
    if all(low < each.low and each.high < high for each in intervals):
        verdict = REPRODUCED
    elif any(each.high < low or high < each.low for each in intervals):
        verdict = CONTRADICTED
    more_may_tell = verdict == UNDECIDED
    far = {WORSE: REPRODUCED, WITHIN: CONTRADICTED}.get(claim.kind, verdict)
    if verdict != far:  # that rows are near each other says something only where they could be further apart
        best = max(claim.rows, key=lambda row: _room(rows[row]))
        if (room := _room(rows[best])) < claim.margin:
            verdict, evidence = UNDECIDED, f"no room: training gives {best} {room:.1f} points"
    return Verdict(claim, verdict, evidence, n, open=more_may_tell, differences=differences)


def _judge_divergence(claim: Claim, rows: Mapping[str, Mapping[int, Line]]) -> Verdict | None:
    """What diverged seeds decide, for they have no number: a row that always diverged is as bad as can be."""
    ended = {row: [o for line in rows[row].values() if (o := line["outcome"]) not in NO_RUN] for row in claim.rows}
    counts = {row: outcomes.count("diverged") for row, outcomes in ended.items()}
    some = [row for row, count in counts.items() if count]
    if not some:
        return None
    n = min(map(len, ended.values()))
    evidence = ", ".join(f"{counts[row]} of {len(ended[row])} seeds of {row} diverged" for row in some)
    if any(line["outcome"] == "failed" for row in claim.rows for line in rows[row].values()):
        return Verdict(claim, UNDECIDED, f"{evidence}, and some failed", n)
    first_alone_always = some == [claim.rows[0]] and counts[claim.rows[0]] == len(ended[claim.rows[0]])
    if first_alone_always and claim.kind in (WORSE, UNSTABLE):
        return Verdict(claim, REPRODUCED, evidence, n)
    if claim.kind == WITHIN and any(counts[row] == len(ended[row]) for row in some) and len(some) < len(claim.rows):
        return Verdict(claim, CONTRADICTED, evidence, n)
    return Verdict(claim, UNDECIDED, evidence, n)


def differences(
    names: Iterable[str], baseline: str, lines: Iterable[Line], *, short: Collection[str] = ()
) -> dict[str, Difference]:
    """Row -> its difference to the baseline, of those that have one: a grid's, whose intervals hold together at 95 %.

    Each of m is judged at level 1 - 0.05/m, as claims are, and by the looks if seeds are added. A row that is the
    baseline's own training has none; nor has one of fewer than two seeds in common, or one that has failed or diverged
    in some seed: what is left may be what went well; nor one that is `short` of seeds, as in `judge`, and where the
    baseline is, none has.
    """
    lines = list(lines)
    rows = {name: of for name, of in by_row(lines).items() if name not in short}
    itself = rows.get(baseline, {})
    whole = [name for name in names if {line["outcome"] for line in rows.get(name, {}).values()}.isdisjoint(LOST)]
    values = {name: paired(rows[name], itself) for name in whole if name != baseline and name in rows}
    compared = {name: several for name, several in values.items() if len(several) > 1}
    step, share = resolution(itself.values()), ALPHA / max(1, len(compared)) / looks(lines)
    return {
        name: Difference(name, baseline, interval(several, share, resolution=step))
        for name, several in compared.items()
    }


def mean(lines: Sequence[Line], name: str = METRIC) -> Interval | None:
    """Of a column, with its 95 % interval; None where no line has a number."""
    values = [line[name] for line in lines if number(line[name])]
    return interval(values, resolution=resolution(lines, name)) if values else None


def resolution(lines: Iterable[Line], name: str = METRIC) -> float:
    """The step in which a column comes: of an accuracy, points, one picture of the test set; 0 of others."""
    if not name.endswith("top1"):
        return 0.0
    return max((100 / line["test_images"] for line in lines if line.get("test_images")), default=0.0)


def _pairs(claim: Claim) -> list[tuple[str, str]]:
    """The differences, first minus second, that a claim is about."""
    if claim.kind == WORSE:
        return [(claim.rows[1], claim.rows[0])]
    if claim.kind == WITHIN:
        return list(itertools.combinations(claim.rows, 2))
    if claim.kind == ORDERING:
        return list(itertools.pairwise(claim.rows))
    return [(claim.rows[0], claim.rows[1])]  # unstable


def region(claim: Claim) -> tuple[float, float]:
    """The open region that a claim puts its differences in: points of kNN top-1, or log2 of the loss's roughness."""
    if claim.kind == WITHIN:
        return -claim.margin, claim.margin
    low = {WORSE: claim.margin, ORDERING: 0.0, UNSTABLE: math.log2(ROUGHER)}[claim.kind]
    return low, math.inf


def paired(one: Mapping[int, Line], other: Mapping[int, Line], name: str = METRIC) -> list[float]:
    """Differences in a column of the seeds that both rows have a number for; of the loss's roughness, in its log2."""
    differences = []
    for seed in sorted(one.keys() & other.keys()):
        if one[seed]["fingerprint"] == other[seed]["fingerprint"]:
            continue  # overrides have made the rows one training, which says nothing of a difference
        a, b = one[seed].get(name), other[seed].get(name)
        if number(a) and number(b) and (name != ROUGHNESS or (a > 0 and b > 0)):
            differences.append(math.log2(a / b) if name == ROUGHNESS else a - b)
    return differences


def _room(baseline: Mapping[int, Line]) -> float:
    """What training gives the baseline over the untrained network, points of the metric; files of before lack it."""
    lines = baseline.values()
    gains = [line[METRIC] - line[UNTRAINED] for line in lines if number(line[METRIC]) and number(line.get(UNTRAINED))]
    return statistics.fmean(gains) if gains else math.inf


def number(value: float | None) -> TypeGuard[float]:
    """Whether it is there and finite."""
    return value is not None and math.isfinite(value)
