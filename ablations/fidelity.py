"""Can a cheap ablation be believed? Whether a table at fewer epochs ranks its rows as the one at more epochs does.

Rows are ranked by the mean of kNN top-1 over seeds; rows that have collapsed or diverged in half or more of their seeds
share the last place. Kendall's tau-b of two rankings is 1 where they agree, 0 where they have nothing to do with each
other, and -1 where they are opposite. Beside it stands what two halves of the longer table's own seeds reach: how far
the longer table agrees with itself, at half the seeds.
"""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablations.verdict import METRIC, NO_RUN, by_row, number

_DRAWS = 2000  # of the bootstrap
_SPLITS = 1000  # into halves: where there are more, as many are drawn
_LAST = -1.0  # per cent: below what any row can have
_LEAST_ROWS = 3
_LEAST_SEEDS = 3  # that a bootstrap can say something of

Line = Mapping[str, Any]  # of results/<table>.parquet
Seeds = Mapping[str, Mapping[int, Line]]  # row -> seed -> line


@dataclass(frozen=True)
class Fidelity:
    """How a table at `short` epochs ranks its rows, beside the same at `long` epochs.

    Args:
        rows, seeds: that both have.
        tau: Kendall's tau-b of the means over all seeds; nan where a ranking has one place alone.
        low, high: of a 95 % percentile bootstrap over seeds, which both lengths share: too narrow for few seeds, and
            nan for less than three.
        halves: mean tau-b between two halves of the longer one's seeds, over all splits into halves, or very many;
            nan with less than two seeds.
    """

    short: int
    long: int
    rows: int
    seeds: int
    tau: float
    low: float
    high: float
    halves: float


def between(short: Iterable[Line], long: Iterable[Line], lengths: tuple[int, int]) -> Fidelity | None:
    """The fidelity of one table's lines at two lengths; None with less than three rows, or no seed, in common."""
    one, other = (by_row(filter(_ranked, lines)) for lines in (short, long))
    rows = [row for row in other if row in one]
    seeds = sorted(set.intersection(*(set(each[row]) for each in (one, other) for row in rows))) if rows else []
    if len(rows) < _LEAST_ROWS or not seeds:
        return None
    generator = np.random.default_rng(0)  # the same numbers for the same results
    draws = _DRAWS if len(seeds) >= _LEAST_SEEDS else 0
    drawn = [generator.choice(seeds, len(seeds)).tolist() for _ in range(draws)]

    @functools.cache  # of few seeds there are few different draws
    def of(*its: int) -> float:
        return tau(_places(one, rows, its), _places(other, rows, its))

    taus = [each for each in (of(*sorted(its)) for its in drawn) if not math.isnan(each)] or [math.nan]
    low, high = np.percentile(taus, [2.5, 97.5])
    whole = of(*seeds)
    halves = _halves(other, rows, seeds, generator)
    return Fidelity(*lengths, len(rows), len(seeds), whole, float(low), float(high), halves)


def tau(one: Sequence[float], other: Sequence[float]) -> float:
    """Kendall's tau-b of two rankings of the same rows; nan where one of them has all rows on one place."""
    if len(set(one)) < 2 or len(set(other)) < 2:
        return math.nan
    from scipy import stats

    return float(stats.kendalltau(one, other, variant="b").statistic)


def _ranked(line: Line) -> bool:
    """Whether it has a place: a detector has no kNN."""
    return line["outcome"] not in NO_RUN and (line["outcome"] != "finished" or number(line[METRIC]))


def _places(table: Seeds, rows: Sequence[str], seeds: Sequence[int]) -> list[float]:
    """What each row is ranked by: its mean over these seeds, one may be there twice."""
    return [_place([table[row][seed] for seed in seeds]) for row in rows]


def _place(lines: Sequence[Line]) -> float:
    finished = [line[METRIC] for line in lines if line["outcome"] == "finished"]
    return statistics.fmean(finished) if 2 * len(finished) > len(lines) else _LAST


def _halves(table: Seeds, rows: Sequence[str], seeds: Sequence[int], generator: np.random.Generator) -> float:
    half = len(seeds) // 2
    if not half:
        return math.nan
    splits: Iterable[Sequence[int]] = itertools.combinations(seeds, half)
    if math.comb(len(seeds), half) > _SPLITS:
        splits = (generator.choice(seeds, half, replace=False).tolist() for _ in range(_SPLITS))
    taus = []
    for one in splits:
        other = [seed for seed in seeds if seed not in one]
        taus.append(tau(_places(table, rows, one), _places(table, rows, other)))
    known = [each for each in taus if not math.isnan(each)]
    return statistics.fmean(known) if known else math.nan
