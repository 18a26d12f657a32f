"""Grids of a command line: what they are, what they refuse, and one that is trained, found again and made finer."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny

from ablations import (
    asked,
    catalogue,
    definition,
    grid,
    options,
    planning,
    printed_grid,
    provenance,
    request,
    results,
    run,
)
from ablations.store import Store
from ablations.table import UserError

PLAN: dict[str, Any] = dict(recipe="digits", data="digits@0", train_images=1437, overrides={})
RUN = ["--launcher", "local", *tiny.OVERRIDES]


def asked_for(*arguments: str) -> Any:
    (table,) = request.read(options.parser().parse_args(list(arguments))).tables
    return table


def test_each_combination_is_a_row_beside_the_baseline() -> None:
    table = asked_for("--grid", "base_lr=0.1,0.2", "--grid", "bn_group=none,32")
    assert table.name == "grid_base_lr_bn_group"
    trials = planning.plan(table, **PLAN, seeds=(3,))
    assert [trial.row.name for trial in trials] == [
        "baseline",
        *("base_lr=0.1 bn_group=none", "base_lr=0.1 bn_group=32"),
        *("base_lr=0.2 bn_group=none", "base_lr=0.2 bn_group=32"),
    ]
    assert [(trial.config.base_lr, trial.config.bn_group) for trial in trials[1:]] == [
        *((0.1, None), (0.1, 32)),
        *((0.2, None), (0.2, 32)),
    ]
    assert {trial.config.seed for trial in trials} == {3}
    assert trials[0].fingerprint == trials[3].fingerprint  # the recipe's own values: one training
    assert [trial.baseline for trial in trials] == [True, False, False, True, False]


def test_on_a_table_a_row_is_over_the_grid_and_a_function_sees_it() -> None:
    table = asked_for("--table", "batch_norm", "--grid", "epochs=20,40", "--name", "mine")
    by_name = {trial.row.name: trial.config for trial in planning.plan(table, **PLAN)}
    assert table.name == "mine"
    assert len(by_name) == 1 + 5 * 2
    assert [by_name[f"none epochs={n}"].warmup_epochs for n in (20, 40)] == [2.0, 4.0]  # a tenth, as the row says
    assert [by_name[f"hidden epochs={n}"].epochs for n in (20, 40)] == [20, 40]


def test_a_method_of_a_grid_is_the_whole_method() -> None:
    table = asked_for("--grid", "method=simclr,byol", "--grid", "epochs=10,20")
    byol = {t.row.name: t.config for t in planning.plan(table, **PLAN)}["epochs=10 method=byol"]
    assert (byol.method, byol.epochs) == ("byol", 10)
    assert byol.target_momentum is not None
    assert byol == planning.recipe("digits", "digits@0", {"method": "byol", "epochs": 10})


def test_a_combination_that_breaks_a_rule_is_infeasible_with_the_rule() -> None:
    table = asked_for("--grid", "batch_size=64,96", "--grid", "bn_group=32,64")
    trials = planning.plan(table, **PLAN)
    broken = {trial.row.name: trial.infeasible for trial in trials if trial.infeasible}
    assert list(broken) == ["batch_size=64 bn_group=64", "batch_size=96 bn_group=64"]
    assert "must be below batch_size=64" in str(broken["batch_size=64 bn_group=64"])
    asked_fields = next(trial.config for trial in trials if trial.row.name == "batch_size=96 bn_group=64")
    assert (asked_fields.batch_size, asked_fields.bn_group) == (96, 64)
    assert len({trial.fingerprint for trial in trials}) == len(trials)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--grid", "base_lr"], "--grid takes FIELD=VALUE,VALUE. Got 'base_lr' instead."),
        (["--grid", "base_lr=0.1,0.2", "--grid", "base_lr=0.3,0.4"], "--grid base_lr is given twice."),
        (["--grid", "base_lr=0.1"], "is one value. Give several, or use --set base_lr=0.1."),
        (["--grid", "base_lr=0.1,0.10"], "0.1 is there twice"),
        (["--grid", "bas_lr=0.1,0.2"], "Did you mean 'base_lr'?"),
        (["--grid", "lr=0.1,0.2"], "Here it is base_lr."),
        (["--grid", "base_lr=0.1,x"], "must be a number above 0. Got 'x' instead."),
        (["--grid", "seed=0,1"], "use --seeds"),
        (["--grid", "data=a,b"], "use --data"),
        (["--grid", "base_lr=0.1,0.2", "--set", "base_lr=0.1"], "--grid base_lr and --set base_lr exclude each other"),
        (["--grid", "base_lr=0.1,0.2", "--name", "predictor"], "no table's of this package"),
        (["--grid", "base_lr=0.1,0.2", "--name", "a/b"], "letters, digits and _"),
        (["--table", "all", "--grid", "base_lr=0.1,0.2"], "on one table"),
        (["--tune", "base_lr=0.1,0.2"], "Name a table with --table"),
        (["--table", "predictor", "--tune", "dim=8,16", "--grid", "base_lr=0.1,0.2"], "exclude each other"),
        (["--table", "predictor", "--tune", "dim=8,16", "--seeds-until-decided", "5"], "exclude"),
        (["--table", "predictor", "--name", "mine"], "--name is the name of a grid's table"),
        (["--grid", f"width={','.join(map(str, range(4, 200)))}", "--grid", f"dim={','.join(map(str, range(4, 200)))}"],
         "at most 10,000 combinations. Got 38,416"),
    ],
)  # fmt: skip
def test_what_is_no_grid_is_refused_in_a_line(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*arguments, "--launcher", "local", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert message.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (  # each row has its own
            ["--table", "predictor", "--grid", "predictor=mlp,none"],
            "--grid predictor=mlp,none: predictor changes no row of table predictor: each has a value of its own, ",
        ),
        (
            ["--table", "batch_norm", "--tune", "batch_norm=none,all"],
            "--tune batch_norm=none,all: batch_norm changes no row of table batch_norm: ",
        ),
        (  # which SimSiam has none of
            ["--grid", "temperature=0.1,0.2"],
            "--grid temperature=0.1,0.2: temperature changes no training of recipe digits: ",
        ),
    ],
)
def test_an_axis_that_changes_nothing_is_refused(
    arguments: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*arguments, "--plan", "--results", str(tmp_path)]) == 2
    message = capsys.readouterr().err
    assert said in message
    assert "Leave it out, or vary another field." in message


def test_an_axis_that_acts_at_one_value_of_another_is_one(tmp_path: Path) -> None:
    arguments = ["--grid", "predictor=none,mlp", "--grid", "predictor_hidden=8,16", "--results", str(tmp_path)]
    assert run.main([*arguments, "--plan"]) == 0


def test_a_grid_is_trained_once_and_a_finer_one_adds_to_it(
    tmp_path: Path,
    started: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    command = ["--grid", "base_lr=0.1,0.5", "--seeds", "2", "--name", "lr", *RUN, "--results", str(tmp_path)]
    command = command[: command.index("--launcher")] + _without("base_lr", RUN) + ["--results", str(tmp_path)]
    assert run.main(command) == 0
    assert len(started) == 6  # the baseline's lr, 0.2, is not among them
    printed = capsys.readouterr().out
    assert "| base_lr=0.1 | " in printed
    assert "The baseline: " in printed
    assert "Differences are paired by seed" in printed

    first = pd.read_parquet(tmp_path / "lr.parquet")
    assert set(first.row) == {"baseline", "base_lr=0.1", "base_lr=0.5"}
    assert run.main(command) == 0
    assert len(started) == 6
    finer = [each.replace("0.1,0.5", "0.5,0.2") for each in command]
    assert run.main(finer) == 0
    assert len(started) == 6  # 0.2 is the baseline's own: found, and not trained again
    assert run.main([each.replace("0.1,0.5", "0.3,0.5") for each in command]) == 0
    assert len(started) == 8

    overrides = str(first.overrides[0])
    table = results.load("lr", root=tmp_path)
    assert list(dict.fromkeys(table.row)) == ["baseline", *(f"base_lr={lr}" for lr in (0.1, 0.2, 0.3, 0.5))]
    matrix = results.pivot("lr", rows="base_lr", columns="dim", root=tmp_path)
    assert sorted(matrix.index) == [0.1, 0.2, 0.3, 0.5]
    assert matrix.loc[0.1, 16] == pytest.approx(first[first.base_lr == 0.1].knn_top1.mean())
    between = results.compare("lr", "base_lr=0.5", "baseline", overrides=overrides, root=tmp_path)
    assert between.n == 2

    other = ["--grid", "weight_decay=0.1,0.2", "--name", "lr", *_without("base_lr", RUN), "--results", str(tmp_path)]
    assert run.main(other) == 2
    assert "is of another table, 'Grid of base_lr'. Choose another name with --name." in capsys.readouterr().err


def _without(field: str, arguments: list[str]) -> list[str]:
    """Arguments without `--set field=...`."""
    kept = list(arguments)
    with contextlib.suppress(StopIteration):
        place = next(i for i, each in enumerate(kept) if each.startswith(f"{field}="))
        del kept[place - 1 : place + 1]
    return kept


def test_a_definition_comes_back_as_it_was_and_another_version_is_named(tmp_path: Path) -> None:
    table = asked_for("--table", "batch_size", "--tune", "base_lr=0.1,0.2")
    assert definition.decoded(definition.encoded(table)) == table
    with pytest.raises(ValueError, match="none that this version reads"):
        definition.decoded({**definition.encoded(table), "colour": "red"})
    with pytest.raises(UserError, match="none that this version reads"):
        catalogue.carried("t", "digits", "", {"digits": {"name": "t"}})
    with pytest.raises(UserError, match="Unknown table 't'"):
        catalogue.carried("t", "digits", "", {"cifar10": {}})


def numbers(table: Any, value: Any, **changes: Any) -> list[dict[str, Any]]:
    """A line a row and seed: kNN is `value(row)` beside a spread over seeds."""
    return [
        {
            **{
                "row": row.name,
                "seed": seed,
                "outcome": "finished",
                "sources": provenance.sources(),
                "method": "simsiam",
                "fingerprint": f"{number}-{seed}",
                "message": None,
            },
            **{"recipe": "digits", "overrides": "", "data": "digits@0", "test_images": 360},
            "knn_top1": value(row) + (seed - 1) * (1 + number % 3 / 10),
            **changes,
        }
        for number, row in enumerate(table.rows)
        for seed in range(3)
    ]


def test_a_grid_of_two_fields_is_a_matrix_that_fits_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    table = asked_for("--grid", "base_lr=0.1,0.2,0.5", "--grid", "dim=32,64,128")
    lines = numbers(table, lambda row: 90.0 - 50 * (row.at.get("base_lr") == 0.5))
    for line in lines:
        if line["row"] == "base_lr=0.5 dim=32":
            line["outcome"] = "collapsed" if line["seed"] else "finished"
        if line["row"] == "base_lr=0.5 dim=64":
            line["outcome"] = "collapsed"
    text = printed_grid.results(table, lines)
    matrices = [each for each in text.split("\n\n") if each.startswith("| base_lr \\ dim")]
    means, differences = (
        [[cell.strip() for cell in row.split("|")[1:-1]] for row in each.splitlines()] for each in matrices
    )
    assert means[0] == ["base_lr \\ dim", "32", "64", "128"]
    assert means[2][1].startswith("90.0 ± ")
    assert means[4][1].endswith(" (c)")
    assert means[4][2].endswith(" c")
    assert differences[4][3].startswith("-50.0 ± ")
    assert differences[4][3].endswith(" !")
    assert not differences[2][1].endswith("!")
    assert max(map(len, "\n\n".join(matrices).splitlines())) <= 80


def test_a_long_grid_shows_its_ends() -> None:
    table = grid.of_recipe("g", {"width": tuple(range(4, 104))})
    lines = numbers(table, lambda row: float(row.at.get("width", 50)))
    text = printed_grid.results(table, lines)
    assert text.count("\n") < 60
    first, best, worst = (
        text.partition(f"The {name}:\n\n")[2].partition("\n\n")[0] for name in ("first", "best", "worst")
    )
    for part, widths in ((first, range(4, 9)), (best, range(103, 98, -1)), (worst, range(8, 3, -1))):
        assert [row.split("|")[1].strip() for row in part.splitlines()[2:] if row.startswith("|")] == [
            f"width={n}" for n in widths
        ]
    assert "All 100 rows are in g.parquet" in text


def test_seeds_are_added_where_a_difference_is_open() -> None:
    table = grid.of_recipe("g", {"width": (4, 16)})
    lines = numbers(table, lambda row: 90.0 - 40 * (row.at.get("width") == 4))
    assert grid.undecided(table, lines) == ["baseline", "width=16"]
    assert grid.undecided(table, [line for line in lines if line["row"] != "width=16"]) == []


def test_a_table_that_results_carry_is_shown_and_a_damaged_file_is_of_none(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    (tmp_path / "broken.parquet").write_bytes(b"no Parquet")
    assert catalogue.there(store) == catalogue.names()
    with pytest.raises(UserError, match="is damaged"):
        store.definitions("broken")


def test_only_a_files_name_is_a_file() -> None:
    assert asked.is_file("mine/table.py")
    assert not asked.is_file("stop_gradient")


def test_a_row_that_lost_seeds_has_no_difference_and_a_mark() -> None:
    """What is left of it may be what went well."""
    table = grid.of_recipe("g", {"width": (4, 16, 32)})
    lines = numbers(table, lambda row: 90.0 + 5 * (row.at.get("width", 0) > 4))
    for line in lines:
        if line["seed"] == 2 and line["row"] in ("width=16", "width=32"):
            line |= {"outcome": "diverged" if line["row"] == "width=16" else "failed", "knn_top1": None}
    rows = [
        [cell.strip() for cell in each.split("|")[1:-1]]
        for each in printed_grid.results(table, lines).splitlines()
        if each.startswith("| width=")
    ]
    assert [row[2] != "-" for row in rows] == [True, False, False]
    assert [row[1].split()[-1] for row in rows[1:]] == ["(d)", "(f)"]


@pytest.mark.parametrize(
    ("short", "with_one"),
    [((), [True, True, True]), (("width=16",), [True, False, True]), (("baseline",), [False] * 3)],
)
def test_a_row_left_short_of_seeds_has_no_difference(short: tuple[str, ...], with_one: list[bool]) -> None:
    table = grid.of_recipe("g", {"width": (4, 16, 32)})
    lines = numbers(table, lambda row: 90.0 + 5 * (row.at.get("width", 0) > 4))
    rows = [each.split("|") for each in printed_grid.results(table, lines, short=short).splitlines()]
    assert [row[3].strip() != "-" for row in rows if row[1:] and row[1].startswith(" width=")] == with_one


@pytest.mark.parametrize(("option", "rows"), [("--grid", 1 + 2 * 2), ("--tune", 2 + 2 * 2)])
def test_rows_of_a_table_are_named_as_the_tables(option: str, rows: int) -> None:
    asked_rows = request.read(
        options.parser().parse_args(["--table", "predictor", option, "base_lr=0.1,0.2", "--rows", "none,frozen"])
    )
    names = [trial.row.name for trial in asked_rows.trials((0,))]
    assert len(names) == rows
    assert {"none base_lr=0.1", "frozen base_lr=0.2"} < set(names)
    assert not any(name.startswith("constant_lr") for name in names)


@pytest.mark.parametrize(
    ("rows", "ran"),
    [("baseline", ["baseline"]), ("base_lr=0.2", ["baseline", "base_lr=0.2"]), (" base_lr=0.1 ,baseline", None)],
)
def test_a_point_of_a_recipes_grid_is_a_row_of_its_own(rows: str, ran: list[str] | None) -> None:
    read = request.read(options.parser().parse_args(["--grid", "base_lr=0.1,0.2", "--rows", rows]))
    assert [trial.row.name for trial in read.trials((0,))] == (ran or ["baseline", "base_lr=0.1"])


def test_a_row_that_is_a_function_goes_on_with_what_set_changes() -> None:
    table = asked_for("--table", "epochs", "--tune", "base_lr=0.1,0.2", "--set", "epochs=4")
    by_name = {t.row.name: t.config for t in planning.plan(table, **{**PLAN, "overrides": {"epochs": 4}})}
    assert [by_name[f"{n}x base_lr=0.1"].epochs for n in (1, 2, 4)] == [4, 8, 16]
