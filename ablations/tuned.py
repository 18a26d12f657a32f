"""Each row at its own best: which point of a grid a row is given, by a figure that has seen no test label.

The figure is leave-one-out kNN on the training pictures (`knn_train_top1`), averaged over seeds; claims are then judged
on the test set at the chosen points. Every row of the table is chosen for in the same way and from as many points, the
baseline too, so that none has had more tries than another; a row that sets the field itself has one, and is named.
Seeds that choose are judged on, too: a row whose seeds vary more, or to which the point matters less, gains more by it.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ablations.table import Fields, Row, Table
from ablations.verdict import UNDECIDED, Line, Verdict, by_row, judge, number

FIGURE = "knn_train_top1"
NOT_RUN = "has not run"


@dataclass(frozen=True)
class Choice:
    """What a row was given.

    Args:
        point: its fields; None if none could be chosen.
        figure: the mean of FIGURE there, per cent.
        edge: the fields whose chosen value is the smallest or the largest that was tried: a better one may lie beyond.
        why: why none was chosen, or how the row ended at every point, as "collapses at each of 5 points"; or "".
        tries: how many trainings it was chosen from: a row that overwrites the field has one at all points.
    """

    row: str
    point: Fields | None
    figure: float | None
    edge: tuple[str, ...]
    why: str
    tries: int = 0


def choose(
    row: str, points: Sequence[tuple[Fields, Mapping[int, Line]]], seeds: Sequence[int], *, what: str = "points"
) -> Choice:
    """The point with the largest mean of FIGURE; of equal ones the first.

    A point at which a seed has diverged has no mean, and one at which the Config breaks a rule is none. Nothing is
    chosen where a seed of some other point is missing or failed: what is left may be the ones that went well.

    Args:
        points: each with the row's lines there, by seed.
        what: the points are, in words.
    """
    if not any(lines for _, lines in points):
        return Choice(row, None, None, (), NOT_RUN)
    tried = _distinct([(point, lines) for point, lines in points if not _infeasible(lines)])
    lacking = [
        (point, seed)
        for point, lines in tried
        for seed in seeds
        if seed not in lines or lines[seed]["outcome"] == "failed"  # infeasible is final
    ]
    if lacking:
        return Choice(row, None, None, (), f"{len(lacking)} of {len(tried) * len(seeds)} results are missing or failed")
    means = [statistics.fmean(values) if (values := _figures(lines, seeds)) else None for _, lines in tried]
    known = [mean for mean in means if mean is not None]
    several = f"at each of {len(tried)} {what}" if len(tried) > 1 else "in its one training"
    why = f"{word} {several}" if (word := _everywhere(tried, seeds)) else ""
    if not known:
        if why:  # all alike: then the first says what there is to say
            return Choice(row, tried[0][0], None, (), why, len(tried))
        return Choice(row, None, None, (), "no point has the figure in every seed" if tried else "infeasible")
    point = tried[means.index(max(known))][0]
    return Choice(row, point, max(known), _edges(point, [each for each, _ in tried]), why, len(tried))


def _distinct(tried: Sequence[tuple[Fields, Mapping[int, Line]]]) -> list[tuple[Fields, Mapping[int, Line]]]:
    """The points without those that are the trainings of an earlier one."""
    found: dict[tuple[Any, ...], tuple[Fields, Mapping[int, Line]]] = {}
    for place, (point, lines) in enumerate(tried):
        its = tuple(sorted((seed, line.get("fingerprint", place)) for seed, line in lines.items()))
        found.setdefault(its or (place,), (point, lines))
    return list(found.values())


def _infeasible(lines: Mapping[int, Line]) -> bool:
    return bool(lines) and all(line["outcome"] == "infeasible" for line in lines.values())


def _figures(lines: Mapping[int, Line], seeds: Sequence[int]) -> list[float]:
    """The figure of each seed; none if a seed has none."""
    values = [lines[seed][FIGURE] for seed in seeds if lines[seed]["outcome"] != "diverged"]
    return [float(value) for value in values] if len(values) == len(seeds) and all(map(number, values)) else []


def _everywhere(tried: Sequence[tuple[Fields, Mapping[int, Line]]], seeds: Sequence[int]) -> str:
    """How a row ends at every point, with every seed, as a verb; "" if it finishes somewhere."""
    outcomes = {lines[seed]["outcome"] for _, lines in tried for seed in seeds}
    return {("collapsed",): "collapses", ("diverged",): "diverges"}.get(tuple(outcomes), "")


def _edges(point: Fields, tried: Sequence[Fields]) -> tuple[str, ...]:
    """The fields, of numbers, in which the point is at the end of what was tried."""
    return tuple(
        name
        for name, value in point.items()
        if isinstance(value, int | float)
        and not isinstance(value, bool)
        and len(values := {other[name] for other in tried if isinstance(other[name], int | float)}) > 1
        and value in (min(values), max(values))
    )


def choices(table: Table, lines: Sequence[Line]) -> list[Choice]:
    """What each row of a tuned table is given, by the seeds that all points have of which there is a result.

    Rows chosen for by fewer seeds would have more luck. Where no seed is had by all, it is those that any has: then
    results are missing.
    """
    rows = by_row(lines)
    known = [set(rows[row.name]) for row in table.rows if row.of is not None and row.name in rows]
    seeds = sorted(set.intersection(*known) or set.union(*known)) if known else []
    found = []
    for row in plain(table):
        points = [(each.at, rows.get(each.name, {})) for each in table.rows if each.of == row.name]
        found.append(choose(row.name, points, seeds, what=what(table)))
    return found


def what(table: Table) -> str:
    """What its rows were trained at, in words."""
    return f"values of {next(iter(table.axes))}" if len(table.axes) == 1 else "points"


def plain(table: Table) -> list[Row]:
    """The rows at the recipe's own setting."""
    return [row for row in table.rows if row.of is None]


def _at_their_best(table: Table, choices: Sequence[Choice], lines: Sequence[Line]) -> list[dict[str, Any]]:
    """The lines of each row at its chosen point, under the row's own name: the tuned table."""
    points = {choice.row: choice.point for choice in choices}
    of = {row.name: row.of for row in table.rows if row.of is not None and row.at == points.get(row.of)}
    return [{**line, "row": of[line["row"]]} for line in lines if line["row"] in of]


def judged(table: Table, lines: Sequence[Line], short: Collection[str] = ()) -> list[Verdict]:
    """The table's claims with each row at its own best. A claim on a row that none was chosen for is undecided.

    Args:
        short: rows and points that the time limit has left without some of their seeds. Claims on them are undecided.
    """
    chosen = {choice.row: choice for choice in choices(table, lines)}
    lacking = {row.of for row in table.rows if row.of is not None and row.name in short}
    found = []
    for each in judge(table.claims, _at_their_best(table, list(chosen.values()), lines), short=lacking):
        its = [chosen[row] for row in each.claim.rows]
        if unchosen := [choice for choice in its if choice.point is None]:
            why = "; ".join(f"{choice.row}: {choice.why}" for choice in unchosen)
            found.append(Verdict(each.claim, UNDECIDED, why, 0))
            continue
        words = [f"{choice.row} {choice.why}" for choice in its if choice.why]
        found.append(dataclasses.replace(each, evidence="; ".join([*words, each.evidence])))
    return found
