"""What a folder lacks is said: on the page, beside words and figures for a paper, and of a folder that is not there."""

from __future__ import annotations

import datetime
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from made import ONE, OTHER, a_result, plan, published
from test_page import page

from ablations import columns, printed, report
from ablations.page import evidence, paper
from ablations.store import Store
from ablations.table import UserError

Lines = list[dict[str, Any]]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return published(tmp_path / "results", {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})


def change(place: Path, by: Callable[[Lines], Lines]) -> None:
    """Write the lines of stop_gradient again, changed."""
    file = place / "stop_gradient.parquet"
    lines = by(pq.read_table(file).to_pylist())
    file.write_bytes(columns.encoded(columns.COLUMNS, lines))


def older(line: dict[str, Any]) -> dict[str, Any]:
    """The line as a recipe has made it that is another by now."""
    return {**line, "fingerprint": "f" * 20}


def told(capsys: pytest.CaptureFixture[str], place: Path, *arguments: str, code: int = 0) -> tuple[str, list[str]]:
    """What report.py says of a folder, and its lines of standard error."""
    assert report.main(["--results", str(place), *arguments]) == code
    out, err = capsys.readouterr()
    return out, err.splitlines()


def rows(place: Path) -> dict[str, list[str]]:
    """Row -> its cells on the page."""
    return {cells[0].split()[0]: [cell.strip() for cell in cells] for cells in page(place).cells if len(cells) > 6}


@pytest.mark.parametrize("kind", [*report.FORMATS, "figures"])
def test_words_and_figures_say_what_they_lack_once_each(
    kind: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(place, lambda lines: [older(line) if line["seed"] == 4 else line for line in lines])
    (place / "predictor.parquet").write_bytes((place / "stop_gradient.parquet").read_bytes()[:2000])
    shutil.copy(place / "stop_gradient.parquet", place / "unheard_of.parquet")
    asked = ["--figures", str(tmp_path / "figures")] if kind == "figures" else ["--format", kind]
    _, said = told(capsys, place, *asked)
    assert len(said) == 3
    assert f"{place}/predictor.parquet is damaged" in said[0]
    assert said[1] == "unheard_of.parquet is of no table that this version knows."
    assert said[2].startswith("digits, stop_gradient: 2 lines of stop_gradient left out: ")
    _, said = told(capsys, place, *asked, "--table", "stop_gradient")
    assert len(said) == 1


def test_a_whole_folder_has_nothing_to_be_said(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, place, "--format", "csv")[1] == []


def test_a_damaged_table_that_is_asked_for_is_told_so(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in ("predictor", "grid_dim"):  # the second is known by its file alone
        (place / f"{name}.parquet").write_bytes(b"damaged")
        out, said = told(capsys, place, "--format", "csv", "--table", name, code=2)
        assert out == ""
        assert f"{name}.parquet is damaged" in said[0]
    _, said = told(capsys, place, "--format", "csv", "--table", "similarity", code=2)
    assert said == [f"error: {place} has no results of table similarity."]


def test_a_table_of_older_lines_alone_is_not_forgotten(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change(place, lambda lines: [older(line) for line in lines])
    text = page(place).text
    assert "There is no result here that can be shown" in text
    assert "digits (digits@0): 10 lines of stop_gradient left out" in text
    out, said = told(capsys, place, "--figures", str(tmp_path / "figures"), code=2)
    assert out == ""
    assert "10 lines of stop_gradient left out" in said[0]
    assert said[1].endswith("has no results that can be shown: see above.")
    assert not (tmp_path / "figures").exists()
    others = plan("predictor", rows=["none"])
    Store.at(place).write(a_result(others[0].config), [])
    Store.at(place).rebuild(others)
    assert "10 lines of stop_gradient left out" in page(place).text


def test_a_file_of_something_else_is_a_note_and_no_table(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pd.DataFrame({"a": [1, 2]}).to_parquet(place / "batch_size.parquet")
    said = f"{place}/batch_size.parquet is no table of results: it lacks table, row, seed, recipe, "
    found = page(place).text
    assert said in found
    assert "Stop-gradient" in found
    assert told(capsys, place, "--format", "csv")[1][0].startswith(said)
    with pytest.raises(UserError, match="it lacks table, row"):
        Store.at(place).table("batch_size", ["epochs"])
    with pytest.raises(UserError, match="it lacks table, row"):
        Store.at(place).rebuild(plan("batch_size", rows=["4096"]))
    file = place / "stop_gradient.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["outcome"]), file)
    with pytest.raises(UserError, match=r"it lacks outcome\. Move it away"):
        Store.at(place).table("stop_gradient")


def test_seeds_are_those_that_have_run_and_those_without_a_number_are_told(
    place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {("with", 0): "failed", ("with", 1): "failed", ("without", 4): "diverged"}

    def some_fail(lines: Lines) -> Lines:
        lost = [{**each, "outcome": end} for each in lines if (end := ends.get((each["row"], each["seed"])))]
        kept = [each for each in lines if (each["row"], each["seed"]) not in ends]
        return [*({**each, "knn_top1": None, "linear_top1": None} for each in lost), *kept]

    change(place, some_fail)
    said = "Seeds without a number, in no mean: with 2 of 5, without 1 of 5."
    found = rows(place)
    assert (found["with"][2], found["without"][2]) == ("3", "5")
    assert said in page(place).text
    out, err = told(capsys, place, "--format", "csv")
    assert [line.split(",")[7] for line in out.splitlines()[1:3]] == ["3", "5"]
    assert err == [f"digits, stop_gradient: {said}"]
    for kind, cell in (("markdown", "| with | 67.7 | 3 |"), ("latex", "with & 67.7 & 3 &")):
        out, _ = told(capsys, place, "--format", kind)
        assert cell in out
        assert said in out
        assert "Rows have 3 to 5 seeds; we give means" in out


def test_a_row_that_never_ran_has_no_seeds(place: Path) -> None:
    change(
        place,
        lambda lines: [
            {**each, "outcome": "infeasible", "knn_top1": None} if each["row"] == "without" else each for each in lines
        ],
    )
    assert rows(place)["without"][2] == "0"
    (stage,) = evidence.read(Store.at(place)).stages
    said = "Rows have 5 seeds, some none, since those failed or could not start; we give means"
    assert said in paper.methods(stage)


def test_the_spectrum_is_of_the_first_seed_that_has_run(place: Path) -> None:
    change(
        place,
        lambda lines: [
            {**each, "outcome": "failed"} if each["seed"] == 0 else {**each, "z_singular_values": [1.0, 0.5]}
            for each in lines
        ],
    )
    assert any(label.startswith("Singular values") for label in page(place).labels)


@pytest.mark.parametrize(
    ("prices", "text"),
    [
        ([0.5, 0.25], "0.75"),
        ([1.234e-4], "0.00012"),
        ([None, 12], "12.00 (1 of 2)"),
        ([0.05, None, 0.05, None, float("nan")], "0.10 (2 of 5)"),
        ([None, None], "-"),
        ([], "-"),
    ],
)
def test_a_price_of_some_seeds_is_not_that_of_all(prices: list[float | None], text: str) -> None:
    assert printed.price(prices) == text


def test_a_seed_counts_once_and_its_last_line(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def mean() -> tuple[str, str]:
        cells = rows(place)["with"]
        return cells[2], cells[3]

    change(place, lambda lines: [*({**each, "knn_top1": 1.0} for each in lines), *lines])
    last = mean()
    _, err = told(capsys, place, "--format", "csv")
    assert err == ["digits, stop_gradient: 10 lines left out: of several of a row and seed, the last counts."]
    assert err[0].partition(": ")[2] in page(place).text
    change(place, lambda lines: lines[10:])
    assert last == mean()
    assert last[0] == "5"


def test_a_folder_that_is_not_there_is_refused_and_not_made(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    typo, figures = tmp_path / "typo", tmp_path / "figures"
    for asked in ([], ["--format", "csv"], ["--figures", str(figures)]):
        _, said = told(capsys, typo, *asked, code=2)
        assert said == [f"error: The results folder {typo} does not exist. Give with --results the one of run.py."]
    with pytest.raises(UserError, match="does not exist"):
        report.write(Store.at(typo))
    assert list(tmp_path.iterdir()) == []


def test_watch_waits_for_a_folder_and_ends_when_it_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    place, looks = tmp_path / "results", 0

    def sleep(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == 2:
            assert not place.exists()
            published(place, {"with": list(ONE), "without": list(OTHER)})
        elif looks == 4:
            shutil.rmtree(place)

    monkeypatch.setattr(report.time, "sleep", sleep)
    out, said = told(capsys, place, "--watch", code=1)
    assert out.splitlines() == [f"{place}/report.html"]
    assert said[0] == f"Waiting for {place}, which is not there yet."
    assert said[1:] == [f"error: {place} was removed meanwhile: there is nothing left to watch."]
    assert looks == 4
    assert not place.exists()


@pytest.mark.parametrize("besides", [["--format", "csv"], ["--figures", "figures"]])
def test_watch_is_of_the_page_alone(besides: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        report.main(["--results", str(place), "--watch", *besides])
    assert end.value.code == 2
    assert "not allowed with argument --watch" in capsys.readouterr().err


@pytest.mark.parametrize("besides", [[], ["--watch"]])
def test_the_page_is_of_all_tables(besides: list[str], place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    _, said = told(capsys, place, "--table", "stop_gradient", *besides, code=2)
    assert said == ["error: --table is of --format and --figures: the page has all tables. Leave it out."]
    assert not (place / "report.html").exists()


def test_words_of_one_thing_are_in_the_singular(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan(rows=["with"], overrides={"epochs": 1})
    when = datetime.datetime(2026, 11, 29, tzinfo=datetime.UTC)
    store.write(a_result(trials[0].config, wall_seconds=1.0, device_seconds=1.0, ended=when), [])
    store.rebuild(trials)
    text = page(tmp_path).text
    assert ", 1 epoch, in" in text
    assert re.search(r"over 1 training\b", text)
    assert "2026-11-29 to" not in text


@pytest.mark.parametrize(
    ("text", "escaped"),
    [
        ("*star* <script> a|b", r"\*star\* \<script> a|b"),
        ("_x_ `y` ~z~ [a](b) $c$ \\d", r"\_x\_ \`y\` \~z\~ \[a](b) \$c\$ \\d"),
        ("predictor_lr=cosine", "predictor_lr=cosine"),  # within a word it is none
        ("__init__ AT&T &amp; R&D", r"\_\_init\_\_ AT&T \&amp; R&D"),
    ],
)
def test_markdown_shows_what_is_markup(text: str, escaped: str) -> None:
    assert paper._plain(text) == escaped


def test_names_with_markup_are_escaped_in_every_part_of_markdown(place: Path) -> None:
    change(place, lambda lines: [{**each, "device": "A *fast* <b>|GPU|"} for each in lines])
    assert r"on A \*fast\* \<b>|GPU|." in report.words(Store.at(place), "markdown")
