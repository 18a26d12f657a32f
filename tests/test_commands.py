"""Commands that would do other than they say, silently: they are refused, or do what they say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import tiny

from ablations import files, options, report, request, run
from ablations.table import UserError

OWN = """\
from ablations.table import Row, Table

TABLE = Table(
    name="base",
    title="{title}",
    section="ours",
    varies=("momentum",),
    rows=(Row(name="usual", changes={{}}), {rows}),
)
"""


def own(folder: Path, title: str, *momenta: float) -> str:
    """A table's file in a folder -> its path."""
    folder.mkdir(exist_ok=True)
    rows = ", ".join(f'Row(name="{each}", changes={{"momentum": {each}}})' for each in momenta)
    (folder / "base.py").write_text(OWN.format(title=title, rows=rows))
    return str(folder / "base.py")


@pytest.mark.parametrize(
    "option", [["--claims"], ["--seeds-until-decided", "4"], ["--tune", "base_lr=1,2", "--claims"]]
)
@pytest.mark.parametrize("table", ["augmentation", "base.py"])
def test_claims_are_judged_only_where_there_are_some(
    option: list[str], table: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    name = own(tmp_path, "Mine", 0.5) if table == "base.py" else table
    assert run.main(["--table", name, *option, "--plan", "--results", str(tmp_path)]) == 2
    said = f"{option[-1] if option[-1] == '--claims' else option[0]} is for tables with claims. "
    assert f"error: {said}Got --table {name}, which has none: use --seeds N.\n" == capsys.readouterr().err


def test_what_a_grid_or_any_of_all_tables_decides_is_asked_for(tmp_path: Path) -> None:
    for asked in (["--grid", "base_lr=0.1,0.2", "--seeds-until-decided", "4"], ["--table", "all", "--claims"]):
        assert run.main([*asked, "--plan", "--results", str(tmp_path)]) == 0


def test_an_edited_table_goes_on_and_another_of_its_name_is_refused(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--launcher", "local", *tiny.OVERRIDES, "--results", str(tmp_path / "results")]
    assert run.main(["--table", own(tmp_path, "Mine", 0.5), *command]) == 0
    assert len(started) == 2
    assert run.main(["--table", own(tmp_path, "Mine", 0.5, 0.25), *command]) == 0  # a row was added
    assert len(started) == 3
    capsys.readouterr()
    assert run.main(["--table", own(tmp_path / "sub", "Another", 0.7), *command]) == 2
    message = capsys.readouterr().err
    assert "base.parquet is of another table, 'Mine'. This one's title is 'Another': give it, and its" in message
    assert len(started) == 3


def test_rows_of_a_tuned_table_are_judged_beside_those_that_ran_before(
    tmp_path: Path, started: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--table", "predictor", "--tune", "base_lr=0.1,0.5", "--seeds", "2", "--launcher", "local"]
    changed = {**tiny.FIELDS, "epochs": 1}
    del changed["base_lr"]
    its = [*(part for each in changed.items() for part in ("--set", "{}={}".format(*each))), "--results", str(tmp_path)]
    assert run.main([*command, *its]) == 0
    trained, whole = len(started), capsys.readouterr().out.partition("the paper's claim")[2]
    assert run.main([*command, "--rows", "none,frozen", *its]) == 0
    assert len(started) == trained
    again = capsys.readouterr().out
    assert "has not run" not in again
    assert again.partition("the paper's claim")[2] == whole
    assert "constant_lr" in whole


ONCE = {
    **{"--table": "a", "--rows": "a", "--recipe": "a", "--seeds": "1", "--name": "a", "--seeds-until-decided": "4"},
    **{"--data": "a", "--results": "a", "--launcher": "local", "--jobs": "1", "--price": "1", "--check": "a"},
    **{"--step": "graph", "--rerun": "stale", "--time-limit": "5", "--from": "a", "--weights": "a", "--device": "a"},
}


@pytest.mark.parametrize("option", ONCE)
def test_an_option_of_one_value_is_given_once(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    parser = options.parser()
    for _ in range(2):  # each command counts for itself
        parser.parse_args([option, ONCE[option]])
    with pytest.raises(SystemExit) as ended:
        parser.parse_args([option, ONCE[option], f"{option}={ONCE[option]}"])
    assert ended.value.code == 2
    assert f"argument {option}: it is given twice, and takes one value. " in capsys.readouterr().err


def test_how_several_are_asked_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    for words, remedy in {
        ("--table", "a", "--table", "b"): "Run one command for each table, or use --table all.",
        ("--rows", "a", "--rows", "b"): "Separate the rows by commas: --rows ONE,OTHER.",
        ("--recipe", "digits", "--recipe", "cifar10"): "Leave one out.",
    }.items():
        with pytest.raises(SystemExit):
            run.main(list(words))
        assert remedy in capsys.readouterr().err
    asked = options.parser().parse_args(
        ["--set", "a=1", "--set", "b=1", "--track", "none", "--track", "wandb", "--check"]
    )
    assert (asked.set, asked.track, asked.check) == (["a=1", "b=1"], ["none", "wandb"], "")


@pytest.mark.parametrize("command", [["--plan"], [], ["--list"]], ids=["plan", "run", "list"])
@pytest.mark.parametrize("place", ["file", "file/below", "x" * 300], ids=["file", "below", "long"])
def test_a_results_place_that_is_no_folder_is_a_wrong_command(
    command: list[str], place: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    table = ["--table", "stop_gradient", "--launcher", "local"]
    assert run.main([*table, *command, "--results", str(tmp_path / place)]) == 2
    message = capsys.readouterr().err
    assert re.search(r"cannot be (read|written): (Not a directory|File exists|File name too long)\. Give ", message)
    assert "Finished trials are kept" not in message
    assert "with --results." in message


def test_a_tilde_is_ones_home_and_an_empty_place_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    assert files.results_place("~/runs") == str(tmp_path / "runs")
    monkeypatch.setenv("SIMSIAM_RESULTS", "~/mine")
    assert files.results_place(None) == str(tmp_path / "mine")
    with pytest.raises(UserError, match=r"--results is empty\. Name a folder or a bucket, or leave it out\."):
        files.results_place("")
    monkeypatch.setenv("SIMSIAM_RESULTS", "")
    assert files.results_place(None) == str(run.ROOT / "results")


def test_the_results_of_an_installed_package_are_not_among_its_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMSIAM_RESULTS", raising=False)
    monkeypatch.setattr(files, "_ROOT", tmp_path / "site-packages")
    monkeypatch.chdir(tmp_path)
    assert files.results_place(None) == str(tmp_path / "results")


def test_a_tilde_of_data_is_ones_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for given in (["--data=~/pictures"], []):
        monkeypatch.setenv("SIMSIAM_DATA", "" if given else "~/pictures")
        with pytest.raises(UserError, match=str(tmp_path / "pictures")):
            request.source(options.parser().parse_args(["--recipe", "imagenette", *given]))


def test_a_tilde_of_any_file_is_ones_home(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/at/home")
    for option in ("weights", "check", "cluster"):
        assert getattr(options.parser().parse_args([f"--{option}=~/mine"]), option) == "/at/home/mine"
    assert report._parser().parse_args(["--figures=~/mine"]).figures == "/at/home/mine"


@pytest.mark.parametrize("values", ["0,1", "0.1,x", "0.1,0.1"])
def test_several_values_are_a_grid_only_where_each_is_one(values: str) -> None:
    with pytest.raises(UserError) as refused:
        request.overrides([f"base_lr={values}"])
    assert "--grid" not in str(refused.value)


def test_a_field_that_neither_set_nor_grid_takes_is_not_known() -> None:
    for option in ("--set", "--grid"):
        with pytest.raises(UserError, match="Unknown field 'sede'") as refused:
            options.assignment("sede=1", option, "FIELD=VALUE")
        assert not re.search(r"\b(data|seed)\b", str(refused.value).partition("Known:")[2])


@pytest.mark.parametrize("line", ["from . import other", "import other_of_mine", "from .other import x"])
def test_a_tables_file_stands_alone(line: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = Path(own(tmp_path, "Mine", 0.5))
    (tmp_path / "other_of_mine.py").write_text("")
    file.write_text(f"{line}\n{file.read_text()}")
    assert run.main(["--table", str(file), "--plan", "--results", str(tmp_path / "results")]) == 2
    message = capsys.readouterr().err
    assert message.startswith(f"error: {file}, line 1: ")
    assert "A table's file stands alone: it imports what is installed, and no file beside it." in message


def test_a_plan_says_how_to_see_all_of_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "stop_gradient", "--seeds", "7", "--plan", "--results", str(tmp_path)]
    assert run.main(command) == 0
    assert "... and 4 more: --plan --fingerprints shows all." in capsys.readouterr().out
