"""Two runs of the same tables: Welch's interval against scipy's, and what is said of rows and claims."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from made import ONE, OTHER, a_result, plan, published
from scipy import stats

from ablations import agreement, printed, results
from ablations.agreement import AGREE, CONTRARY, DIFFER, OPEN, SAME
from ablations.results import __main__ as results_main
from ablations.store import Store
from ablations.verdict import UNDECIDED


def lines(values: list[float | None], first_seed: int = 0, **changes: Any) -> list[dict[str, Any]]:
    """Of one row: kNN by seed; None is a collapsed seed's with no number."""
    return [
        {
            **{"table": "stop_gradient", "row": "with", "seed": seed, "fingerprint": f"{seed}", "test_images": 360},
            **{"outcome": "finished", "loss": -0.9, "linear_top1": 95.0, "knn_top1": value},
            **changes,
        }
        for seed, value in enumerate(values, first_seed)
    ]


@pytest.mark.parametrize("alpha", [0.05, 0.001])
def test_welch_is_scipys(alpha: float) -> None:
    found = agreement.welch(ONE, OTHER, alpha)
    theirs = stats.ttest_ind(ONE, OTHER, equal_var=False).confidence_interval(1 - alpha)
    assert found is not None
    assert (found.low, found.high) == pytest.approx((theirs.low, theirs.high))


def test_welch_keeps_its_error_rate() -> None:
    """Of runs that are alike, seeds shared or not, at most as many differ as the level says."""
    generator = np.random.default_rng(0)
    for shared in (0.0, 0.7):
        missed = 0
        for _ in range(400):
            common = generator.normal(size=5) * shared
            pair = [(common + generator.normal(size=5)).tolist() for _ in range(2)]
            found = agreement.welch(*pair, 0.1)
            assert found is not None
            missed += not found.low <= 0 <= found.high
        assert missed <= 60  # 40 are expected


@pytest.mark.parametrize(
    ("one", "other", "says"),
    [
        (lines(list(ONE)), lines(list(ONE), 5), AGREE),
        (lines(list(ONE)), lines([value - 20 for value in ONE], 5), DIFFER),
        (lines([90.0] * 5), lines([90.2] * 5, 5), AGREE),  # less than one test picture, by seeds that agree by chance
        (lines([90.0]), lines([91.0], 5), UNDECIDED),
        (lines([90.0]), lines([20.0], 5, outcome="collapsed"), UNDECIDED),
        (lines([90.0] * 2), lines([90.0] * 2, 5, outcome="collapsed"), UNDECIDED),  # by chance in one of three
        (lines([90.0] * 10), lines([90.0] * 9, 10, outcome="collapsed") + lines([90.0], 19), DIFFER),
        (lines(list(ONE)), lines(ONE[:2], 5) + lines([None] * 8, 7, outcome="diverged"), DIFFER),
        (lines(list(ONE)), lines(ONE[:4], 5) + lines([None], 9, outcome="diverged"), UNDECIDED),
        (lines(list(ONE)), lines(ONE[:1], 5) + lines(ONE[1:], 6, outcome="collapsed"), AGREE),  # Fisher's p is 0.048
        (lines(list(ONE)), lines([None] * 5, outcome="failed"), UNDECIDED),
        (lines([20.0] * 5, outcome="collapsed"), lines([None] * 5, 5, outcome="failed"), UNDECIDED),
        (lines([None] * 5, outcome="failed"), lines([None] * 5, outcome="failed"), UNDECIDED),
        (lines([None] * 5), lines([None] * 5, 5), UNDECIDED),  # detectors
        (lines(list(ONE)), lines([None] * 5, outcome="infeasible"), DIFFER),
        (lines(list(ONE)), lines(list(ONE), 5, outcome="collapsed"), DIFFER),
        (lines([None] * 5, outcome="diverged"), lines([None] * 5, 5, outcome="diverged"), AGREE),
        (lines([None] * 5, outcome="infeasible"), lines([None] * 5, 5, outcome="infeasible"), AGREE),
    ],
)
def test_a_row_agrees_or_differs(one: list[dict[str, Any]], other: list[dict[str, Any]], says: str) -> None:
    (row,) = agreement.rows(one, other)
    assert row.says == says
    assert row.shared == 0


@pytest.mark.parametrize(("n", "other"), [(5, 5), (3, 10), (2, 10), (1, 5), (3, 3)])
@pytest.mark.parametrize("same_seeds", [False, True])
@pytest.mark.parametrize("chance", [0.0, 0.5])  # of a collapse, by which a seed loses much
def test_of_runs_that_are_alike_few_differ(n: int, other: int, same_seeds: bool, chance: float) -> None:
    generator, differ, times = np.random.default_rng(0), 0, 100
    for _ in range(times):
        common = generator.normal(size=(4, max(n, other)))
        both = []
        for count, first in ((n, 0), (other, 0 if same_seeds else 10)):
            values = 90 + common[:, :count] * same_seeds + generator.normal(size=(4, count))
            fell = generator.random((4, count)) < chance
            values -= 30 * fell
            run = []
            for i, row in enumerate(values):
                its = lines(row.tolist(), first)
                run += [
                    line | {"row": str(i), "outcome": "collapsed" if down else "finished"}
                    for line, down in zip(its, fell[i], strict=True)
                ]
            both.append(run)
        differ += any(row.says == DIFFER for row in agreement.rows(*both))
    assert differ / times <= 0.05 + 3 * (0.05 * 0.95 / times) ** 0.5


@pytest.mark.parametrize("count", [1, 4, 8])
def test_rows_that_all_end_otherwise_are_told_however_many(count: int) -> None:
    one = [line | {"row": str(i)} for i in range(count) for line in lines(list(ONE))]
    other = [line | {"row": str(i)} for i in range(count) for line in lines(list(ONE), 5, outcome="collapsed")]
    assert {row.says for row in agreement.rows(one, other)} == {DIFFER}


def test_pairs_of_the_same_seeds_show_a_small_difference() -> None:
    """Seeds differ by far more than the two runs do in each of them."""
    of_seeds = np.linspace(80, 95, 5)
    small = np.array([1.0, 1.2, 0.9, 1.1, 1.0])
    (row,) = agreement.rows(lines(of_seeds.tolist()), lines((of_seeds + small).tolist()))
    assert row.says == DIFFER
    assert row.difference is not None
    mean, theirs = -1.04, stats.ttest_1samp(-small, 0).confidence_interval(0.975)
    step = 100 / 360  # the seeds' deviation is less than a picture of the test set
    assert row.difference.mean == pytest.approx(mean)
    assert row.difference.half == pytest.approx(stats.t.ppf(1 - 0.0125, 4) * step / 5**0.5)
    assert row.difference.half > theirs.high - mean


def test_a_diverged_result_that_is_in_both_is_counted() -> None:
    one = lines([float("nan")] * 3, outcome="diverged", loss=float("nan"))
    (row,) = agreement.rows(
        one, [dict(line) for line in lines([float("nan")] * 3, outcome="diverged", loss=float("nan"))]
    )
    assert row.shared == 3


def test_what_the_runs_were_made_of_is_named_where_it_differs() -> None:
    made = {"data": "digits@0", "torch": "2.15.0", "sources": "aa", "device": "AMD EPYC", "encoder_from": None}
    one = lines(list(ONE), **made)
    other = [*lines(list(ONE), 5, **made | {"torch": "2.11.0"}), *lines(list(ONE), 10, **made)]
    (alike,) = agreement.rows(one, one)
    (row,) = agreement.rows(one, other)
    assert (alike.apart, row.apart) == ({}, {"torch": ("2.15.0", "2.11.0, 2.15.0")})
    told = printed.agreement([row, alike], [])
    assert "Not alike in both: torch 2.15.0 and 2.11.0, 2.15.0 (1 row)." in told
    assert "Not alike" not in printed.agreement([alike], [])


def test_rows_share_the_error_rate_and_name_what_is_the_same_training() -> None:
    one = [{**line, "row": row} for row in ("with", "without") for line in lines(list(ONE))]
    both = agreement.rows(one, one)
    assert [row.shared for row in both] == [5, 5]
    (alone,) = agreement.rows(one[:5], one[:5])
    assert both[0].difference is not None
    assert alone.difference is not None
    assert both[0].difference.half > alone.difference.half


def test_what_is_printed_counts_trainings_and_says_what_holds_together() -> None:
    one = [{**line, "table": table} for table in ("stop_gradient", "predictor") for line in lines(list(ONE))]
    alone = [{**line, "row": "alone|b", "fingerprint": f"alone{line['seed']}"} for line in lines(list(ONE))]
    told = printed.agreement(agreement.rows(one + alone, one + alone), [])
    assert "3 rows: 3 agree." in told
    assert (
        "One training a seed, since their settings come to the same here: stop_gradient: with, predictor: with." in told
    )
    assert "Each mean is at 95 % by itself." in told
    assert r"| stop_gradient: alone\|b |" in told
    assert "One training" not in printed.agreement(agreement.rows(alone, alone), [])
    others = [{**line, "fingerprint": line["table"] + line["fingerprint"]} for line in one]
    assert "One training" in printed.agreement(agreement.rows(others, one), [])  # in one of both


def test_the_command_compares_folders(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = published(tmp_path / "one", {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]})
    again = published(tmp_path / "again", {"with": list(OTHER), "without": [21.0, 20, 19, 22, 20]}, first_seed=5)
    assert results_main.main(["compare", str(one), str(again)]) == 0
    told = capsys.readouterr().out
    assert "2 rows: 2 agree." in told
    assert "3 claims: 3 same." in told
    assert results_main.main(["compare", str(one), str(one)]) == 0
    assert "10 of their results are in both" in capsys.readouterr().out
    other = published(tmp_path / "other", {"with": list(OTHER), "without": [90.0, 92, 91, 93, 89]})
    assert results_main.main(["compare", str(one), str(other)]) == 1
    assert "2 rows: 1 agree, 1 differ." in capsys.readouterr().out
    rows, claims = results.agreement(one, other)
    assert [row.says for row in rows] == [AGREE, DIFFER]
    assert [row.shared for row in rows] == [0, 0]  # the same trainings, with other numbers
    assert [claim.says for claim in claims] == [SAME, CONTRARY, CONTRARY]
    mixed = published(tmp_path / "mixed", {"with": list(OTHER), "without": [90.0, 92, 20, 21, 22]})
    assert OPEN in [claim.says for claim in results.agreement(one, mixed)[1]]


def test_a_claim_that_they_contradict_each_other_on_is_found_where_all_rows_agree(tmp_path: Path) -> None:
    """Seeds differ by far more than the rows do, which is paired by seed."""
    one, other = [80.0, 90.0, 95.0, 85.0, 92.0], [82.0, 91.0, 94.0, 86.0, 90.0]
    near = [0.1, -0.1, 0.0, 0.05, -0.05]
    places = [
        published(tmp_path / name, {"with": its, "without": [a - by + b for a, b in zip(its, near, strict=True)]}, seed)
        for name, its, by, seed in (("one", one, 11, 0), ("other", other, 9, 5))
    ]
    rows, claims = results.agreement(*places)
    assert [row.says for row in rows] == [AGREE, AGREE]
    assert [claim.says for claim in claims].count(CONTRARY) == 1
    assert results_main.main(["compare", *map(str, places)]) == 1


def test_claims_on_rows_that_one_run_lacks_are_not_said_to_be_the_same(tmp_path: Path) -> None:
    with_both = {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]}
    one, other = published(tmp_path / "one", with_both), published(tmp_path / "other", with_both)
    for place in (one, other):
        file = place / "stop_gradient.parquet"
        table = pq.read_table(file)
        pq.write_table(table.filter(pc.equal(table["row"], "with")), file)
    assert [str(each.one.claim) for each in results.agreement(one, other)[1]] == ["with does not collapse"]


def test_two_recipes_or_settings_are_set_beside_each_other(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = Store.at(published(tmp_path, {"with": list(ONE), "without": [20.0, 22, 21, 19, 20]}))
    for changes in (
        {"recipe": "cifar10", "data": "cifar10@2"},
        {"overrides": {"epochs": 25}},
        {"data": "images@1"},
    ):
        trials = plan(seeds=range(3), **{"train_images": 50_000, **changes})
        for trial in trials:
            store.write(a_result(trial.config, knn_top1=50.0 + trial.config.seed, knn_top1_init=40.0), [])
        store.rebuild(trials)
    command = ["compare", str(tmp_path), str(tmp_path), "--data", "digits@0"]
    assert results_main.main([*command, "--other-overrides", "epochs=25"]) == 1
    assert "Not alike in both: overrides none and epochs=25 (2 rows)." in capsys.readouterr().out
    assert results_main.main([*command, "--other-recipe", "cifar10"]) == 1
    assert "recipe digits and cifar10 (2 rows); data digits@0 and cifar10@2 (2 rows)" in capsys.readouterr().out
    assert results_main.main([*command, "--other-data", "images@1"]) == 1
    assert "Not alike in both: data digits@0 and images@1 (2 rows)" in capsys.readouterr().out


def test_the_command_says_what_cannot_be_compared(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = published(tmp_path / "one", {"with": list(ONE), "without": list(ONE)})
    assert results_main.main(["compare", str(one), str(tmp_path / "none")]) == 2
    assert "has no results of recipe digits" in capsys.readouterr().err
