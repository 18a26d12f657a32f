"""The charts of a table: one Altair specification gives the page's interactive figure and a paper's vector one.

Rows are told apart by hue and dash or shape, outcomes by shape, so that no chart needs its colours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import altair as alt

from ablations.columns import Result
from ablations.fidelity import Fidelity
from ablations.page.evidence import MOST_DRAWN, Shown
from ablations.table import UNSTABLE
from ablations.verdict import METRIC, number, region

# Okabe and Ito's hues, darkened to a contrast of 3 on white and on black.
HUES = ("#0072b2", "#d55e00", "#008a64", "#b8619a", "#a87000", "#767676")
DASHES = ((1, 0), (6, 2), (2, 2), (8, 2, 2, 2))
OUTCOMES = {"finished": "circle", "collapsed": "cross", "diverged": "triangle-up"}
CURVES = {METRIC: "kNN top-1, %", "loss": "loss", "z_std": "std of z/‖z‖ x √d"}

_POINTS = 100  # of a curve, at most
_PRINTED = {
    "background": "white",
    "font": "Times, 'Liberation Serif', serif",
    "view": alt.ViewConfig(stroke=None),
    "axis": alt.AxisConfig(labelFontSize=9, titleFontSize=9, titleFontWeight="normal", gridOpacity=0.4),
    "legend": alt.LegendConfig(labelFontSize=9, titleFontSize=9, titleFontWeight="normal"),
}
_FAINT = 0.2


def of(shown: Shown) -> Iterator[tuple[str, Any]]:
    """Name -> chart, of those that a table has the numbers for, and not too many rows."""
    if len(shown.rows) > MOST_DRAWN:
        return
    for name, chart in (("rows", dots), ("differences", differences), ("curves", curves), ("spectrum", spectrum)):
        found = chart(shown)
        if found is not None:
            yield name, found


def printed(chart: Any) -> Any:
    """A chart in the type and the sizes of a two-column page."""
    return chart.configure(**_PRINTED)


def _chart(lines: Sequence[Result]) -> Any:
    return alt.Chart(alt.InlineData(values=[dict(line) for line in lines]))


def _rows(shown: Shown) -> tuple[alt.Color, alt.StrokeDash]:
    """The encodings that tell the rows apart."""
    names = [row.name for row in shown.rows]
    hues = list(itertools.islice(itertools.cycle(HUES), len(names)))
    dashes = [list(DASHES[i // len(HUES) % len(DASHES)]) for i in range(len(names))]
    if len(names) <= len(DASHES):
        dashes = [list(dash) for dash in DASHES[: len(names)]]
    color = alt.Color("row:N", title=None).scale(domain=names, range=hues)
    return color, alt.StrokeDash("row:N", title=None).scale(domain=names, range=dashes)


def dots(shown: Shown) -> Any:
    """kNN top-1 of each row: a mark a seed, the mean with its 95 % interval; the paper's accuracy on its own axis."""
    means, seeds, paper = [], [], []
    for row in shown.rows:
        if mean := shown.mean(row, METRIC):
            bounds = {"low": mean.low, "high": mean.high} if math.isfinite(mean.half) else {}
            means.append({"row": row.name, "mean": mean.mean, "n": mean.n, **bounds})
        seeds += [
            {"row": row.name, "value": line[METRIC], "seed": line["seed"], "outcome": line["outcome"]}
            for line in shown.of(row)
            if number(line[METRIC])
        ]
        if row.paper is not None:
            paper.append({"row": row.name, "paper": row.paper})
    order = [row.name for row in shown.rows]
    y = alt.Y("row:N", title=None, sort=order).scale(domain=order)
    x = alt.X("mean:Q", title="kNN top-1, %").scale(zero=False)
    shapes = alt.Shape("outcome:N", title="a seed").scale(domain=list(OUTCOMES), range=list(OUTCOMES.values()))
    tips = ["row:N", "seed:Q", "value:Q", "outcome:N"]
    ours = alt.layer(
        _chart(means).mark_rule(strokeWidth=2, color=HUES[0]).encode(y=y, x=alt.X("low:Q"), x2="high:Q"),
        _chart(means).mark_tick(thickness=3, size=16, color=HUES[0]).encode(y=y, x=x, tooltip=["row:N", "mean:Q"]),
        _chart(seeds).mark_point(size=36, color=HUES[1]).encode(y=y, x="value:Q", shape=shapes, tooltip=tips),
    ).properties(width=330, height=alt.Step(26))
    if not paper:
        return ours
    theirs = (
        _chart(paper)
        .mark_point(shape="diamond", size=60, color=HUES[5], filled=True)
        .encode(
            y=alt.Y("row:N", title=None, sort=order).scale(domain=order).axis(labels=False),
            x=alt.X("paper:Q", title="paper, linear top-1, %").scale(zero=False),
            tooltip=["row:N", "paper:Q"],
        )
        .properties(width=150, height=alt.Step(26))
    )
    return alt.hconcat(ours, theirs)


def differences(shown: Shown) -> Any:
    """The claims' differences with their simultaneous intervals, each beside the region that the claim puts it in."""
    of_metric, of_loss = (list(_differences(shown, of_loss)) for of_loss in (False, True))
    charts = [
        _difference_chart(lines, title)
        for lines, title in (
            (of_metric, "difference of kNN top-1, points"),
            (of_loss, "difference of log2 of the loss's roughness"),
        )
        if lines
    ]
    return alt.vconcat(*charts) if len(charts) > 1 else (charts or [None])[0]


def _differences(shown: Shown, of_loss: bool) -> Iterator[Result]:
    for each in shown.verdicts:
        if each.differences and (each.claim.kind == UNSTABLE) == of_loss:
            low, high = region(each.claim)
            for found in each.differences:
                between = found.interval
                yield {
                    "pair": f"{found.better} - {found.worse}",
                    "claim": str(each.claim),
                    "verdict": each.verdict,
                    "mean": between.mean,
                    "low": between.low,
                    "high": between.high,
                    "from": low if math.isfinite(low) else None,
                    "to": high if math.isfinite(high) else None,
                }


def _difference_chart(lines: list[Result], title: str) -> Any:
    edges = [line[name] for line in lines for name in ("low", "high", "from", "to") if line[name] is not None]
    low, high = min([*edges, 0]), max([*edges, 0])
    pad = 0.05 * (high - low)
    domain = [low - pad, high + pad]
    for line in lines:
        line["from"] = domain[0] if line["from"] is None else line["from"]
        line["to"] = domain[1] if line["to"] is None else line["to"]
        line["what"] = f"{line['pair']} ({line['claim']})"
    order = [line["what"] for line in lines]
    y = alt.Y("what:N", title=None, sort=order).axis(labelLimit=420)
    scale = alt.Scale(domain=domain, nice=False)
    tips = ["claim:N", "verdict:N", "mean:Q", "low:Q", "high:Q"]
    base = _chart(lines)
    return alt.layer(
        base.mark_bar(color=HUES[2], opacity=_FAINT).encode(
            y=y, x=alt.X("from:Q", title=title, scale=scale), x2="to:Q"
        ),
        base.mark_rule(strokeWidth=2, color=HUES[0]).encode(y=y, x=alt.X("low:Q", scale=scale), x2="high:Q"),
        base.mark_point(filled=True, size=50, color=HUES[0]).encode(
            y=y,
            x=alt.X("mean:Q", scale=scale),
            shape=alt.Shape("verdict:N", title=None).scale(
                domain=["reproduced", "contradicted", "undecided"], range=["circle", "cross", "diamond"]
            ),
            tooltip=tips,
        ),
        _chart([{"zero": 0}]).mark_rule(strokeDash=[2, 2], color=HUES[5]).encode(x=alt.X("zero:Q", scale=scale)),
    ).properties(width=330, height=alt.Step(26))


def curves(shown: Shown) -> Any:
    """Fig. 2 of any table: kNN, loss and std against epochs; a line a row, the mean of its seeds in the band of all."""
    points = {name: list(_thinned(shown, name)) for name in CURVES}
    epochs = [point["epoch"] for each in points.values() for point in each]  # not all have each epoch: eval_every
    panels = [_panel(shown, name, points[name], (min(epochs), max(epochs))) for name in CURVES if points[name]]
    return alt.hconcat(*panels) if panels else None


def _panel(shown: Shown, name: str, lines: Sequence[Result], epochs: tuple[int, int]) -> Any:
    (color, dash), title = _rows(shown), CURVES[name]
    fields = ("row", "epoch", "mean", "low", "high")
    text = "\n".join(",".join(fields_of) for fields_of in [fields, *(_cells(line, fields) for line in lines)])
    data = alt.InlineData(values=text, format=alt.CsvDataFormat(type="csv"))
    x = alt.X("epoch:Q", title="epoch").scale(nice=False, domain=epochs)
    y = alt.Y("mean:Q", title=title).scale(zero=name == "z_std")
    base = alt.Chart(data)
    return alt.layer(
        base.mark_area(opacity=_FAINT).encode(x=x, y=alt.Y("low:Q", title=title), y2="high:Q", color=color),
        base.mark_line(strokeWidth=1.5).encode(
            x=x, y=y, color=color, strokeDash=dash, tooltip=["row:N", "epoch:Q", "mean:Q"]
        ),
    ).properties(width=210, height=170)


def _cells(line: Result, fields: Sequence[str]) -> list[str]:
    """Of a CSV: names quoted, numbers with five digits."""
    return ['"' + line[name].replace('"', '""') + '"' if name == "row" else f"{line[name]:.5g}" for name in fields]


def _thinned(shown: Shown, name: str) -> Iterator[Result]:
    """Mean, least and greatest over a row's seeds, of as many epochs as a chart can show."""
    for row in shown.rows:
        by_epoch: dict[int, list[float]] = {}
        for fingerprint in {line["fingerprint"] for line in shown.of(row)}:
            for point in shown.curves.get(fingerprint, ()):
                if number(point.get(name)):
                    by_epoch.setdefault(point["epoch"], []).append(point[name])
        epochs = sorted(by_epoch)
        kept = {*epochs[:: math.ceil(len(epochs) / _POINTS) or 1], *epochs[-1:]}
        for epoch in sorted(kept):
            values = by_epoch[epoch]
            yield {
                "row": row.name,
                "epoch": epoch,
                "mean": sum(values) / len(values),
                "low": min(values),
                "high": max(values),
            }


def spectrum(shown: Shown) -> Any:
    """The singular values of centred z/‖z‖ at the end, the first seed of each row: how many directions are alive."""
    color, dash = _rows(shown)
    lines = [
        {"row": row.name, "i": i + 1, "value": round(value, 6)}
        for row in shown.rows
        for line in shown.ran(row)[:1]
        for i, value in enumerate(line["z_singular_values"] or ())
        if value > 1e-6
    ]
    if not lines:
        return None
    return (
        _chart(lines)
        .mark_line(strokeWidth=1.5)
        .encode(
            x=alt.X("i:Q", title="singular value, by size"),
            y=alt.Y("value:Q", title="of centred z/‖z‖").scale(type="log").axis(format="~g"),
            color=color,
            strokeDash=dash,
            tooltip=["row:N", "i:Q", "value:Q"],
        )
        .properties(width=330, height=170)
    )


def lengths(found: Sequence[tuple[str, Fidelity]]) -> Any:
    """Kendall's tau-b of a shorter and a longer table, with its bootstrap, and what halves of the longer one reach."""
    known: list[Result] = []
    for name, each in found:
        numbers = {"tau": each.tau, "low": each.low, "high": each.high, "halves": each.halves}
        known.append({"pair": f"{name}: {each.short} | {each.long}", **{k: v for k, v in numbers.items() if number(v)}})
    pair = alt.Y("pair:N", title=None, sort=None, axis=alt.Axis(labelLimit=320))
    scale = alt.Scale(domain=[min([0.0, *(line["low"] for line in known if "low" in line)]), 1.0])
    base = _chart(known).encode(y=pair)
    tau = alt.X("tau:Q", title="Kendall's tau-b, kNN top-1", scale=scale)
    return (
        base.mark_rule(strokeWidth=2, color=HUES[0]).encode(x=alt.X("low:Q", scale=scale), x2="high:Q")
        + base.mark_point(filled=True, size=60, color=HUES[0]).encode(x=tau)
        + base.mark_tick(thickness=3, size=18, color=HUES[1]).encode(x=alt.X("halves:Q", scale=scale))
    ).properties(width=320, height=alt.Step(26))


def plane(points: Iterable[Result]) -> Any:
    """z/‖z‖ of test pictures by its two principal components, each written as the number of its class."""
    lines = [{"x": round(point["x"], 4), "y": round(point["y"], 4), "class": str(point["label"])} for point in points]
    order = sorted({line["class"] for line in lines}, key=int)
    hues = list(itertools.islice(itertools.cycle(HUES), len(order)))
    return (
        _chart(lines)
        .mark_text(fontSize=9)
        .encode(
            x=alt.X("x:Q", title="first component").scale(zero=False),
            y=alt.Y("y:Q", title="second").scale(zero=False),
            text="class:N",
            color=alt.Color("class:N", legend=None).scale(domain=order, range=hues),
        )
        .properties(width=260, height=240)
    )
