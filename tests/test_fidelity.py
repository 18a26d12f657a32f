"""Whether a short table ranks as a long one: tau-b by counting pairs, and what is tied, drawn and refused."""

from __future__ import annotations

import itertools
import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from made import a_result, plan

from ablations import fidelity, results
from ablations.results import __main__ as results_main
from ablations.store import Store


def counted(one: list[float], other: list[float]) -> float:
    """tau-b as its definition has it: concordant less discordant pairs, over the pairs that are not tied."""
    pairs = list(itertools.combinations(range(len(one)), 2))
    signs = [[(x[i] > x[j]) - (x[i] < x[j]) for i, j in pairs] for x in (one, other)]
    difference = sum(a * b for a, b in zip(*signs, strict=True))
    untied = [sum(map(abs, each)) for each in signs]
    return difference / math.sqrt(untied[0] * untied[1]) if all(untied) else math.nan


@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=8))
def test_tau_is_counted_pairs(places: list[tuple[int, int]]) -> None:
    one, other = ([float(place[i]) for place in places] for i in range(2))
    found, expected = fidelity.tau(one, other), counted(one, other)
    assert math.isnan(found) == math.isnan(expected)
    assert math.isnan(found) or found == pytest.approx(expected)


def lines(values: dict[str, list[float]]) -> list[dict[str, Any]]:
    """Row -> kNN by seed; below 50 has collapsed."""
    return [
        {"row": row, "seed": seed, "knn_top1": value, "outcome": "finished" if value > 50 else "collapsed"}
        for row, seeds in values.items()
        for seed, value in enumerate(seeds)
    ]


LONG = {"a": [95.0, 96, 95, 96], "b": [90.0, 91, 90, 91], "c": [80.0, 81, 80, 81], "d": [20.0, 30, 20, 30]}


def test_a_table_that_ranks_alike_has_fidelity_1_and_one_that_is_reversed_less() -> None:
    short = {row: [value - 5 for value in seeds] for row, seeds in LONG.items()}
    alike = fidelity.between(lines(short), lines(LONG), (25, 100))
    assert alike == fidelity.Fidelity(25, 100, 4, 4, 1.0, 1.0, 1.0, 1.0)
    turned = fidelity.between(lines({**LONG, "a": LONG["c"], "c": LONG["a"]}), lines(LONG), (25, 100))
    assert turned is not None
    assert turned.tau == pytest.approx(0.0)  # of 6 pairs, the 3 with d and none of the others' 3 stay
    assert turned.halves == 1.0


def test_collapsed_rows_are_tied_whatever_their_numbers() -> None:
    collapsed = {"a": [90.0] * 3, "b": [20.0, 20, 20], "c": [40.0, 40, 40], "d": [80.0] * 3}
    turned = {**collapsed, "b": [40.0] * 3, "c": [20.0] * 3}
    found = fidelity.between(lines(collapsed), lines(turned), (25, 100))
    assert found is not None
    assert found.tau == pytest.approx(1.0)


@pytest.mark.parametrize("seeds", [2, 3])
def test_a_row_counts_as_collapsed_when_half_of_its_seeds_have(seeds: int) -> None:
    mixed = {"a": [90.0] * seeds, "b": [95.0, 20, 20][:seeds], "c": [80.0] * seeds}
    short = {"a": [90.0] * seeds, "b": [70.0] * seeds, "c": [80.0] * seeds}
    found = fidelity.between(lines(short), lines(mixed), (25, 100))
    assert found is not None
    assert found.tau == pytest.approx(1.0)


def test_the_interval_is_that_of_all_draws_of_the_seeds() -> None:
    """2,000 draws of three seeds, which there are 27 of, each as likely."""
    one = {"a": [90.0, 92, 97], "b": [91.0, 93, 91], "c": [92.0, 91, 93], "d": [94.0, 90, 92]}
    other = {"a": [96.0, 91, 90], "b": [92.0, 90, 93], "c": [90.0, 95, 94], "d": [91.0, 92, 97]}
    taus = []
    for drawn in itertools.product(range(3), repeat=3):
        means = [[sum(row[seed] for seed in drawn) for row in rows.values()] for rows in (one, other)]
        taus.append(counted(*means))
    taus.sort()
    found = fidelity.between(lines(one), lines(other), (25, 100))
    assert found is not None
    # Of 27 equally likely ones, 2.5 % end within the first, 97.5 % within the last.
    assert (found.low, found.high) == (pytest.approx(taus[0]), pytest.approx(taus[-1]))
    assert found.low < found.high


def test_noise_lowers_what_halves_reach() -> None:
    noisy = {row: [90 + i / 4 + (seed * 7 + i * 3) % 5 for seed in range(5)] for i, row in enumerate("abcde")}
    found = fidelity.between(lines(noisy), lines(noisy), (25, 100))
    assert found is not None
    assert found.tau == pytest.approx(1.0)
    assert found.halves < 0.9


@pytest.mark.parametrize("n", [4, 5])
def test_halves_are_all_splits_of_few_seeds(n: int) -> None:
    noisy = {row: [90 + i / 2 + (seed * 7 + i * 3) % 5 for seed in range(n)] for i, row in enumerate("abcde")}

    def mean(row: str, half: tuple[int, ...]) -> float:
        return sum(noisy[row][seed] for seed in half) / len(half)

    def split(half: tuple[int, ...]) -> float:
        rest = tuple(set(range(n)) - {*half})
        return counted([mean(row, half) for row in noisy], [mean(row, rest) for row in noisy])

    each = [split(half) for half in itertools.combinations(range(n), n // 2)]
    found = fidelity.between(lines(noisy), lines(noisy), (25, 100))
    assert found is not None
    assert found.halves == pytest.approx(sum(each) / len(each), abs=1e-12)


def test_of_very_many_splits_as_many_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    noisy = {row: [90 + i / 2 + (seed * 7 + i * 3) % 5 for seed in range(10)] for i, row in enumerate("abcde")}
    exact = fidelity.between(lines(noisy), lines(noisy), (25, 100))
    monkeypatch.setattr(fidelity, "_SPLITS", 200)  # there are 252
    drawn = fidelity.between(lines(noisy), lines(noisy), (25, 100))
    assert exact is not None
    assert drawn is not None
    assert exact.halves != drawn.halves
    assert drawn.halves == pytest.approx(exact.halves, abs=0.05)


def test_of_two_seeds_there_is_no_interval() -> None:
    two = {row: seeds[:2] for row, seeds in LONG.items()}
    found = fidelity.between(lines(two), lines(two), (25, 100))
    assert found is not None
    assert (found.tau, found.halves) == (1.0, 1.0)
    assert math.isnan(found.low)
    assert math.isnan(found.high)


def test_what_is_too_little_is_none() -> None:
    two = {"a": [90.0], "b": [80.0]}
    assert fidelity.between(lines(two), lines(two), (25, 100)) is None
    assert fidelity.between([], lines(LONG), (25, 100)) is None


def test_the_command_finds_the_lengths(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.at(tmp_path)
    for overrides in ({}, {"epochs": 25}):
        trials = plan("predictor", seeds=range(3), overrides=overrides)
        for trial in trials:
            knn = {"baseline": 95.0, "none": 30.0, "frozen": 80.0, "constant_lr": 96.0}[trial.row.name]
            store.write(a_result(trial.config, knn_top1=knn + trial.config.seed), [])
        store.rebuild(trials)
    assert results_main.main(["fidelity", "predictor", "--results", str(tmp_path)]) == 0
    told = capsys.readouterr().out.splitlines()
    assert [cell.strip() for cell in told[2].split("|")[1:-1]] == [
        "25",
        "100",
        "4",
        "3",
        "1.00",
        "1.00 to 1.00",
        "1.00",
    ]
    (found,) = results.fidelity("predictor", root=tmp_path)
    assert (found.short, found.long) == (25, 100)
    assert results_main.main(["fidelity", "predictor", "--overrides", "dim=64", "--results", str(tmp_path)]) == 2
    assert "needs two lengths" in capsys.readouterr().err
