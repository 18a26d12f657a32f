"""Each row at its own best: the choice by hand, and what choosing does to error rates."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from ablations import catalogue, grid, planning, printed_grid, provenance, tuned, verdict
from ablations.table import COLLAPSES, ORDERING, WORSE, Claim, Row, Table
from ablations.tuned import Choice, choose

Lines = dict[int, dict[str, Any]]


def at(lr: float, *figures: float | None, outcome: str = "finished", **outcomes: str) -> tuple[dict[str, float], Lines]:
    """A learning rate with a line a seed: its figure, and the outcome, of one seed where it is named s0, s1, ..."""
    lines = {
        seed: {"seed": seed, "outcome": outcomes.get(f"s{seed}", outcome), "knn_train_top1": figure}
        for seed, figure in enumerate(figures)
    }
    return {"base_lr": lr}, lines


SEEDS = (0, 1)


def test_the_best_mean_of_the_training_pictures_is_chosen() -> None:
    points = [at(0.1, 80.0, 82.0), at(0.2, 84.0, 86.0), at(0.5, 90.0, 78.0)]
    assert choose("row", points, SEEDS) == Choice("row", {"base_lr": 0.2}, 85.0, (), "", tries=3)


@pytest.mark.parametrize(
    ("points", "value", "edge", "why"),
    [
        ([at(0.1, 80.0, 82.0), at(0.2, 82.0, 80.0)], 0.1, True, ""),  # of equal ones the first
        ([at(0.1, 70.0, 70.0), at(0.2, 60.0, 60.0), at(0.5, 71.0, 71.0)], 0.5, True, ""),
        ([at(0.1, 70.0, 70.0), at(0.2, 99.0, None, s1="diverged")], 0.1, True, ""),  # no mean of what is left
        ([at(0.1, 70.0, 70.0), at(0.2, None, None, outcome="infeasible"), at(0.5, 60.0, 60.0)], 0.1, True, ""),
        ([at(0.1, 90.0, None, s1="failed"), at(0.2, 80.0, 80.0)], None, False, "1 of 4 results are missing or failed"),
        ([at(0.1, 90.0), at(0.2, 80.0, 80.0)], None, False, "1 of 4 results are missing or failed"),
        ([at(0.1, 50.0, 50.0, outcome="collapsed"), at(0.2, 51.0, 51.0, outcome="collapsed")], 0.2, True, "collapses"),
        ([at(0.1, None, None, outcome="diverged"), at(0.2, None, None, outcome="diverged")], 0.1, False, "diverges"),
        (
            [at(0.1, 50.0, None, s1="diverged"), at(0.2, None, 50.0, s0="diverged")],
            None,
            False,
            "no point has the figure",
        ),
        ([at(0.1, None, None, outcome="infeasible")], None, False, "infeasible"),
    ],
)
def test_ties_ends_and_what_is_missing(points: list[Any], value: float | None, edge: bool, why: str) -> None:
    found = choose("row", points, SEEDS, what="values of base_lr")
    assert found.point == (None if value is None else {"base_lr": value})
    assert bool(found.edge) == edge
    assert found.why.startswith(why)
    assert (found.why == "") == (why == "")
    if why in ("collapses", "diverges"):
        assert found.why == f"{why} at each of 2 values of base_lr"


@pytest.mark.parametrize(("short", "own"), [("one", "reproduced"), ("one base_lr=0.1", "undecided")])
def test_a_claim_on_a_row_that_the_time_limit_has_left_short_is_undecided(short: str, own: str) -> None:
    table = a_table(Claim(COLLAPSES, ("one",), section="Sec. 0"))
    assert {"one", "one base_lr=0.1"} <= {row.name for row in table.rows}
    lines = [
        {
            "row": row.name,
            "seed": seed,
            "outcome": "collapsed",
            "knn_train_top1": 10.0,
            "fingerprint": f"{row.name}{seed}",
        }
        for row in table.rows
        for seed in (0, 1)
        if (row.name, seed) != (short, 1)
    ]
    assert [each.verdict for each in tuned.judged(table, lines, {short})] == [own]


def test_an_end_is_one_of_numbers_alone() -> None:
    points = [({"method": name, "dim": dim}, lines) for (_, lines), name, dim in (
        (at(0, 80.0, 80.0), "byol", 32), (at(0, 70.0, 70.0), "simclr", 64), (at(0, 60.0, 60.0), "byol", 16),
    )]  # fmt: skip
    assert choose("row", points, SEEDS).edge == ()
    assert choose("row", points[:2], SEEDS).edge == ("dim",)


RATES = {"base_lr": (0.05, 0.1, 0.2, 0.4, 0.8)}


def a_table(*claims: Claim) -> Table:
    rows = tuple(Row(name=name, changes={}) for name in ("baseline", "one", "two", "three"))
    table = Table(name="t", title="T", section="Sec. 0", varies=("dim",), rows=rows, claims=claims)
    return grid.tuned(table, "t_tuned", RATES)


def lines_of(table: Table, train: Any, test: Any, seeds: int, **changes: Any) -> list[dict[str, Any]]:
    """Lines of the rows at each point: `train` and `test` are arrays of (row, point, seed)."""
    points = [row for row in table.rows if row.of is not None]
    found = []
    for number, row in enumerate(points):
        for seed in range(seeds):
            place = (*divmod(number, len(RATES["base_lr"])), seed)
            line = {"row": row.name, "seed": seed, "fingerprint": f"{number}-{seed}", "outcome": "finished"}
            line |= {"knn_train_top1": float(train[place]), "knn_top1": float(test[place]), "knn_top1_init": 20.0}
            line |= {"sources": provenance.sources(), "method": "simsiam"}
            found.append({**line, "test_images": 360, **changes})
    return found


def test_claims_are_judged_at_the_chosen_points() -> None:
    table = a_table(Claim(WORSE, ("one", "baseline"), section="Sec. 0"), Claim(COLLAPSES, ("two",), section="Sec. 0"))
    train, test = np.full((4, 5, 3), 50.0), np.full((4, 5, 3), 50.0)
    train[0, 3], test[0, 3] = 90.0, [80.0, 81.0, 82.0]  # the baseline is best at 0.4, there 80 on the test set
    train[1, 0], test[1, 0] = 70.0, [60.0, 61.5, 62.0]  # one at 0.05, there 60
    test[1, 4] = 99.0  # which the test set alone would choose
    lines = lines_of(table, train, test, 3)
    choices = {choice.row: choice for choice in tuned.choices(table, lines)}
    assert choices["baseline"].point == {"base_lr": 0.4}
    assert not choices["baseline"].edge
    assert choices["one"].point == {"base_lr": 0.05}
    assert choices["one"].edge == ("base_lr",)
    worse, collapses = tuned.judged(table, lines)
    assert worse.verdict == verdict.REPRODUCED
    assert worse.differences[0].interval.mean == pytest.approx((20 + 19.5 + 20) / 3)
    assert collapses.verdict == verdict.CONTRADICTED

    for line in lines:
        if line["row"].startswith("two "):
            line["outcome"] = "collapsed"
    _, collapses = tuned.judged(table, lines)
    assert collapses.verdict == verdict.REPRODUCED
    assert collapses.evidence.startswith("two collapses at each of 5 values of base_lr; 3 of 3 seeds")

    lines[-1]["outcome"] = "failed"  # of row three
    three = Claim(WORSE, ("three", "baseline"), section="Sec. 0")
    table = a_table(three)
    assert tuned.judged(table, lines)[0].evidence == "three: 1 of 15 results are missing or failed"
    assert tuned.judged(table, lines)[0].verdict == verdict.UNDECIDED


def made_up(generator: np.random.Generator, *, seeds: int = 3, shared: float = 0.9) -> tuple[Any, Any]:
    """What all rows and points come to if none differs, with the spread that the published digits have: a standard
    deviation of 1.2 points over seeds, and a correlation of up to 0.97 between training and test pictures."""
    network = generator.normal(size=(4, 5, seeds))
    train, test = (
        1.2 * (np.sqrt(shared) * network + np.sqrt(1 - shared) * generator.normal(size=network.shape)) for _ in "ab"
    )
    return 95 + train, 95 + test


def test_tables_without_a_difference_show_one_no_more_often_than_the_level_says() -> None:
    """Of 500 tables of rows that do not differ, tuned and not: at most 5 % may show any difference."""
    generator = np.random.default_rng(0)
    table = a_table(*(Claim(ORDERING, (row, "baseline"), section="Sec. 0") for row in ("one", "two", "three")))
    false = {"untuned": 0, "tuned": 0, "grid": 0}
    for _ in range(500):
        lines = lines_of(table, *made_up(generator), 3)
        names = [row.name for row in table.rows if row.of is not None]
        itself = [
            {**line, "row": row.name}
            for row in tuned.plain(table)
            for line in lines
            if line["row"] == f"{row.name} base_lr=0.2"
        ]
        false["untuned"] += any(each.verdict != verdict.UNDECIDED for each in verdict.judge(table.claims, itself))
        false["tuned"] += any(each.verdict != verdict.UNDECIDED for each in tuned.judged(table, lines))
        found = verdict.differences(names, "baseline base_lr=0.2", lines)
        assert len(found) == 19
        false["grid"] += any(each.interval.low > 0 or each.interval.high < 0 for each in found.values())
    assert false["untuned"] > 0, false  # else nothing was judged
    assert all(share <= 35 for share in false.values()), false  # 25 are 5 %; 35 are two standard deviations more


def test_what_choosing_does_to_the_chosen_score() -> None:
    """The best of five by the test set looks better than it is. By the training pictures it does not, as far as the
    noise is of the pictures; a network that is better by luck is so on both, in every row alike."""

    table = a_table()

    def gain(shared: float, choose_by: str) -> tuple[float, float]:
        generator, gains, differences = np.random.default_rng(1), [], []
        for _ in range(500):
            train, test = made_up(generator, shared=shared)
            choices = tuned.choices(table, lines_of(table, train if choose_by == "train" else test, test, 3))
            best = [RATES["base_lr"].index(choice.point["base_lr"]) for choice in choices if choice.point]
            chosen = test.mean(axis=2)[np.arange(4), best]
            gains.append(chosen.mean() - 95)
            differences.append(chosen[1] - chosen[0])
        return float(np.mean(gains)), float(np.mean(differences))

    assert gain(0.0, "test")[0] > 0.7
    assert abs(gain(0.0, "train")[0]) < 0.05
    inflated, between = gain(0.9, "train")
    assert 0.5 < inflated < 0.9  # the networks' own luck
    assert abs(between) < 0.1  # which no difference has


def test_a_tuned_table_has_its_own_rows_and_each_at_each_value() -> None:
    table = grid.tuned(catalogue.get("predictor"), "p", {"base_lr": (0.1, 0.2)})
    trials = planning.plan(table, recipe="digits", data="digits@0", train_images=1437, overrides={})
    assert len(trials) == 4 + 8
    by_name = {trial.row.name: trial for trial in trials}
    assert by_name["none base_lr=0.2"].fingerprint == by_name["none"].fingerprint
    assert by_name["none base_lr=0.1"].config.base_lr == 0.1
    assert [row.name for row in tuned.plain(table)] == [row.name for row in catalogue.get("predictor").rows]


def test_what_is_printed_of_a_tuned_table() -> None:
    table = a_table(Claim(WORSE, ("one", "baseline"), section="Sec. 0"))
    train, test = np.full((4, 5, 3), 50.0), np.full((4, 5, 3), 50.0)
    train[0, 2], test[0, 2] = 90.0, [80.0, 81.0, 82.0]
    train[1, 0], test[1, 0] = 70.0, [60.0, 61.5, 62.0]
    where = {"recipe": "digits", "data": "digits@0", "overrides": "", "message": None}
    lines = lines_of(table, train, test, 3, **where)
    text = printed_grid.results(table, lines)
    rows = {
        cells[1]: cells[2:-1]
        for cells in ([c.strip() for c in each.split("|")] for each in text.split("\n"))
        if cells[1:]
    }
    assert rows["row"] == ["paper", "kNN", "chosen", "train kNN", "kNN there", "at the points"]
    assert rows["one"][2:4] == ["base_lr=0.05 <", "70.0"]
    assert rows["baseline"][2] == "base_lr=0.2"
    assert rows["baseline"][4].startswith("81.0 ± 2.5")
    assert "Each row was trained at 5 values of base_lr" in text
    assert "Another verdict there: one is worse than baseline by more than 0." in text


def test_a_row_that_overwrites_the_field_has_nothing_to_choose() -> None:
    """Its points are one training: no value, no end of the values, and fewer tries than the others, which is said."""
    point, lines = at(0.1, 80.0, 82.0)
    for seed, line in lines.items():
        line["fingerprint"] = str(seed)
    found = choose("row", [(point, lines), ({"base_lr": 0.2}, lines)], SEEDS)
    assert (found.point, found.edge, found.tries) == ({"base_lr": 0.1}, (), 1)
    collapsed = {seed: {**line, "outcome": "collapsed"} for seed, line in lines.items()}
    assert (
        choose("row", [(point, collapsed), ({"base_lr": 0.2}, collapsed)], SEEDS).why == "collapses in its one training"
    )

    table = a_table()
    where = {"recipe": "digits", "data": "digits@0", "overrides": "", "message": None}
    several = lines_of(table, np.full((4, 5, 3), 50.0), np.full((4, 5, 3), 50.0), 3, **where)
    for line in several:
        if line["row"].startswith("one "):
            line["fingerprint"] = f"one-{line['seed']}"
    text = printed_grid.results(table, several)
    assert "| one      | -     | -   | none to choose |" in text
    assert "Rows had unequal numbers of tries (baseline 5, one 1, two 5, three 5)" in text


def test_rows_are_chosen_for_by_the_seeds_that_all_have() -> None:
    table = a_table(Claim(WORSE, ("one", "baseline"), section="Sec. 0"))
    train = np.full((4, 5, 3), 50.0)
    train[1] += [[0, 9, 9], [1, 0, 0], [2, 0, 0], [3, 0, 0], [4, 0, 0]]  # the first seed would choose the last point
    lines = lines_of(table, train, np.full((4, 5, 3), 50.0), 3)
    more = [
        {**line, "seed": 9, "fingerprint": f"{line['fingerprint']}-9"}
        for line in lines
        if line["row"].startswith("two ")
    ]
    assert tuned.choices(table, lines)[1].point == {"base_lr": 0.05}
    assert tuned.choices(table, [*lines, *more]) == tuned.choices(table, lines)
    fewer = [line for line in lines if line["seed"] == 0 or not line["row"].startswith("three ")]
    assert tuned.choices(table, fewer)[1].point == {"base_lr": 0.8}


def test_rows_that_have_not_run_are_left_out_and_leave_the_others_their_choice() -> None:
    table = a_table(Claim(WORSE, ("one", "baseline"), section="Sec. 0"), Claim(COLLAPSES, ("two",), section="Sec. 0"))
    where = {"recipe": "digits", "data": "digits@0", "overrides": "", "message": None}
    lines = lines_of(table, np.full((4, 5, 3), 50.0), np.full((4, 5, 3), 50.0), 3, **where)
    ran = [line for line in lines if not line["row"].startswith(("two ", "three "))]
    assert tuned.choices(table, ran)[:2] == tuned.choices(table, lines)[:2]
    assert [choice.why for choice in tuned.choices(table, ran)[2:]] == ["has not run", "has not run"]
    text = printed_grid.results(table, ran)
    assert any(line.startswith("| one ") for line in text.splitlines())
    assert not any(line.startswith("| two ") for line in text.splitlines())
    assert "two: has not run" in text
