"""Tables of one's own, and the line that says what is wrong with a file: ours and theirs alike."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path

import pandas as pd
import pytest
import tiny
from made import finish, plan

from ablations import asked, catalogue, columns, planning, report, results, run, submit, tables
from ablations.store import Store
from ablations.table import UserError
from simsiam.config import FIELDS
from simsiam.recipes import RECIPES

GOOD = '''\
"""Mine."""
from ablations.table import DOES_NOT_COLLAPSE, WORSE, Claim, Row, Table

TABLE = Table(
    name="mine",
    title="Mine",
    section="mine",
    varies=("momentum", "warmup_epochs"),
    rows=(
        Row(name="usual", changes={}),
        Row(name="none", changes={"momentum": 0.0}),
        Row(name="warm", changes=lambda baseline: {"warmup_epochs": baseline["epochs"] / 2}),
    ),
    claims=(Claim(WORSE, ("none", "usual"), section="mine"), Claim(DOES_NOT_COLLAPSE, ("none",), section="mine")),
)
'''

# What is changed of it -> the line of the file, and what is said.
BROKEN = [
    (("TABLE = Table(", "TABLE = Table(("), 4, "'(' was never closed"),
    (("TABLE", "TABEL"), 1, "it needs TABLE = Table(...)"),
    (('"""Mine."""', "import nothing_of_this_name"), 1, "ModuleNotFoundError: No module named"),
    (('name="usual", changes={}', 'name="usual", changs={}'), 10, "unexpected keyword argument 'changs'"),
    (('name="mine"', 'name="yours"'), 5, "the name must be that of the file, 'mine'. Got 'yours' instead"),
    (('Row(name="none"', 'Row(name="usual"'), 11, "the row 'usual' is there 2 times"),
    (('{"momentum": 0.0}', '{"momentun": 0.0}'), 11, "row 'none': Unknown field 'momentun'. Did you mean"),
    (('{"momentum": 0.0}', '{"seed": 1}'), 11, "row 'none' changes seed: use --seeds"),
    (('varies=("momentum"', 'varies=("moment"'), 8, "Unknown field 'moment'"),
    (('Claim(WORSE, ("none"', 'Claim(WORSE, ("nine"'), 14, "Unknown row 'nine'. Did you mean 'none'?"),
    (("Claim(WORSE, (", 'Claim("wors", ('), 14, "Unknown kind of claim 'wors'. Did you mean 'worse'?"),
    (('("none",), section', '("none", "warm"), section'), 1, "'does not collapse' is said of 1 rows. Got 2"),
    (('section="mine"', "section=5"), 7, "section must be a line of text. Got 5 instead"),
    (('varies=("momentum", "warmup_epochs")', 'varies=("momentum")'), 8, "varies must be a tuple of fields"),
    (('changes={"momentum": 0.0}', "changes=None"), 11, "changes must be field -> value, or a function"),
    (('changes={"momentum": 0.0}', 'changes={}, at={"momentum": 0.0}'), 11, "at must be left out: --grid and --tune"),
    (('changes={"momentum": 0.0}', 'changes={}, paper="67"'), 11, "paper must be a number, or None. Got '67'"),
    (
        ('("none", "usual"), section="mine"', '("none", "usual"), section="mine", margin="x"'),
        14,
        "margin must be a number",
    ),
    (('("none", "usual")', '["none", "usual"]'), 14, "rows must be a tuple of rows' names"),
    (('"""Mine."""', "raise SystemExit(0)"), 1, "SystemExit: 0"),
    (('"""Mine."""', "raise ValueError('a\\nb')"), 1, "ValueError: a b"),
    (('name="warm"', 'name="warm,er"'), 12, "a row's name is text without commas. Got 'warm,er'"),
]


@pytest.mark.parametrize(("change", "line", "said"), BROKEN)
@pytest.mark.parametrize("place", ["of one's own", "in ablations/tables"])
def test_what_is_no_table_is_named_with_its_file_and_line(
    change: tuple[str, str],
    line: int,
    said: str,
    place: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace(*change, 1))
    if place == "of one's own":
        command, shown = ["--table", str(file)], str(file)
    else:
        monkeypatch.setattr(tables, "__path__", [*tables.__path__, str(tmp_path)])
        monkeypatch.setattr(catalogue.sys, "dont_write_bytecode", True)
        catalogue.importlib.invalidate_caches()
        command, shown = ["--table", "mine"], str(file)
    try:
        assert run.main([*command, "--results", str(tmp_path / "results"), "--launcher", "local"]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"error: {shown}, line {line}: ")
        assert said in message
        assert message.count("\n") == 1
        assert not (tmp_path / "results").exists()
        if place != "of one's own":
            assert run.main(["--list"]) == 2  # the others are listed all the same
            listed = capsys.readouterr()
            assert "  stop_gradient " in listed.out
            assert listed.err == message
    finally:
        catalogue.sys.modules.pop("ablations.tables.mine", None)


def test_a_name_of_ours_and_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = GOOD.replace('name="mine"', 'name="predictor"')
    with pytest.raises(UserError, match=r"predictor.py, line 5: the name 'predictor' is of a table of this package"):
        catalogue.of_file("predictor.py", text)
    assert run.main(["--table", str(tmp_path / "none.py")]) == 2
    assert "cannot be read: No such file or directory." in capsys.readouterr().err
    (tmp_path / "latin.py").write_bytes(b"# \xe9\xff\n")
    assert run.main(["--table", str(tmp_path / "latin.py")]) == 2
    assert "cannot be read: it is not UTF-8." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("lambda baseline: {'warmup': 1}", "Row warm of table mine: Unknown field 'warmup'. Did you mean"),
        (
            "lambda baseline: {'momentum': baseline['epoch']}",
            "Row warm of table mine: what it changes raises KeyError: 'epoch', in {file}, line 12.",
        ),
        (
            "lambda baseline: exit(3)",
            "Row warm of table mine: what it changes raises SystemExit: 3, in {file}, line 12.",
        ),
        ("lambda baseline: {3: 0.0}", "Row warm of table mine: Unknown field '3'. Known: "),
        ("lambda baseline: None", "Row warm of table mine: what it changes must be field -> value. Got None instead."),
        ("lambda baseline: {'momentum': 'fast'}", "The field 'momentum' must be a number at least 0"),
        ("{'momentum': 7}", "Row warm of table mine: The field 'momentum' must be a number"),
    ],
)
def test_a_row_that_gives_no_config_is_named(
    changes: str, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace('lambda baseline: {"warmup_epochs": baseline["epochs"] / 2}', changes))
    assert run.main(["--table", str(file), "--launcher", "local", "--results", str(tmp_path / "results")]) == 2
    message = capsys.readouterr().err
    assert said.replace("{file}", str(file)) in message
    assert message.count("\n") == 1


def test_a_table_of_ones_own_is_trained_judged_and_read_without_its_file(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    file, place = tmp_path / "mine.py", str(tmp_path / "results")
    file.write_text(GOOD)
    command = ["--table", str(file), "--seeds", "2", "--claims", "--launcher", "local", *tiny.OVERRIDES]
    assert run.main([*command, "--results", place]) == 0
    printed = capsys.readouterr().out
    assert "mine: none is worse than usual by more than 0" in printed
    assert len(started) == 6
    assert run.main([*command, "--results", place]) == 0
    assert len(started) == 6
    file.unlink()

    written = pd.read_parquet(f"{place}/mine.parquet")
    assert dict(written.groupby("row").warmup_epochs.first()) == {"none": 0.0, "usual": 0.0, "warm": 1.0}
    overrides = written.overrides[0]
    table = results.load("mine", root=place)
    assert list(dict.fromkeys(table.row)) == ["usual", "none", "warm"]
    assert table.baseline.tolist() == [True, True, False, False, False, False]
    claims = results.claims(overrides=overrides, root=place)
    assert [(found.name, str(each.claim)) for found, each in claims] == [
        ("mine", "none is worse than usual by more than 0"),
        ("mine", "none does not collapse"),
    ]
    assert "mine" in catalogue.there(results.opened(place))
    assert results.curves("mine", root=place).epoch.max() == 2


def test_a_tables_text_travels_with_a_submitted_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD)
    submitted: list[list[str]] = []
    monkeypatch.setattr(submit, "refused", lambda: None)
    monkeypatch.setattr(submit.os, "spawnv", lambda mode, path, command: submitted.append(command) or 0)
    assert submit.main(["--table", str(file), "--seeds", "2"]) == 0
    ((*_, option, environment, dashes, python, script, name, path, seeds, n),) = submitted
    assert (option, dashes, python, script) == ("--runtime-env-json", "--", "python", "ablations/run.py")
    assert (name, path, seeds, n) == ("--table", str(file), "--seeds", "2")
    for variable, value in json.loads(environment)["env_vars"].items():
        monkeypatch.setitem(os.environ, variable, value)
    file.unlink()  # on another machine
    assert asked.text(str(file)) == GOOD

    file.write_text(GOOD.replace('"momentum": 0.0', '"momentun": 0.0'))
    monkeypatch.delenv(asked.FILES)
    assert submit.main(["--table", str(file)]) == 2  # before anything is packed
    assert "line 11: row 'none': Unknown field 'momentun'" in capsys.readouterr().err
    assert len(submitted) == 1


def test_a_function_of_a_file_changes_nothing_but_its_own_row(tmp_path: Path) -> None:
    rows = """\
def a(fields):
    fields["momentum"] = 0.5
    return fields | {}


def b(fields):
    fields["warmup_epochs"] = 2.0
    return {"warmup_epochs": fields["warmup_epochs"]}


"""
    text = GOOD.replace("TABLE =", f"{rows}TABLE =").replace('changes={"momentum": 0.0}', "changes=b")
    recipe = dict(RECIPES["digits"])
    table = planning.resolved(catalogue.of_file("mine.py", text), "digits", "digits@0", {})
    assert {row.name: dict(row.changes) for row in table.rows if not callable(row.changes)}["none"] == {
        "warmup_epochs": 2.0
    }
    trials = planning.plan(table, recipe="digits", data="digits@0", train_images=1437, overrides={})
    assert [trial.config.momentum for trial in trials] == [0.9, 0.9, 0.9]
    assert RECIPES["digits"] == recipe
    every = GOOD.replace("TABLE =", f"{rows}TABLE =").replace('changes={"momentum": 0.0}', "changes=a")
    with pytest.raises(UserError, match="Row none of table mine changes data: use --data"):
        planning.resolved(catalogue.of_file("mine.py", every), "digits", "digits@0", {})


def test_a_dataclass_and_a_byte_order_mark_are_no_faults_of_a_file(tmp_path: Path) -> None:
    text = "from dataclasses import dataclass\n\n\n@dataclass\nclass C:\n    x: int = 0\n\n\n" + GOOD
    (tmp_path / "mine.py").write_bytes(b"\xef\xbb\xbf" + text.encode())
    assert catalogue.of_file("mine.py", asked.text(str(tmp_path / "mine.py"))).name == "mine"


def test_a_name_that_is_a_grid_points_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text(GOOD.replace('name="none"', 'name="usual base_lr=0.2"').replace('"none"', '"usual"'))
    assert run.main(["--table", str(file), "--tune", "base_lr=0.1,0.2", "--plan", "--results", str(tmp_path)]) == 2
    assert "a second row 'usual base_lr=0.2'" in capsys.readouterr().err


def test_listing_needs_no_whole_results_and_fields_a_known_recipe(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "stop_gradient.parquet").write_bytes(b"damaged")
    assert run.main(["--list", "--results", str(tmp_path)]) == 0
    assert "  digits " in capsys.readouterr().out
    assert run.main(["--fields", "--recipe", "digit"]) == 2
    assert "Did you mean 'digits'?" in capsys.readouterr().err
    assert run.main(["--fields", "--recipe", "cifar10", "--set", "dim=64"]) == 0
    shown = capsys.readouterr().out
    assert "  dim=64 " in shown
    assert "Sec. 4.1" in shown
    assert all(f"  {name}=" in shown for name in FIELDS if name not in ("data", "seed"))


@pytest.mark.parametrize("definitions", ["[1]", '{"digits": {"name": "mine"}}', "{}"])
def test_a_definition_that_is_none_is_its_own_tables_trouble_alone(
    definitions: str, tmp_path: Path, started: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finish(Store.at(tmp_path), plan())
    Store.at(tmp_path).rebuild(plan())
    lines = Store.at(tmp_path).table("stop_gradient")
    content = columns.encoded(columns.COLUMNS, lines, definitions={"x": 1})
    (tmp_path / "mine.parquet").write_bytes(
        content.replace(b'{"x": 1}', definitions.encode().ljust(8)[:8])
        if len(definitions) <= 8
        else columns.encoded(columns.COLUMNS, lines, definitions=json.loads(definitions))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert {table.name for table, _ in results.claims(root=tmp_path)} == {"stop_gradient"}
        assert report.words(Store.at(tmp_path), "csv").startswith("table,")
