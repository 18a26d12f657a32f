"""What a person reads."""

from __future__ import annotations

import itertools
import math
import sys
from typing import Any

import pytest

from ablations import board, catalogue, planning, printed, progress, provenance, verdict

_NUMBERS = itertools.count()


def line(row: str, **values: Any) -> dict[str, Any]:
    empty = dict.fromkeys(
        ("linear_top1", "knn_top1", "knn_top1_init", "z_std", "effective_rank", "wall_seconds", "message")
    )
    usual = {"outcome": "finished", "knn_top1_pixels": None, "sources": provenance.sources(), "method": "simsiam"}
    usual |= {"recipe": "digits", "data": "images@0", "overrides": "epochs=4"}
    return {"row": row, "fingerprint": f"{next(_NUMBERS)}", **usual, **empty, **values}


def test_a_table_reads_like_the_papers() -> None:
    lines = [
        line("with", linear_top1=90.0, wall_seconds=60.0, knn_top1_pixels=97.78),
        line("with", linear_top1=92.0, wall_seconds=62.0, knn_top1_pixels=97.78, sources="older"),
        line("without", outcome="collapsed", linear_top1=10.0, wall_seconds=3700.0),
        line("without", outcome="failed", message="it broke", linear_top1=math.nan),
    ]
    text = printed.results(catalogue.get("stop_gradient"), lines)
    rows = {
        cells[1]: cells[2:-1]
        for cells in ([c.strip() for c in row.split("|")] for row in text.split("\n"))
        if cells[1:]
    }
    assert rows["row"] == ["paper", "kNN", "linear", "untrained", "z_std", "rank", "outcome", "time"]
    assert rows["with"] == ["67.7", "-", "91.0 ± 1.4", "-", "-", "-", "finished, 1 stale", "1:01"]
    assert rows["without"] == ["0.1", "-", "10.0", "-", "-", "-", "1 collapsed, 1 failed", "1:01:40"]
    assert "without: it broke" in text
    assert "Recipe digits, data images@0, --set epochs=4. These are not the digits." in text
    assert "kNN on the raw pixels: 97.8 %." in text


def test_rows_that_are_one_training_are_named_and_a_busy_machine_is_seen() -> None:
    same = {"fingerprint": "a", "knn_top1": 95.0}
    lines = [line("all", **same, wall_seconds=60.0), line("no_flip", **same), line("no_crop", wall_seconds=60.0)]
    lines += [line("no_crop", wall_seconds=seconds) for seconds in (61.0, 200.0)]
    text = printed.results(catalogue.get("augmentation"), lines)
    assert "One training a seed, since their settings come to the same here: all, no_flip." in text
    assert [row.split("|")[-2].strip() for row in text.splitlines() if "no_crop" in row] == ["1:01 (1:00 to 3:20)"]
    assert "One training" not in printed.results(catalogue.get("augmentation"), lines[1:])
    fewer = [{**each, "fingerprint": "b"} for each in (line("all"), line("no_flip"))]
    of_all = [line(row, **same) for row in ("all", "no_blur", "no_flip")]
    assert printed.same_trainings([*of_all, *fewer]) == [
        "One training a seed, since their settings come to the same here: all, no_blur, no_flip."
    ]


def test_a_published_number_stands_beside_the_papers_where_there_is_one() -> None:
    told = {"reference": 90.4, "reference_of": "kNN, best epoch", "reference_source": "somebody"}
    text = printed.results(catalogue.get("stop_gradient"), [line("with", **told), line("without")])
    rows = [[cell.strip() for cell in each.split("|")[1:4]] for each in text.split("\n") if each.startswith("| ")]
    assert rows == [["row", "paper", "reference"], ["with", "67.7", "90.4"], ["without", "0.1", "-"]]
    assert "Reference: somebody; kNN, best epoch." in text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.7, "1:00"), (725, "12:05"), (11525, "3:12:05")])
def test_durations(seconds: float, text: str) -> None:
    assert board.duration(seconds) == text


def a_trial() -> Any:
    return planning.plan(
        catalogue.get("stop_gradient"), recipe="digits", data="digits@0", train_images=1437, overrides={"epochs": 4}
    )[0]


def test_progress_is_plain_lines_where_there_is_no_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = [1000.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: clock[0])
    trial = a_trial()
    with progress.Progress([trial]) as view:
        view.start(trial.fingerprint)
        for epoch in (1, 2, 3):
            clock[0] += 10
            view.epoch(trial.fingerprint, {"epoch": epoch, "loss": -0.5, "z_std": 0.9, "knn_top1": 80.0})
        view.finish(trial.fingerprint, {"outcome": "finished", "wall_seconds": 40.0, "message": None})
    assert capsys.readouterr().out.splitlines() == [
        "stop_gradient/with seed 0: starting",
        "stop_gradient/with seed 0: epoch 2/4, loss -0.500, z_std 0.90, kNN 80.0 %, 0:20 left",
        "stop_gradient/with seed 0: finished in 0:40 (1 of 1 done)",
    ]


def test_progress_is_a_live_table_in_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    trial = a_trial()
    with progress.Progress([trial]) as view:
        view.epoch(trial.fingerprint, {"epoch": 3, "loss": -0.5, "z_std": 0.9, "knn_top1": 80.0})
    shown = capsys.readouterr().out
    for word in ("trial", "left", "stop_gradient/with seed 0", "running", "3/4", "-0.500", "80.0"):
        assert word in shown


def test_the_baseline_is_marked_and_the_price_told() -> None:
    lines = [line("with", baseline=True, price=0.25), line("with", baseline=True, price=0.5), line("without", price=1)]
    text = printed.results(catalogue.get("stop_gradient"), lines)
    rows = [[cell.strip() for cell in each.split("|")] for each in text.split("\n") if each.startswith("| ")]
    assert [(cells[1], cells[-2]) for cells in rows] == [("row", "price"), ("with *", "0.75"), ("without", "1.00")]
    assert "* is the row that the others change" in text


@pytest.mark.parametrize(
    ("prices", "text"), [([0.5, 0.25], "0.75"), ([None, 12], "12.00 (1 of 2)"), ([1.234e-4], "0.00012"), ([], "-")]
)
def test_prices_have_two_digits_that_count(prices: list[float | None], text: str) -> None:
    assert printed.price(prices) == text


def test_claims_say_what_their_intervals_are_and_whose_they_are() -> None:
    table = catalogue.get("stop_gradient")
    lines = [
        line(row, seed=seed, fingerprint=f"{row}{seed}", knn_top1=value + seed, knn_top1_init=20.0)
        for row, value in (("with", 90.0), ("without", 20.0))
        for seed in range(3)
    ]
    several = [(table, each) for each in verdict.judge(table.claims, lines)]
    assert "hold together at 95 %" in printed.claims(several)
    assert "at level 1 - 0.05/m for a table of m claims, divided" in printed.claims(several)
    looked = [(table, each) for each in verdict.judge(table.claims, [each | {"looks": 4} for each in lines])]
    assert (
        "at level 1 - 0.05/km for a table of m claims and k looks at them (stop_gradient 4), divided"
        in printed.claims(looked)
    )
    assert "altered" not in printed.claims(several)
    one = [(table, each) for each in verdict.judge(table.claims, [each for each in lines if not each["seed"]])]
    text = printed.claims(one, overrides="epochs=3")
    assert "The recipe is altered (--set epochs=3)" in text
    assert "One seed decides only what collapses or diverges" in text


def test_wide_letters_and_accents_stay_in_their_columns() -> None:
    accent, kana = "e" + chr(0x301), "か" + chr(0x3099)
    lines = printed.aligned([("row", "n"), ("分離", "1"), (accent, "2"), ("é|", "3"), (kana, "4")]).split("\n")
    assert lines[2:] == ["| 分離 | 1 |", f"| {accent}    | 2 |", r"| é\|  | 3 |", f"| {kana}   | 4 |"]
