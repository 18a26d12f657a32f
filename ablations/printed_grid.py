"""What a person reads of a grid: its rows in order, as a matrix, or the head, the best and the worst of many."""

from __future__ import annotations

import itertools
import operator
import shutil
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from ablations import provenance, tuned, verdict
from ablations.grid import BASELINE, at, value
from ablations.lines import grouped
from ablations.printed import aligned, outcomes, which
from ablations.table import Row, Table
from ablations.tuned import NOT_RUN
from ablations.verdict import UNDECIDED, Difference, Verdict

Result = Mapping[str, Any]

_MOST_ROWS = 30  # of a list; of a longer one the ends are shown
_ENDS = 5
_MARKS = {"collapsed": "c", "diverged": "d", "failed": "f", "stale": "s"}  # beside a number, or none


_MEANS = """\
kNN top-1 in per cent, mean ± its 95 % interval over seeds; c: collapsed in every seed, (c): in some; d, (d):
diverged; f, (f): failed; s, (s): stale, of other code than this."""
_DIFFERENCES = """\
Differences are paired by seed. The intervals of these {rows} hold together at 95 %, as those of a table's claims do:
t intervals, each at 1 - 0.05/{share}. ! marks a difference that they tell from none; a row that diverged or failed in
some seed has none, nor has one that the time limit has left short of some."""


def results(table: Table, lines: Sequence[Result], *, short: Collection[str] = ()) -> str:
    """A grid of one recipe with one set of overrides.

    Args:
        lines: of results/<table>.parquet.
        short: rows that the time limit has left without some of their seeds.
    """
    if table.tuned:
        return tuned_table(table, lines, short)
    differences = verdict.differences([row.name for row in table.rows], BASELINE, lines, short=short)
    of = grouped(lines, operator.itemgetter("row"))
    shown = _matrices(table, of, differences) or _list(table, of, differences)
    itself = f"The baseline: {_cell(of.get(BASELINE, []))}."
    below = [
        _MEANS,
        *(
            [_DIFFERENCES.format(rows=len(differences), share=len(differences) * verdict.looks(lines))]
            if differences
            else []
        ),
    ]
    messages = dict.fromkeys(f"{line['row']}: {line['message']}" for line in lines if line["message"])
    few = [*itertools.islice(messages, _ENDS), *([f"... {len(messages)} such rows."] if len(messages) > _ENDS else [])]
    title = f"{table.title} ({table.section})"
    return "\n".join([title, *([which(lines[0])] if lines else []), "", itself, "", shown, "", *below, *few])


def _cell(lines: Sequence[Result]) -> str:
    """A row's mean and interval, with a mark for what did not finish."""
    if not lines:
        return "-"
    if (mean := verdict.mean(lines)) is None:
        return outcomes(lines)
    ended = Counter(line["outcome"] for line in lines)
    ended["stale"] = sum(map(provenance.is_stale, lines))
    marks = [mark if ended[name] == len(lines) else f"({mark})" for name, mark in _MARKS.items() if ended[name]]
    return " ".join([mean.text(), *marks])


def _difference(found: Difference | None) -> str:
    if found is None:
        return "-"
    return found.interval.text(1, "+") + " !" * found.interval.tells


def _matrices(table: Table, of: Mapping[str, Sequence[Result]], differences: Mapping[str, Difference]) -> str | None:
    """A grid of two fields on a recipe as a matrix of means and one of differences; None where that is not one, or is
    wider than the terminal."""
    if len(table.axes) != 2 or any(row.of not in (None, BASELINE) for row in table.rows):
        return None
    (down, lefts), (across, tops) = table.axes.items()
    names = {(row.at[down], row.at[across]): row.name for row in table.rows if row.at}
    corner = f"{down} \\ {across}"
    tops = tuple(top for top in tops if any((left, top) in names for left in lefts))

    def matrix(text: Any) -> str:
        cells = [(corner, *(value(top) for top in tops))]
        cells += [(value(left), *(text(names.get((left, top), "")) for top in tops)) for left in lefts]
        return aligned(cells)

    parts = ["kNN top-1:", matrix(lambda name: _cell(of.get(name, [])))]
    if differences:
        parts += ["Difference to the baseline:", matrix(lambda name: _difference(differences.get(name)))]
    text = "\n\n".join(parts)
    fits = max(map(len, text.splitlines())) <= shutil.get_terminal_size().columns
    return text if fits and len(lefts) <= _MOST_ROWS else None


def _list(table: Table, of: Mapping[str, Sequence[Result]], differences: Mapping[str, Difference]) -> str:
    """A row a line, in order; of many, the head, the best and the worst."""

    def line(row: Row) -> tuple[str, ...]:
        lines = of.get(row.name, [])
        return row.name, _cell(lines), _difference(differences.get(row.name)), outcomes(lines) or "-"

    heading = ("row", "kNN", "difference", "outcome")
    rows = [row for row in table.rows if row.name in of and row.name != BASELINE]
    if len(rows) <= _MOST_ROWS:
        return aligned([heading, *map(line, rows)])
    means = {row.name: mean for row in rows if (mean := verdict.mean(of[row.name]))}
    ranked = sorted((row for row in rows if row.name in means), key=lambda row: -means[row.name].mean)
    parts = {"The first": rows[:_ENDS], "The best": ranked[:_ENDS], "The worst": ranked[-_ENDS:]}
    text = [f"{name}:\n\n{aligned([heading, *map(line, several)])}\n" for name, several in parts.items()]
    text.append(f"All {len(rows)} rows are in {table.name}.parquet; results.pivot makes a matrix.")
    return "\n".join(text)


_TUNED = """\
Each row was trained at {points} {what} and given the one with the best leave-one-out kNN on the training pictures
(train kNN), mean over seeds: no test label has chosen. A row whose seeds vary more, or to which the point matters less,
gains more by choosing. < marks a chosen value at the end of those that were tried: a better one may lie beyond."""


def tuned_table(table: Table, lines: Sequence[Result], short: Collection[str] = ()) -> str:
    """A table of `--tune`: each row at its own best, and the claims at the recipe's setting and at the rows' own."""
    of, choices = grouped(lines, operator.itemgetter("row")), tuned.choices(table, lines)
    points = max(sum(row.of == choice.row for row in table.rows) for choice in choices)
    papers = {row.name: row.paper for row in tuned.plain(table)}
    cells = [("row", "paper", "kNN", "chosen", "train kNN", "kNN there", "at the points")]
    for choice in (choice for choice in choices if choice.why != NOT_RUN):
        paper, its = papers[choice.row], [row for row in table.rows if row.of == choice.row]
        chosen = "-" if choice.point is None else at(choice.point) + " <" * bool(choice.edge)
        chosen = "none to choose" if choice.tries == 1 else chosen
        figure = "-" if choice.figure is None else f"{choice.figure:.1f}"
        there = next((_cell(of.get(row.name, [])) for row in its if row.at == choice.point), "-")
        everywhere = choice.why or outcomes([line for row in its for line in of.get(row.name, [])])
        numbers = ("-" if paper is None else f"{paper:.1f}", _cell(of.get(choice.row, [])), chosen, figure, there)
        cells.append((choice.row, *numbers, everywhere))
    parts = [f"{table.title} ({table.section})", *([which(lines[0])] if lines else []), "", aligned(cells), ""]
    parts += [_TUNED.format(points=points, what=tuned.what(table)), _MEANS]
    if len(tries := {choice.tries for choice in choices if choice.point is not None}) > 1:
        counts = ", ".join(f"{choice.row} {choice.tries}" for choice in choices)
        parts.append(
            f"Rows had unequal numbers of tries ({counts}), and more tries have better luck: at most {max(tries)}."
        )
    if table.claims:
        left = {row.of or row.name for row in table.rows if row.name in short}
        parts += ["", claims(verdict.judge(table.claims, lines, short=short), tuned.judged(table, lines, short), left)]
    return "\n".join(parts)


def claims(untuned: Sequence[Verdict], own: Sequence[Verdict], short: Collection[str] = ()) -> str:
    """The claims with all rows at the recipe's setting, and with each at its own best, and which of them change.

    Args:
        short: rows that the time limit has left short of seeds, at one setting or another: nothing is changed by that.
    """
    headings = ("the paper's claim", "at the recipe's", "each at its own", "seeds", "evidence, each at its own")
    cells = [("section", *headings)]
    for one, other in zip(untuned, own, strict=True):
        cells.append((one.claim.section, str(one.claim), one.verdict, other.verdict, str(other.n), other.evidence))
    both = [
        (one, other)
        for one, other in zip(untuned, own, strict=True)
        if (other.n or other.verdict != UNDECIDED) and not set(one.claim.rows) & set(short)
    ]
    changed = [str(one.claim) for one, other in both if one.verdict != other.verdict]
    said = f"Another verdict there: {'; '.join(changed)}." if changed else "No verdict is another one there."
    return "\n".join([aligned(cells), "", said])
