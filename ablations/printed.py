"""What a person reads: a table beside the paper's, the claims and what became of them."""

from __future__ import annotations

import math
import operator
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from ablations import lines as lines_of
from ablations import provenance
from ablations.agreement import Agreement, ClaimTwice
from ablations.board import duration
from ablations.fidelity import Fidelity
from ablations.table import Table
from ablations.terminal import width
from ablations.verdict import METRIC, UNTRAINED, Interval, Verdict, number
from simsiam.methods import DETECTION

Result = Mapping[str, Any]


class Number(NamedTuple):
    """A column of numbers of a table.

    Args:
        name: of the result files' column.
        heading: in a terminal.
        title: where there is room for it.
        digits: after the point.
    """

    name: str
    heading: str
    title: str
    digits: int = 1


_OURS = Number(METRIC, "kNN", "kNN top-1"), Number("linear_top1", "linear", "linear top-1")
_START = (Number(UNTRAINED, "untrained", "untrained, kNN"),)
_BY_LABELS = (Number("classifier_top1", "classifier", "classifier top-1"),)
_BOXES = Number("ap", "AP", "AP"), Number("ap50", "AP50", "AP50"), Number("ap75", "AP75", "AP75")
_FORENSICS = Number("z_std", "z_std", "std of z", 2), Number("effective_rank", "rank", "rank")


def accuracies(lines: Sequence[Result]) -> tuple[Number, ...]:
    """What a table of these lines has of how good its rows became, per cent."""
    if _of_boxes(lines):
        return _BOXES
    by_labels = any(line.get("classifier_top1") is not None for line in lines)
    return (*_OURS, *(_BY_LABELS if by_labels else ()))


def numbers(lines: Sequence[Result]) -> tuple[Number, ...]:
    """The same, with what a row started from and what became of its z."""
    return accuracies(lines) + (() if _of_boxes(lines) else (*_START, *_FORENSICS))


def _of_boxes(lines: Sequence[Result]) -> bool:
    return any(line["method"] == DETECTION for line in lines)


_OF_CLASSES = """\
Top-1 in per cent, mean ± standard deviation over seeds: kNN, which the claims are judged on, and a
linear probe, which the paper's numbers are of. * is the row that the others change; time is the median of a trial."""
_OF_BOXES = "AP in per cent, mean ± standard deviation over seeds; time is the median of a trial."


def results(table: Table, lines: Sequence[Result]) -> str:
    """One table of one recipe with one set of overrides, a line a row: row | paper | ours | ... | outcome | time.

    Args:
        lines: of results/<table>.parquet.
    """
    its = numbers(lines)
    told = {line["row"]: line for line in lines if line.get("reference") is not None}  # files of before have none
    others = ["reference"] if told else []
    prices = ["price"] if any(line.get("price") is not None for line in lines) else []
    cells = [("row", "paper", *others, *(number.heading for number in its), "outcome", "time", *prices)]
    for row in table.rows:
        if seeds := [line for line in lines if line["row"] == row.name]:
            paper = "-" if row.paper is None else f"{row.paper:.1f}"
            ours = (spread(seeds, number.name, number.digits) for number in its)
            published = [f"{told[row.name]['reference']:.1f}" if row.name in told else "-" for _ in others]
            name = row.name + " *" * any(line.get("baseline") for line in seeds)
            cost = [price(line.get("price") for line in seeds) for _ in prices]
            cells.append((name, paper, *published, *ours, outcomes(seeds), took(seeds), *cost))
    text = [
        f"{table.title} ({table.section})",
        _OF_BOXES if _of_boxes(lines) else _OF_CLASSES,
        *(["", which(lines[0])] if lines else []),
        "",
        aligned(cells),
    ]
    messages = dict.fromkeys(f"{line['row']}: {line['message']}" for line in lines if line["message"])
    pixels = [line["knn_top1_pixels"] for line in lines if line["knn_top1_pixels"] is not None]
    raw = [f"kNN on the raw pixels: {pixels[0]:.1f} %."] if pixels else []
    named = dict.fromkeys(f"Reference: {line['reference_source']}; {line['reference_of']}." for line in told.values())
    below = [*messages, *same_trainings(lines), *beside(table, lines), *named, *raw]
    return "\n".join([*text, *([""] if below else []), *below])


def same_trainings(lines: Sequence[Result]) -> list[str]:
    """Which rows are no evidence beside each other, a sentence a group."""
    groups = lines_of.same_trainings(lines)
    return [f"One training a seed, since their settings come to the same here: {', '.join(rows)}." for rows in groups]


def in_no_mean(lines: Sequence[Result]) -> list[str]:
    """How many seeds of each row have no number, in a sentence; none where all have one."""
    name = accuracies(lines)[0].name
    rows = lines_of.grouped(lines, operator.itemgetter("row"))
    without = {row: sum(not number(line[name]) for line in its) for row, its in rows.items()}
    said = [f"{row} {n} of {len(rows[row])}" for row, n in without.items() if n]
    return [f"Seeds without a number, in no mean: {', '.join(said)}."] if said else []


def beside(table: Table, lines: Sequence[Result]) -> list[str]:
    """What is said of rows that have no number of the paper, in a sentence."""
    there = {line["row"] for line in lines}
    said = [f"{row.name}: {row.note}" for row in table.rows if row.paper is None and row.note and row.name in there]
    return [f"The table says beside {'; '.join(said)}."] if said else []


def which(line: Result) -> str:
    """The recipe, data and changes that a table is of."""
    changed = f", --set {line['overrides']}" if line["overrides"] else ""
    foreign = " These are not the digits." if line["recipe"] == "digits" != line["data"].partition("@")[0] else ""
    encoder = f" Encoder: {line['encoder_from']}." if line.get("encoder_from") else ""
    return f"Recipe {line['recipe']}, data {line['data']}{changed}.{foreign}{encoder}"


def price(prices: Iterable[float | None]) -> str:
    """What several trials cost together, with two digits that count, and how many that is of, where not of all."""
    prices = list(prices)
    known = [each for each in prices if number(each)]
    if not known:
        return "-"
    total = sum(known)
    text = f"{total:.2f}" if total >= 0.1 else f"{total:.2g}"
    return text if len(known) == len(prices) else f"{text} ({len(known)} of {len(prices)})"


def plural(n: int, what: str) -> str:
    """So many of something, as `1 seed`, `2 seeds`."""
    return f"{n} {what}{'s' * (n != 1)}"


def spread(lines: Sequence[Result], name: str, digits: int) -> str:
    """Mean over the seeds that have a number, and their standard deviation if they are several."""
    values = [line[name] for line in lines if number(line[name])]
    if not values:
        return "-"
    mean = f"{statistics.fmean(values):.{digits}f}"
    return mean if len(values) == 1 else f"{mean} ± {statistics.stdev(values):.{digits}f}"


def aligned(cells: Sequence[Sequence[str]]) -> str:
    """Lines of cells as a Markdown table, its columns aligned."""
    cells = [[cell.replace("|", r"\|") for cell in line] for line in cells]  # a row's own name may have one
    widths = [max(width(line[i]) for line in cells) for i in range(len(cells[0]))]
    padded = ([cell + " " * (w - width(cell)) for cell, w in zip(line, widths, strict=True)] for line in cells)
    lines = [f"| {' | '.join(line)} |" for line in padded]
    lines.insert(1, "|" + "|".join("-" * (w + 2) for w in widths) + "|")
    return "\n".join(lines)


def outcomes(lines: Sequence[Result]) -> str:
    """How a row's seeds ended, as `finished`, or `4 finished, 1 collapsed`, and whether some are `stale`."""
    counts = Counter(line["outcome"] for line in lines)
    ended = [o if n == len(lines) else f"{n} {o}" for o, n in counts.items()]
    stale = sum(map(provenance.is_stale, lines))
    return ", ".join([*ended, *(["stale" if stale == len(lines) else f"{stale} stale"] if stale else [])])


def took(lines: Sequence[Result]) -> str:
    """What a trial of these took, the median, and the range where a busy machine has made it more than twofold."""
    seconds = [line["wall_seconds"] for line in lines if line["wall_seconds"] is not None]
    if not seconds:
        return "-"
    shortest, longest = min(seconds), max(seconds)
    spread = f" ({duration(shortest)} to {duration(longest)})" if longest > 2 * shortest else ""
    return duration(statistics.median(seconds)) + spread


def judged(verdict: Verdict) -> str:
    """A verdict with its seeds and the difference that they tell from none in half of the cases; without seeds, why."""
    if not verdict.n:
        return verdict.evidence
    shows = "" if verdict.shows is None else f", ±{verdict.shows:.1f}"
    return f"{verdict.verdict} ({plural(verdict.n, 'seed')}{shows})"


def agreement(rows: Sequence[Agreement], claims: Sequence[ClaimTwice]) -> str:
    """Two runs beside each other: a Markdown table of their rows, one of their claims, and a sentence on each."""
    cells: list[tuple[str, ...]] = [("row", "kNN top-1", "other's", "difference", "outcomes", "other's", "says")]
    for row in rows:
        means = ["-" if mean is None else _interval(mean) for mean in row.means]
        between = "-" if row.difference is None else row.difference.text(2, "+")
        ended = [", ".join(f"{n} {outcome}" for outcome, n in sorted(each.items())) for each in row.outcomes]
        cells.append((f"{row.table}: {row.row}", *means, between, *ended, row.says))
    twice = [("claim", "verdict", "other's", "says")]
    twice += [
        (f"{each.table.name}: {each.one.claim}", each.one.verdict, each.other.verdict, each.says) for each in claims
    ]
    shared = sum(row.shared for row in rows)
    apart = Counter((name, *its) for row in rows for name, its in row.apart.items())
    made = [f"{name} {one} and {other} ({plural(n, 'row')})" for (name, one, other), n in apart.items()]
    trainings = [{"row": f"{row.table}: {row.row}", "fingerprint": its} for row in rows for its in row.fingerprints]
    return "\n".join(
        [
            aligned(cells),
            "",
            f"{len(rows)} rows: {_counted(row.says for row in rows)}. What is said of them holds together at 95 %, and "
            "so do the differences: a true one of ±'s size is seen in half of the cases. Each mean is at 95 % by "
            f"itself. {shared} of their results are in both, with the same numbers.",
            *same_trainings(trainings),
            *([f"Not alike in both: {'; '.join(made)}."] if made else []),
            "",
            aligned(twice),
            "",
            f"{len(claims)} claims: {_counted(each.says for each in claims)}.",
        ]
    )


def fidelity(found: Sequence[Fidelity]) -> str:
    """A Markdown table of how well shorter tables rank the rows of longer ones."""
    cells: list[tuple[str, ...]] = [("epochs", "beside", "rows", "seeds", "tau-b", "bootstrap", "halves")]
    for each in found:
        numbers = (each.tau, each.low, each.high, each.halves)
        tau, low, high, halves = ("-" if math.isnan(number) else f"{number:.2f}" for number in numbers)
        cells.append(
            (str(each.short), str(each.long), str(each.rows), str(each.seeds), tau, f"{low} to {high}", halves)
        )
    return "\n".join([aligned(cells), "", _FIDELITY])


_FIDELITY = """\
Kendall's tau-b of the rows' mean kNN top-1: 1 is the same order, 0 none in common. Collapsed rows share the last
place. The bootstrap is of 95 % over seeds, and too narrow where they are few. Halves is how well two halves of the
longer table's seeds agree, of half the seeds. Each length has a cosine of its own: a curve, cut at the shorter length,
has not finished its own and may rank otherwise."""


def _interval(mean: Interval) -> str:
    return f"{mean.text(2)} ({mean.n})"


def _counted(names: Iterable[str]) -> str:
    return ", ".join(f"{n} {name}" for name, n in Counter(names).items())


_INTERVALS = """\
± is a t interval at level 1 - 0.05/{share} for a table of m claims{looks}, divided again among a claim's comparisons,
so that those of one table hold together at 95 %; "could show" is its half-width: a true difference of this size is told
from none in half of the cases. What outcomes decide is a count of these seeds, and has no error rate."""


def claims(verdicts: Sequence[tuple[Table, Verdict]], *, overrides: str = "") -> str:
    """A Markdown table of the paper's claims and what our runs say of them, changed as `overrides` say."""
    changed = f" (--set {overrides})" if overrides else ""
    looks = {table.name: found.looks for table, found in verdicts if found.looks > 1}
    several = "; ".join(f"{name} {n}" for name, n in looks.items())
    share = {"share": "km", "looks": f" and k looks at them ({several})"} if looks else {"share": "m", "looks": ""}
    below = [_INTERVALS.format(**share)] if any(found.differences for _, found in verdicts) else []
    if overrides:
        below.append(f"The recipe is altered (--set {overrides}): this says nothing of the recipe itself.")
    if any(found.open and found.n < 2 for _, found in verdicts):
        below.append("One seed decides only what collapses or diverges: for the rest add --seeds 5.")
    cells = [("section", "the paper's claim", "verdict", "seeds", "evidence, kNN top-1", "could show")]
    for table, found in verdicts:
        cells.append(
            (
                found.claim.section,
                f"{table.name}: {found.claim}{changed}",
                found.verdict,
                str(found.n),
                found.evidence,
                "-" if found.shows is None else f"{found.shows:.2f}",
            )
        )
    return "\n".join([aligned(cells), *([""] if below else []), *below])
