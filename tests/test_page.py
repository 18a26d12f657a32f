"""The page without a browser: what it shows, what it lacks and says so, and that it asks nothing of anybody."""

from __future__ import annotations

import json
import math
import shutil
import statistics
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from made import ONE, OTHER, a_result, plan, published

from ablations import grid, planning, report, results, run
from ablations.page import build, charts, evidence
from ablations.store import Store

ROOT = Path(__file__).resolve().parent.parent


class Page(HTMLParser):
    """What a page has: ids, links, what it would fetch, the cells of its tables, the specifications of its charts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.ids: list[str] = []
        self.links: list[str] = []
        self.fetched: list[str] = []
        self.cells: list[list[str]] = []
        self.charts: list[dict[str, Any]] = []
        self.labels: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self._open.append("json" if found.get("type") == "application/json" else tag)
        self.ids += [found["id"]] if "id" in found else []
        self.labels += [found["aria-label"]] if found.get("role") == "img" else []
        self.links += [found["href"]] if tag == "a" else []
        self.fetched += [found[name] for name in ("src", "href", "data") if name in found and tag != "a"]
        if tag == "tr":
            self.cells.append([])
        if tag in ("td", "th"):
            self.cells[-1].append("")

    def handle_endtag(self, tag: str) -> None:
        while self._open and self._open.pop() not in (tag, "json" if tag == "script" else tag):
            pass

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] == "json":
            self.charts.append(json.loads(data))
        elif "script" not in self._open and "style" not in self._open:
            self.text += data
            if {"td", "th"} & set(self._open):
                self.cells[-1][-1] += data


def page(place: Path) -> Page:
    store = Store.at(place)
    return Page(build.page(evidence.read(store), store))


@pytest.fixture(scope="module")
def shown(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return published(tmp_path_factory.mktemp("shown"), {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})


def test_numbers_are_the_files(shown: Path) -> None:
    found = page(shown)
    lines = pq.read_table(shown / "stop_gradient.parquet").to_pylist()
    for row in ("with", "without"):
        values = [line["knn_top1"] for line in lines if line["row"] == row]
        (cells,) = (each for each in found.cells if each[0].split()[:1] == [row] and len(each) > 6)
        half = 2.776445 * statistics.stdev(values) / math.sqrt(5)  # t of 4 degrees of freedom, 97.5 %
        assert cells[3] == f"{statistics.fmean(values):.1f} ± {half:.1f}"
        assert cells[1] == {"with": "67.7", "without": "0.1"}[row]
        assert cells[2] == "5"
    assert "5 of 5 seeds collapsed" in found.text


def test_links_lead_to_their_evidence_and_nothing_is_fetched(shown: Path) -> None:
    found = page(shown)
    assert len(found.ids) == len(set(found.ids))
    assert len(found.links) > 3
    assert all(link.startswith("#") and link[1:] in found.ids for link in found.links)
    assert all(each.startswith("data:") for each in found.fetched)


def test_every_chart_has_words_and_the_numbers_of_the_seeds(shown: Path) -> None:
    found = page(shown)
    assert len(found.charts) == len(found.labels) == 3  # rows, differences, curves; no spectrum was written
    assert all(found.labels)
    values = {point["value"] for data in _inline(found.charts[0]) for point in data if "seed" in point}
    assert values == {*ONE, 20.0, 22.0, 21.0, 19.0}


def _inline(specification: Any) -> list[Any]:
    """The data within a specification, at any depth."""
    if isinstance(specification, list):
        return [data for each in specification for data in _inline(each)]
    if not isinstance(specification, dict):
        return []
    own = [specification["data"]["values"]] if "values" in specification.get("data", ()) else []
    own += list(specification.get("datasets", {}).values())
    return own + [data for name, each in specification.items() if name != "data" for data in _inline(each)]


def test_names_with_markup_are_shown_and_do_nothing(tmp_path: Path) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    store, evil = Store.at(tmp_path), "</script><script>alert(1)</script><img src=x onerror=alert(1)>"
    (trial,) = plan(rows=["with"], seeds=[9])
    store.write_failure({**a_result(trial.config), "outcome": "failed", "message": evil, "knn_top1": None})
    store.rebuild([trial])
    content = build.page(evidence.read(store), store)
    assert evil in Page(content).text
    assert "<img src=x" not in content


def test_what_is_missing_is_said(tmp_path: Path) -> None:
    assert "There is no result here yet" in page(tmp_path / "nothing").text
    published(tmp_path, {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})
    (curve, *_) = (tmp_path / "curves").iterdir()
    curve.unlink()
    shutil.copy(tmp_path / "stop_gradient.parquet", tmp_path / "unheard_of.parquet")
    (tmp_path / "grid_dim.parquet").write_bytes(b"damaged")
    (tmp_path / "predictor.parquet").write_bytes(b"damaged")
    text = page(tmp_path).text
    assert "No curve is kept of 1 of 10 trainings." in text
    assert "unheard_of.parquet is of no table" in text
    assert "predictor.parquet is damaged" in text
    assert "grid_dim.parquet is damaged" in text


def test_one_seed_a_failed_row_and_an_infeasible_one(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    trials = plan("batch_size", rows=["128", "256", "4096"])
    store.write(a_result(trials[0].config, knn_top1=90.0, future_column=1), [])
    store.fail(trials[1].config, "out of luck")
    store.rebuild(trials)
    found = page(tmp_path)
    rows = {cells[0].split()[0]: cells for cells in found.cells if len(cells) > 6}
    assert rows["128"][3] == "90.0"  # no interval of one seed
    assert "failed" in rows["256"]
    assert "infeasible" in rows["4096"]
    assert [rows[name][2] for name in ("128", "256", "4096")] == ["1", "0", "0"]
    assert "256: out of luck" in found.text
    assert "4096: batch_size must be at most" in found.text
    claims = {cells[1]: cells[2] for cells in found.cells if len(cells) == 3}
    assert claims["batch_size: 4096 is worse than 256 by more than 1"] == "? 4096 infeasible"  # not of too few seeds


def test_lines_of_an_earlier_version_are_shown(tmp_path: Path) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    file = tmp_path / "stop_gradient.parquet"
    earlier = pq.read_table(file).drop_columns(["baseline", "price", "reference", "train_pictures"])
    pq.write_table(earlier.replace_schema_metadata(), file)
    assert "Stop-gradient" in page(tmp_path).text


def test_the_command_writes_the_page_and_a_run_does_so_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("SIMSIAM_REPORT")
    command = ["--table", "stop_gradient", "--launcher", "local", "--results", str(tmp_path), *tiny.OVERRIDES]
    assert run.main(command) == 0
    assert f"Page: {tmp_path}/report.html" in capsys.readouterr().out
    content = (tmp_path / "report.html").read_text()
    assert "An altered recipe" in content
    assert len(Page(content).charts) in (4, 5)  # rows, curves, spectrum; planes of a healthy and a collapsed row
    (tmp_path / "report.html").unlink()
    assert report.main(["--results", str(tmp_path)]) == 0
    assert (tmp_path / "report.html").exists()
    (tmp_path / "report.html").unlink()
    monkeypatch.setattr(report, "installed", lambda: False)
    assert run.main(command) == 0
    assert not (tmp_path / "report.html").exists()


def test_watch_writes_the_page_again_when_a_result_has_arrived(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    (later,) = plan("predictor", rows=["none"])
    looks = 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:  # at the first look nothing has changed
            Store.at(tmp_path).write(a_result(later.config), [])
            Store.at(tmp_path).rebuild([later])
        elif looks == 4:
            raise KeyboardInterrupt

    monkeypatch.setattr(report.time, "sleep", sleep)
    assert report.main(["--watch", "--results", str(tmp_path)]) == 130
    assert capsys.readouterr().out.count("report.html") == 2
    assert "Predictor" in (tmp_path / "report.html").read_text()


def test_figures_are_vector_files_named_by_table_and_quantity(
    shown: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert report.main(["--results", str(shown), "--figures", str(tmp_path)]) == 0
    names = {file.name for file in tmp_path.iterdir()}
    assert names == {
        f"digits_stop_gradient_{name}.{kind}" for name in ("rows", "differences", "curves") for kind in ("svg", "pdf")
    }
    assert (tmp_path / "digits_stop_gradient_rows.svg").read_text().startswith("<svg")
    assert (tmp_path / "digits_stop_gradient_rows.pdf").read_bytes().startswith(b"%PDF")
    capsys.readouterr()
    assert report.main(["--results", str(shown), "--figures", str(tmp_path), "--table", "predictor"]) == 2
    assert "has no results of table predictor" in capsys.readouterr().err


def test_curves_are_thinned_to_what_a_chart_can_show(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    (trial,) = plan(rows=["with"])
    store.write(a_result(trial.config), [{"epoch": i, "loss": -i / 1000} for i in range(1, 801)])
    store.rebuild([trial])
    ((shown_table,),) = (stage.tables for stage in evidence.read(store).stages)
    epochs = [line["epoch"] for line in charts._thinned(shown_table, "loss")]
    assert 80 <= len(epochs) <= 101
    assert (epochs[0], epochs[-1]) == (1, 800)


def test_the_panels_of_fig_2_have_the_same_epochs_where_not_all_are_evaluated(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    (trial,) = plan(rows=["with"])
    curve = [{"epoch": i, "loss": -0.5, "z_std": 1.0 if i % 5 == 0 else None} for i in range(1, 21)]
    store.write(a_result(trial.config), curve)
    store.rebuild([trial])
    ((shown_table,),) = (stage.tables for stage in evidence.read(store).stages)
    panels = charts.curves(shown_table).to_dict()["hconcat"]
    assert len(panels) == 2
    domains = [layer["encoding"]["x"]["scale"]["domain"] for panel in panels for layer in panel["layer"]]
    assert domains == [[1, 20]] * 4


def test_two_lengths_of_a_table_show_their_fidelity(tmp_path: Path) -> None:
    for name in ("predictor", "batch_norm"):
        shutil.copy(ROOT / "results" / "published" / "digits" / f"{name}.parquet", tmp_path)
    shown = evidence.read(Store.at(tmp_path))
    found = dict(evidence.fidelities(shown.stages))
    for name in ("predictor", "batch_norm"):
        (said,) = results.fidelity(name, root=tmp_path)
        assert found[f"{name}, digits"] == said
    page = Page(build.page(shown, Store.at(tmp_path)))
    each = found["predictor, digits"]
    numbers = [*map(str, (each.short, each.long, each.rows, each.seeds)), f"{each.tau:.2f}"]
    row = ["predictor, digits", *numbers, f"{each.low:.2f} to {each.high:.2f}", f"{each.halves:.2f}"]
    assert row in [[cell.strip() for cell in cells] for cells in page.cells]
    assert "fidelity" in page.ids
    assert len(page.charts) == len(page.labels)


def test_a_table_of_very_many_rows_is_not_drawn(tmp_path: Path) -> None:
    table = grid.of_recipe("g", {"base_lr": tuple(n / 100 for n in range(1, 51))})
    trials = planning.plan(table, recipe="digits", data="digits@0", train_images=1437, overrides={})
    store = Store.at(tmp_path)
    for trial in trials:
        store.write(a_result(trial.config), [])
    store.rebuild(trials)
    page = Page(build.page(evidence.read(store), store))
    assert "51 rows are too many to draw: the table has them." in page.text
    assert page.charts == []
    assert sum(cells[0].strip().startswith("base_lr=") for cells in page.cells) == 50
