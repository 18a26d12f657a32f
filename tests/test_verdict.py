"""Statistics against known answers: intervals against scipy's own, verdicts against simulated seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from scipy import stats

from ablations import verdict
from ablations.table import COLLAPSES, DOES_NOT_COLLAPSE, ORDERING, UNSTABLE, WITHIN, WORSE, Claim
from ablations.verdict import CONTRADICTED, REPRODUCED, UNDECIDED, Verdict

DRAWS = 2000


def lines(**rows: Any) -> list[dict[str, Any]]:
    """Lines of a table: row -> the metric of each seed."""
    return [line(row, seed, knn_top1=value) for row, values in rows.items() for seed, value in enumerate(values)]


def line(row: str, seed: int, **values: Any) -> dict[str, Any]:
    usual = {"outcome": "finished", "knn_top1": 90.0, "knn_top1_init": 20.0, "loss_roughness": 0.01}
    usual |= {"fingerprint": f"{row} {seed}", "test_images": 10**6}
    return {"row": row, "seed": seed, **usual, **values}


def judge(claim: Claim, of: list[dict[str, Any]], **asked: Any) -> Verdict:
    return verdict.judge([claim], of, **asked)[0]


@pytest.mark.parametrize("alpha", [0.05, 0.01])
def test_the_interval_is_scipys(alpha: float) -> None:
    values = [93.1, 95.2, 94.7, 96.0, 94.1]
    mine = verdict.interval(values, alpha)
    theirs = stats.ttest_1samp(values, 0.0).confidence_interval(1 - alpha)
    assert (mine.low, mine.high, mine.n) == (pytest.approx(theirs.low), pytest.approx(theirs.high), 5)


def test_three_seeds_have_a_half_width_of_two_and_a_half_deviations() -> None:
    assert verdict.interval([-1.0, 0.0, 1.0]).half == pytest.approx(2.484, abs=1e-3)


def test_differences_are_paired_by_seed() -> None:
    # The rows overlap widely, and each seed says the same.
    better, worse = [90.0, 60.0, 75.0, 82.0], [87.0, 57.1, 72.0, 78.9]
    found = judge(Claim(WORSE, ("b", "a"), "", margin=2.0), lines(a=better, b=worse))
    paired = stats.ttest_rel(better, worse).confidence_interval(0.95)
    assert found.verdict == REPRODUCED
    assert found.shows == pytest.approx((paired.high - paired.low) / 2)
    assert found.n == 4


def test_only_shared_seeds_with_numbers_count() -> None:
    of = lines(a=[90.0, 91.0, 92.0, math.nan], b=[80.0, 81.5, 82.0, 83.0])
    of[-1]["seed"] = 9
    of.append(line("b", 3, knn_top1=None))
    assert judge(Claim(WORSE, ("b", "a"), "", margin=5.0), of).n == 3


@pytest.mark.parametrize(
    ("claim", "rows", "expected"),
    [
        (Claim(WORSE, ("b", "a"), "", margin=5.0), dict(a=[90.0, 91, 90], b=[80.0, 81, 80.1]), REPRODUCED),
        (Claim(WORSE, ("b", "a"), "", margin=15.0), dict(a=[90.0, 91, 90], b=[80.0, 81, 80.1]), CONTRADICTED),
        (Claim(WORSE, ("b", "a"), "", margin=10.0), dict(a=[90.0, 91, 90], b=[80.0, 81, 80.1]), UNDECIDED),
        (Claim(WITHIN, ("a", "b"), "", margin=2.0), dict(a=[90.0, 91, 92], b=[90.1, 90.9, 92]), REPRODUCED),
        (Claim(WITHIN, ("a", "b"), "", margin=2.0), dict(a=[90.0, 91, 92], b=[80.1, 80.9, 82]), CONTRADICTED),
        (Claim(WITHIN, ("b", "a"), "", margin=2.0), dict(a=[90.0, 91, 92], b=[80.1, 80.9, 82]), CONTRADICTED),
        (Claim(WITHIN, ("a", "b", "c"), "", margin=2.0), dict(a=[90.0, 91], b=[90.0, 91], c=[70.0, 71]), CONTRADICTED),
        (Claim(ORDERING, ("a", "b", "c"), ""), dict(a=[90.0, 91], b=[80.0, 81], c=[70.0, 71]), REPRODUCED),
        (Claim(ORDERING, ("a", "c", "b"), ""), dict(a=[90.0, 91], b=[80.0, 81], c=[70.0, 71]), CONTRADICTED),
        (Claim(ORDERING, ("a", "b"), ""), dict(a=[90.0, 80, 70], b=[80.0, 80, 72]), UNDECIDED),
    ],
)
def test_a_claim_is_judged_by_where_its_interval_lies(claim: Claim, rows: dict[str, Any], expected: str) -> None:
    assert judge(claim, lines(**rows)).verdict == expected


@pytest.mark.parametrize(
    ("outcomes", "collapses", "stands"),
    [
        (["collapsed"], REPRODUCED, CONTRADICTED),
        (["collapsed", "collapsed"], REPRODUCED, CONTRADICTED),
        (["finished", "diverged"], CONTRADICTED, UNDECIDED),  # what is left may be what went well
        (["collapsed", "diverged"], UNDECIDED, CONTRADICTED),
        (["diverged"], CONTRADICTED, UNDECIDED),
        (["finished", "collapsed"], UNDECIDED, UNDECIDED),
        (["failed", "collapsed"], REPRODUCED, CONTRADICTED),
        (["failed"], UNDECIDED, UNDECIDED),
        (["infeasible"], UNDECIDED, UNDECIDED),
    ],
)
def test_collapse_is_judged_from_the_first_seed(outcomes: list[str], collapses: str, stands: str) -> None:
    of = [line("a", seed, outcome=outcome) for seed, outcome in enumerate(outcomes)]
    assert judge(Claim(COLLAPSES, ("a",), ""), of).verdict == collapses
    assert judge(Claim(DOES_NOT_COLLAPSE, ("a",), ""), of).verdict == stands


def test_with_one_seed_no_difference_is_judged() -> None:
    found = judge(Claim(WORSE, ("b", "a"), "", margin=1.0), lines(a=[90.0], b=[10.0]))
    assert (found.verdict, found.open) == (UNDECIDED, True)
    assert "have 1 seed in common" in found.evidence


def test_rows_that_cannot_run_leave_a_claim_undecided_for_good() -> None:
    of = [*lines(a=[90.0, 91.0]), line("b", 0, outcome="infeasible", knn_top1=None)]
    found = judge(Claim(WORSE, ("b", "a"), "", margin=1.0), of)
    assert (found.verdict, found.open, found.evidence) == (UNDECIDED, False, "b infeasible")
    assert judge(Claim(WORSE, ("c", "a"), "", margin=1.0), of).evidence == "c has not run"


def test_without_room_above_the_untrained_network_nothing_is_decided() -> None:
    of = [line(row, seed, knn_top1=90.0 + seed, knn_top1_init=89.5 + seed) for row in "ab" for seed in range(5)]
    found = judge(Claim(WITHIN, ("a", "b"), "", margin=1.0), of)
    assert found.verdict == UNDECIDED
    assert found.evidence.startswith("no room: training gives")


@pytest.mark.parametrize(("kind", "expected"), [(WORSE, REPRODUCED), (WITHIN, CONTRADICTED)])
def test_rows_that_are_far_apart_need_no_room(kind: str, expected: str) -> None:
    of = lines(a=[58.0, 58.5, 57.5, 58.2, 57.8], b=[10.5, 11.0, 10.2, 10.9, 10.7])
    for each in of:
        each["knn_top1_init"] = 50.0
    assert judge(Claim(kind, ("b", "a"), "", margin=10.0), of).verdict == expected


def test_a_claim_without_room_stays_open_while_seeds_may_set_its_rows_apart() -> None:
    of = [
        {**each, "knn_top1_init": 87.0}
        for each in lines(a=[90.0, 90.5, 89.5], b=[85.0, 60.0, 81.0])  # 14 behind, with an interval from -20 on
    ]
    found = judge(Claim(WORSE, ("b", "a"), "", margin=10.0), of)
    assert found.evidence.startswith("no room")
    assert found.open
    near = [{**each, "knn_top1_init": 87.0} for each in lines(a=[90.0, 90.5, 89.5], b=[90.1, 90.4, 89.6])]
    assert not judge(Claim(WORSE, ("b", "a"), "", margin=10.0), near).open


def test_seeds_that_failed_are_not_counted() -> None:
    of = [line("a", seed, outcome="diverged", knn_top1=math.nan) for seed in range(5)]
    of += [line("b", 0, knn_top1=90.0), *(line("b", seed, outcome="failed", knn_top1=None) for seed in range(1, 5))]
    found = judge(Claim(WORSE, ("a", "b"), "", margin=1.0), of)
    assert (found.verdict, found.n) == (UNDECIDED, 1)  # what is left may be what went well
    assert found.evidence == "5 of 5 seeds of a diverged, and some failed"


def test_an_unstable_row_has_a_rougher_loss() -> None:
    claim = Claim(UNSTABLE, ("all", "default"), "")
    rough = [line("all", seed, loss_roughness=0.05 + 0.001 * seed) for seed in range(4)]
    calm = [line("default", seed, loss_roughness=0.01) for seed in range(4)]
    found = judge(claim, rough + calm)
    assert found.verdict == REPRODUCED
    assert found.evidence.endswith("in log2 of the loss's roughness")
    assert judge(
        claim, [line("all", seed, loss_roughness=0.011 + 0.0001 * seed) for seed in range(4)] + calm
    ).verdict == (CONTRADICTED)


@pytest.mark.parametrize(
    ("claim", "diverged", "expected"),
    [
        (Claim(UNSTABLE, ("b", "a"), ""), {"b": 3}, REPRODUCED),
        (Claim(WORSE, ("b", "a"), "", margin=1.0), {"b": 3}, REPRODUCED),
        (Claim(WORSE, ("b", "a"), "", margin=1.0), {"b": 2}, UNDECIDED),
        (Claim(WORSE, ("b", "a"), "", margin=1.0), {"a": 3}, UNDECIDED),
        (Claim(WITHIN, ("b", "a"), "", margin=1.0), {"b": 3}, CONTRADICTED),
        (Claim(WITHIN, ("b", "a"), "", margin=1.0), {"b": 1}, UNDECIDED),
        (Claim(WITHIN, ("b", "a"), "", margin=1.0), {"a": 3, "b": 3}, UNDECIDED),  # both as bad as can be
        (Claim(WORSE, ("b", "a"), "", margin=1.0), {"a": 1, "b": 3}, UNDECIDED),
        (Claim(DOES_NOT_COLLAPSE, ("b",), ""), {"b": 3}, UNDECIDED),
        (Claim(COLLAPSES, ("b",), ""), {"b": 3}, CONTRADICTED),
    ],
)
def test_a_diverged_row_is_evidence(claim: Claim, diverged: dict[str, int], expected: str) -> None:
    of = lines(a=[90.0, 91.0, 90.5], b=[90.1, 90.9, 90.4])
    for each in of:
        if each["seed"] < diverged.get(each["row"], 0):
            each |= {"outcome": "diverged", "knn_top1": math.nan, "loss_roughness": math.nan}
    found = judge(claim, of)
    assert (found.verdict, found.open) == (expected, False)


def test_rows_that_overrides_made_one_training_are_not_compared() -> None:
    of = [line(row, seed, fingerprint=f"same {seed}") for row in "ab" for seed in range(5)]
    assert judge(Claim(WITHIN, ("a", "b"), "", margin=1.0), of).verdict == UNDECIDED


def test_seeds_that_agree_by_rounding_do_not_make_an_interval_of_no_width() -> None:
    of = lines(a=[90.0, 91.0], b=[88.9, 89.9])
    for each in of:
        each["test_images"] = 360
    found = judge(Claim(WORSE, ("b", "a"), "", margin=1.0), of)
    assert found.verdict == UNDECIDED
    assert found.shows == pytest.approx(stats.t.ppf(0.975, 1) * (100 / 360) / math.sqrt(2))


def false_verdicts(
    claim: Claim, wrong: str, means: dict[str, float], seeds: list[int], *, sd: float = 1.0, images: int = 10**6
) -> float:
    """How often simulated seeds give a verdict that is wrong, if they are looked at after each number of `seeds`.

    Args:
        sd: of a row's seeds beside what they share.
        images: of the test set: the accuracy comes in steps of 100 / images.
    """
    step = 100 / images
    rng = np.random.default_rng(0)
    count = 0
    for _ in range(DRAWS):
        shared = rng.normal(0, 3, seeds[-1])  # what makes pairing worth while
        drawn = {row: 60 + mean + shared + rng.normal(0, sd, seeds[-1]) for row, mean in means.items()}
        drawn = {row: np.rint(values / step) * step for row, values in drawn.items()}
        for n in seeds:
            of = lines(**{row: values[:n] for row, values in drawn.items()})
            found = judge(claim, [each | {"test_images": images, "looks": len(seeds)} for each in of])
            count += found.verdict == wrong
            if found.verdict != UNDECIDED:
                break
    return count / DRAWS


LIMIT = 0.05 + 3 * math.sqrt(0.05 * 0.95 / DRAWS)


@pytest.mark.parametrize("seeds", [[5], [3, 5, 10]], ids=["five seeds", "until decided"])
@pytest.mark.parametrize(
    ("claim", "wrong", "means"),
    [
        # The truth is on the edge of the claim, where a false verdict is likeliest.
        (Claim(WORSE, ("b", "a"), "", margin=2.0), REPRODUCED, {"a": 2.0, "b": 0.0}),
        (Claim(WORSE, ("b", "a"), "", margin=2.0), CONTRADICTED, {"a": 2.0, "b": 0.0}),
        (Claim(WITHIN, ("a", "b"), "", margin=2.0), REPRODUCED, {"a": 2.0, "b": 0.0}),
        (Claim(WITHIN, ("a", "b"), "", margin=2.0), CONTRADICTED, {"a": 2.0, "b": 0.0}),
        (Claim(ORDERING, ("a", "b", "c"), ""), REPRODUCED, {"a": 4.0, "b": 0.0, "c": 0.0}),
        (Claim(ORDERING, ("a", "b", "c"), ""), CONTRADICTED, {"a": 0.0, "b": 0.0, "c": 0.0}),
    ],
    ids=lambda value: str(value) if isinstance(value, Claim | str) else "",
)
def test_false_verdicts_are_as_rare_as_promised(
    claim: Claim, wrong: str, means: dict[str, float], seeds: list[int]
) -> None:
    assert false_verdicts(claim, wrong, means, seeds) <= LIMIT


@pytest.mark.parametrize("sd", [0.15, 0.35])
@pytest.mark.parametrize("seeds", [[3], [5], [3, 5, 10]], ids=str)
def test_accuracies_in_steps_keep_the_promise(seeds: list[int], sd: float) -> None:
    claim = Claim(WORSE, ("b", "a"), "", margin=2.0)
    assert false_verdicts(claim, REPRODUCED, {"a": 2.0, "b": 0.0}, seeds, sd=sd, images=360) <= LIMIT


def test_looks_that_a_line_knows_of_share_the_error_rate() -> None:
    of = lines(a=[90.0, 91.0, 90.5], b=[88.9, 89.7, 89.6])
    claim = Claim(WORSE, ("b", "a"), "", margin=1.0)
    of[1]["looks"] = 4
    found = judge(claim, of)
    values = stats.ttest_1samp([1.1, 1.3, 0.9], 0).confidence_interval(1 - 0.05 / 4)
    assert found.looks == 4
    assert found.shows == pytest.approx((values.high - values.low) / 2)


def test_a_large_difference_is_found_and_all_claims_of_a_table_share_the_error() -> None:
    assert false_verdicts(Claim(WORSE, ("b", "a"), "", margin=2.0), REPRODUCED, {"a": 12.0, "b": 0.0}, [5]) > 0.95
    of = lines(a=[90.0, 91.0, 90.5, 91.2], b=[87.5, 88.0, 88.6, 88.2])
    claim = Claim(WORSE, ("b", "a"), "", margin=1.0)
    alone, among_ten = verdict.judge([claim], of)[0], verdict.judge([claim] * 10, of)[0]
    assert alone.shows is not None
    assert among_ten.shows is not None
    assert among_ten.shows / alone.shows == pytest.approx(stats.t.ppf(1 - 0.0025, 3) / stats.t.ppf(1 - 0.025, 3))


def test_the_differences_of_a_claim_share_its_error() -> None:
    rows = dict(a=[96.0, 97.0, 98.5], b=[90.0, 91.0, 90.5], c=[80.0, 82.0, 84.0])
    found = judge(Claim(ORDERING, ("a", "b", "c"), ""), lines(**rows))
    for each, (one, other) in zip(found.differences, (("a", "b"), ("b", "c")), strict=True):
        theirs = stats.ttest_rel(rows[one], rows[other]).confidence_interval(1 - 0.05 / 2)
        assert (each.interval.low, each.interval.high) == (pytest.approx(theirs.low), pytest.approx(theirs.high))


def test_no_difference_has_no_sign_of_minus() -> None:
    assert verdict.Interval(-1e-9, 1.0, 3).text(2, "+") == "+0.00 ± 1.00"
