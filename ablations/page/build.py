"""The page of a results folder: one HTML file that asks nothing of anybody."""

from __future__ import annotations

import base64
import datetime
import functools
import json
import math
import operator
import statistics
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jinja2
import vl_convert
from markupsafe import Markup

from ablations.board import duration
from ablations.columns import Result
from ablations.lines import grouped
from ablations.page import charts, paper
from ablations.page.evidence import Evidence, Shown, Stage, fidelities
from ablations.page.paper import mean_text
from ablations.printed import judged, numbers, outcomes, plural, price, took
from ablations.store import Store
from ablations.table import Claim
from ablations.verdict import METRIC, number

_MARKS = {"reproduced": "✓", "contradicted": "✗", "undecided": "?"}
_DRAWN_STAGES = 3  # of which pictures are shown: some 400 KB each

# Of the page's charts: what has no colour of its own follows the page's, light or dark.
_INK = "currentColor"
_CONFIG = {
    "background": None,
    "font": "system-ui, sans-serif",
    "view": {"stroke": None},
    "axis": {
        **dict.fromkeys(("labelColor", "titleColor", "domainColor", "tickColor", "gridColor"), _INK),
        "gridOpacity": 0.15,
        "titleFontWeight": "normal",
    },
    "legend": {**dict.fromkeys(("labelColor", "titleColor"), _INK), "titleFontWeight": "normal"},
    "text": {"color": _INK},
    "aria": False,  # the figure around it says what it shows
}


def page(evidence: Evidence, store: Store) -> str:
    """The HTML of a results folder."""
    stages = [_stage(i, stage, store) for i, stage in enumerate(evidence.stages)]
    return _template().render(
        title="Which part of SimSiam matters",
        place=evidence.place,
        made=f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC",
        notes=[note.text for note in evidence.notes],
        stages=stages,
        claims=list(_claims(evidence.stages)),
        fidelity=_fidelity(evidence.stages),
        bibtex=paper.BIBTEX,
        runtime=Markup(_runtime()),
        config=_json(_CONFIG),
    )


@functools.cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.from_string(Path(__file__).with_name("page.html").read_text())


@functools.cache
def _runtime() -> str:
    """Vega, Vega-Lite and their embedding, as one script."""
    bundle: str = vl_convert.javascript_bundle()  # type: ignore[call-arg]  # its snippet is optional
    return bundle.replace("</script", "<\\/script")


def _json(value: Any) -> Markup:
    """JSON that may stand within a script element."""
    text = json.dumps(value, separators=(",", ":"), ensure_ascii=False)
    return Markup(text.replace("&", "\\u0026").replace("<", "\\u003c").replace(">", "\\u003e"))


def _id(*parts: object) -> str:
    return "-".join(map(str, parts))


def _claims(stages: Sequence[Stage]) -> Iterator[dict[str, Any]]:
    """Every claim of the tables that some stage has, with a link to the evidence of each stage."""
    found: dict[tuple[str, Claim], dict[int, dict[str, str]]] = {}
    for i, stage in enumerate(stages):
        for shown in stage.tables:
            for j, each in enumerate(shown.verdicts):
                cell = {
                    "id": _id("stage", i, shown.table.name, "claim", j),
                    "text": f"{_MARKS[each.verdict]} {judged(each)}",
                }
                found.setdefault((shown.table.name, each.claim), {})[i] = cell
    for (table, claim), cells in found.items():
        yield {
            "section": claim.section,
            "text": f"{table}: {claim}",
            "cells": [cells.get(i) for i in range(len(stages))],
        }


def _fidelity(stages: Sequence[Stage]) -> dict[str, Any] | None:
    """Whether shorter tables can be believed; None where no table is there at two lengths."""
    found = list(fidelities(stages))
    if not found:
        return None

    def text(number: float) -> str:
        return "-" if math.isnan(number) else f"{number:.2f}"

    rows = []
    for name, each in found:
        counts = map(str, (each.short, each.long, each.rows, each.seeds))
        cells = [*counts, text(each.tau), f"{text(each.low)} to {text(each.high)}", text(each.halves)]
        rows.append({"name": name, "cells": cells})
    said = "; ".join(f"{row['name']}: {row['cells'][4]} ({row['cells'][5]})" for row in rows)
    return {"rows": rows, "spec": _json(_bare(charts.lengths(found))), "label": f"Kendall's tau-b: {said}."}


def _stage(i: int, stage: Stage, store: Store) -> dict[str, Any]:
    tables = [_table(_id("stage", i, shown.table.name), shown) for shown in stage.tables]
    if i < _DRAWN_STAGES:
        for shown, table in zip(stage.tables, tables, strict=True):
            if seen := _seen(shown, store):
                table["seen"] = seen
                break
    return {
        "id": _id("stage", i),
        "name": stage.name,
        "overrides": stage.overrides,
        "methods": paper.methods(stage),
        "tables": tables,
    }


def _table(name: str, shown: Shown) -> dict[str, Any]:
    headings, rows = _rows(name, shown)
    messages = dict.fromkeys(f"{line['row']}: {line['message']}" for line in shown.lines if line["message"])
    return {
        "id": name,
        "title": shown.table.title,
        "section": shown.table.section,
        "notes": [*shown.missing, *shown.notes],
        "headings": headings,
        "rows": rows,
        "messages": list(messages),
        "verdicts": [
            {
                "id": _id(name, "claim", j),
                "claim": str(each.claim),
                "section": each.claim.section,
                "verdict": f"{_MARKS[each.verdict]} {each.verdict}",
                "n": each.n,
                "evidence": each.evidence,
            }
            for j, each in enumerate(shown.verdicts)
        ],
        "charts": list(_charts(shown)),
        "seen": None,
        "made": list(_made(shown)),
    }


def _rows(name: str, shown: Shown) -> tuple[list[str], list[dict[str, Any]]]:
    """The headings and the cells of the paper's table with ours beside it."""
    its = numbers(shown.lines)
    priced = any(line["price"] is not None for line in shown.lines)
    referred = any(line["reference"] is not None for line in shown.lines)
    headings = ["row", "paper", *(["reference"] if referred else []), "seeds", *(each.title for each in its), "outcome"]
    headings += ["time a trial", "images/s", *(["price"] if priced else [])]
    rows = []
    for i, row in enumerate(shown.rows):
        lines = shown.of(row)
        texts = ["-" if row.paper is None else f"{row.paper:.1f}"]
        if referred:
            texts.append("-" if lines[0]["reference"] is None else f"{lines[0]['reference']:.1f}")
        texts += [str(len(shown.ran(row))), *(mean_text(shown.mean(row, each.name), each.digits) for each in its)]
        cells = [{"text": text, "number": True} for text in texts]
        cells.append({"text": outcomes(lines), "number": False})
        cells += [{"text": text, "number": True} for text in _cost(lines, priced)]
        baseline = any(line["baseline"] for line in lines)
        rows.append({"id": _id(name, "row", i), "name": row.name, "baseline": baseline, "cells": cells})
    return headings, rows


def _cost(lines: Sequence[Result], priced: bool) -> Iterator[str]:
    """Of a row: how long a trial took, how fast it was (medians), and what all of its seeds cost."""
    yield took(lines)
    speeds = [line["images_per_second"] for line in lines if number(line["images_per_second"])]
    yield f"{statistics.median(speeds):,.0f}" if speeds else "-"
    if priced:
        yield price(line["price"] for line in lines)


def _charts(shown: Shown) -> Iterator[dict[str, Any]]:
    means = "; ".join(f"{row.name} {mean_text(shown.mean(row, METRIC))}" for row in shown.rows)
    evidence = "; ".join(each.evidence for each in shown.verdicts if each.differences)
    said = {  # chart -> what it shows, for who does not see it; its caption
        "rows": (f"kNN top-1, per cent: {means}.", "Each seed, and the mean with its 95 % interval."),
        "differences": (f"Differences: {evidence}.", "Differences; the region that the claim says is shaded."),
        "curves": (
            "kNN top-1, loss and std of z against epochs, a line a row.",
            "As the paper's Fig. 2: means over seeds, within the band of all.",
        ),
        "spectrum": (
            "Singular values of centred z, a line a row.",
            "How many directions z uses at the end: first seed of each row.",
        ),
    }
    for name, chart in charts.of(shown):
        label, caption = said[name]
        yield {"spec": _json(_bare(chart)), "label": label, "caption": caption}


def _bare(chart: Any) -> dict[str, Any]:
    """A chart's specification without Altair's own settings: the page has some of its own."""
    specification: dict[str, Any] = chart.to_dict(validate=False)
    return {name: value for name, value in specification.items() if name != "config"}


def _made(shown: Shown) -> Iterator[tuple[str, str]]:
    """Provenance: which data, machine and code."""
    for title, name in (
        *(
            ("data", "data"),
            ("where they were", "data_place"),
            ("device", "device"),
            ("torch", "torch"),
            ("ray", "ray"),
        ),
        *(("this package", "version"), ("digest of the sources", "sources"), ("workers", "workers")),
    ):
        values = sorted({str(line[name]) for line in shown.lines if line[name] is not None})
        if values:
            yield title, ", ".join(values)
    ended = sorted(line["ended"] for line in shown.lines if line["ended"] is not None)
    if ended:
        yield "ended", " to ".join(dict.fromkeys(f"{each:%Y-%m-%d}" for each in (ended[0], ended[-1])))
    seconds = {line["fingerprint"]: line["device_seconds"] for line in shown.lines if number(line["device_seconds"])}
    yield "device time", f"{duration(sum(seconds.values()))} over {plural(len(seconds), 'training')}"


def _seen(shown: Shown, store: Store) -> dict[str, Any] | None:
    """Pictures and their views, and for a healthy and a collapsed row its neighbours and its z; None without any."""
    found = (_drawn(shown, outcome, store) for outcome in ("finished", "collapsed"))
    sides = [each for each in found if each]
    if not sides:
        return None
    return {"views": _groups(sides[0][1], "view"), "sides": [_side(*side) for side in sides]}


def _drawn(shown: Shown, outcome: str, store: Store) -> tuple[Result, list[Result]] | None:
    """The first trial that ended so and has pictures, with them."""
    for row in shown.rows:
        for line in shown.of(row):
            if line["outcome"] == outcome and (pictures := store.pictures(line["fingerprint"])):
                return line, pictures
    return None


def _side(line: Result, pictures: Sequence[Result]) -> dict[str, Any]:
    neighbours = [each for each in pictures if each["kind"] == "neighbour"]
    labels = {each["group"]: each["label"] for each in neighbours if each["place"] == 0}
    near = [each["label"] == labels[each["group"]] for each in neighbours if each["place"]]
    points = [each for each in pictures if each["kind"] == "z"]
    return {
        "name": f"{line['row']}, seed {line['seed']}: {line['outcome']}",
        "neighbours": _groups(pictures, "neighbour"),
        "right": f"{sum(near)} of {len(near)} are of its class.",
        "plane": {
            "spec": _json(_bare(charts.plane(points))),
            "label": f"z of {len(points)} test pictures of {line['row']} in the plane of their principal components.",
            "caption": "z/‖z‖ of test pictures, each as the number of its class.",
        },
    }


def _groups(pictures: Sequence[Result], kind: str) -> list[list[dict[str, str]]]:
    """Pictures by group, in the order of their places, ready to be shown."""
    groups = grouped((each for each in pictures if each["kind"] == kind), operator.itemgetter("group"))
    return [
        [
            {"data": base64.b64encode(each["image"]).decode(), "alt": _alternative(kind, each)}
            for each in sorted(groups[group], key=lambda each: int(each["place"]))
        ]
        for group in sorted(groups)
    ]


def _alternative(kind: str, picture: Result) -> str:
    what = {"view": ("picture", "view"), "neighbour": ("test picture", "neighbour")}[kind][picture["place"] > 0]
    place = f" {picture['place']}" if picture["place"] else ""
    return f"{what}{place}, class {picture['label']}"
