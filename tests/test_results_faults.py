"""What results say of files that are damaged, foreign, of older code, or of several kinds of lines."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from made import a_result, plan

from ablations import board, results
from ablations.columns import COLUMNS
from ablations.results import __main__ as results_main
from ablations.store import Store
from ablations.table import UserError

PUBLISHED = Path(__file__).resolve().parent.parent / "results" / "published" / "digits"

Change = Callable[[pa.Table], pa.Table]


def made(place: Path, change: Change | bytes = lambda table: table, *tables: str) -> Path:
    """A results folder of published tables, the first of them changed, or with another content."""
    place.mkdir(exist_ok=True)
    first, *others = tables or ("predictor",)
    for name in others:
        shutil.copy(PUBLISHED / f"{name}.parquet", place)
    if isinstance(change, bytes):
        (place / f"{first}.parquet").write_bytes(change)
    else:
        pq.write_table(change(pq.read_table(PUBLISHED / f"{first}.parquet")), place / f"{first}.parquet")
    return place


def without(table: pa.Table, name: str) -> pa.Table:
    """As an earlier version has written it."""
    return table.drop_columns([name]).replace_schema_metadata()


def of_before(table: pa.Table) -> pa.Table:
    """Its lines as another version of the recipe would have made them."""
    lines = [line | {"fingerprint": "f" * 10 + line["fingerprint"][10:]} for line in table.to_pylist()]
    return pa.Table.from_pylist(lines, schema=table.schema)


TRUNCATED = (PUBLISHED / "predictor.parquet").read_bytes()[:20_000]

READERS: dict[str, Callable[[Path], Any]] = {
    "load": lambda root: results.load("predictor", root=root),
    "curves": lambda root: results.curves("predictor", root=root),
    "pivot": lambda root: results.pivot("predictor", root=root),
    "fidelity": lambda root: results.fidelity("predictor", root=root),
    "claims": lambda root: results.claims(names=["predictor"], root=root),
    "compare": lambda root: results.compare("predictor", "none", "frozen", root=root),
}


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize(
    ("change", "says"),
    [
        (TRUNCATED, r"predictor\.parquet is damaged"),
        (b"", r"predictor\.parquet is damaged"),
        (lambda table: table.select(["loss"]), r"predictor\.parquet is no table of results"),
    ],
    ids=["truncated", "empty", "foreign"],
)
def test_a_file_that_cannot_be_read_is_told_by_all(
    name: str, change: Change | bytes, says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        READERS[name](made(tmp_path, change))


@pytest.mark.parametrize("name", ["load", "curves", "pivot", "fidelity"])
def test_a_file_without_lines_is_told(name: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"predictor\.parquet has no lines\. Run: python ablations/run\.py --table"):
        READERS[name](made(tmp_path, lambda table: table.slice(0, 0)))


@pytest.mark.parametrize("change", [TRUNCATED, lambda table: table.select(["loss"])], ids=["truncated", "foreign"])
def test_of_all_tables_one_that_cannot_be_read_is_noted_and_the_others_go_on(
    change: Change | bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = str(made(tmp_path, change, "predictor", "stop_gradient"))
    for command in (
        ["claims", "--results", there],
        ["compare", there, str(PUBLISHED)],
        ["diff", "stop_gradient/with", "stop_gradient/without", "--results", there],
    ):
        assert results_main.main(command) == 0
        told = capsys.readouterr()
        assert "stop_gradient" in told.out
        assert told.err.count("predictor.parquet is") == 1


def test_a_file_that_older_code_has_written_lacks_columns_and_is_read(tmp_path: Path) -> None:
    """Each column alone but those that a line is known by."""
    least = {"table", "row", "seed", "recipe", "overrides", "data", "fingerprint", "outcome"}
    for name in sorted(COLUMNS.keys() - least):
        root = made(tmp_path, lambda table, name=name: without(table, name))  # type: ignore[misc]
        assert "predictor/none seed 0 | predictor/frozen seed 0" in results.diff(
            "predictor/none", "predictor/frozen", root=root
        )
    for name in ("predictor_lr", "sources", "test_images", "encoder_from", "z_singular_values"):
        root = made(tmp_path, lambda table, name=name: without(table, name))  # type: ignore[misc]
        frame = results.load("predictor", overrides="", root=root)
        assert list(frame.columns) == list(COLUMNS)
        assert len(frame) == 20
        rows, _ = results.agreement(root, PUBLISHED)
        assert {row.says for row in rows} == {"agree"}
        assert len(results.fidelity("predictor", root=root)) == 1


def test_a_trial_that_older_code_has_written_is_shown_beside_another(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    trials = plan(seeds=[0])
    for trial in trials:
        store.write(a_result(trial.config), [])
    store.rebuild(trials)
    file = tmp_path / "trials" / f"{trials[0].fingerprint}.parquet"
    pq.write_table(without(without(pq.read_table(file), "wall_seconds"), "momentum"), file)
    told = results.diff("stop_gradient/with", "stop_gradient/without", root=tmp_path)
    assert next(line for line in told.splitlines() if line.startswith("| momentum ")).count("None") == 1


def test_a_column_that_someone_has_added_stays(tmp_path: Path) -> None:
    root = made(tmp_path, lambda table: table.append_column("mine", pa.array(range(len(table)))))
    assert results.load("predictor", recipe="digits", overrides="epochs=25", root=root).mine.nunique() == 20


def test_fidelity_refuses_several_data_sets_as_claims_do(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store, sets = Store.at(tmp_path), ("digits@0", "images@1")
    for data, sign in zip(sets, (1, -1), strict=True):
        for overrides in ({}, {"epochs": 25}):
            trials = plan("predictor", seeds=range(3), overrides=overrides, data=data)
            for trial in trials:
                place = [row.name for row in trial.table.rows].index(trial.row.name)
                there = sign if overrides else 1
                store.write(a_result(trial.config, knn_top1=70.0 + 5 * there * place, knn_top1_init=40.0), [])
            store.rebuild(trials)
    refused = "are of several data sets: digits@0, images@1. Choose one with --data."
    for command in (["fidelity", "predictor"], ["claims", "predictor"]):
        assert results_main.main([*command, "--results", str(tmp_path)]) == 2
        assert refused in capsys.readouterr().err
    assert [results.fidelity("predictor", data=data, root=tmp_path)[0].tau for data in sets] == [1.0, -1.0]
    trials = plan("predictor", seeds=[0], overrides={"dim": 64}, data="other@2")  # of no length that is asked for
    store.write(a_result(trials[0].config), [])
    store.rebuild(trials[:1])
    with pytest.raises(UserError, match=r"digits@0, images@1\. Choose"):
        results.fidelity("predictor", root=tmp_path)


def test_what_was_left_out_is_said_before_the_error_that_it_explains(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    there = str(made(tmp_path, of_before))
    for command, error in (
        (["fidelity", "predictor", "--results", there], "needs two lengths"),
        (["compare", there, str(PUBLISHED)], "no row of recipe digits in common"),
    ):
        assert results_main.main(command) == 2
        left, said = capsys.readouterr().err.splitlines()
        assert "lines of predictor left out: another version of the recipe" in left
        assert error in said


def test_watch_refuses_a_table_and_a_recipe_that_there_are_none_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for asked, error in (
        (["predictr"], "Unknown table 'predictr'. Did you mean 'predictor'?"),
        (["--recipe", "digit"], "Unknown recipe 'digit'. Did you mean 'digits'?"),
    ):
        assert results_main.main(["watch", "--once", *asked, "--results", str(tmp_path)]) == 2
        told = capsys.readouterr()
        assert error in told.err
        assert not told.out
    trial = board.Told(
        "mine/usual seed 0", "c" * 20, "running", 5
    )  # a table of one's own, of which nothing is done yet
    Store.at(tmp_path).folder.write("running/a.json", board.packed(board.Board("1 of 1", [trial])))
    assert results_main.main(["watch", "mine", "--once", "--results", str(tmp_path)]) == 0


def test_watch_says_that_a_file_cannot_be_read_now_and_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    there, told = made(tmp_path, TRUNCATED), list[str]()

    def look(_: float) -> None:
        told.append(capsys.readouterr().out)
        if len(told) == 2:
            raise KeyboardInterrupt
        made(there)

    monkeypatch.setattr(results_main.time, "sleep", look)
    assert results_main.main(["watch", "predictor", "--results", str(there)]) == 0
    assert "predictor.parquet is damaged" in told[0]
    assert "predictor: frozen does not collapse" in told[1]
    assert "damaged" not in told[1]


def test_what_is_not_there_names_what_is_and_the_option_that_chooses(
    capsys: pytest.CaptureFixture[str],
) -> None:
    here = str(PUBLISHED)
    digest = results.load("predictor", overrides="", root=PUBLISHED).data[0]
    for command, error in (
        (
            ["claims", "--data", "x", "--results", here],
            f"without overrides on x. Data that it has results on: {digest}.",
        ),
        (["claims", "--encoder-from", "x", "--results", here], "recipe digits 'x'. Known: none."),
        (["compare", here, here, "--other-overrides", "dim=3"], "results with: none, --other-overrides 'epochs=25'."),
        (["claims", "mine", "--results", here], "Unknown table 'mine'. Known: stop_gradient, predictor"),
    ):
        assert results_main.main(command) == 2
        assert error in capsys.readouterr().err


def test_compare_names_the_option_of_the_folder_that_has_several_data(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    for recipe, data in (("digits", "digits@0"), ("flowers", "images@1"), ("flowers", "images@2")):
        trials = plan(seeds=[0], recipe=recipe, data=data)
        for trial in trials:
            store.write(a_result(trial.config), [])
        store.rebuild(trials)
    with pytest.raises(UserError, match=r"data sets: images@1, images@2\. Choose one with --other-data\."):
        results.agreement(tmp_path, tmp_path, other_recipe="flowers")
    with pytest.raises(UserError, match=r"data sets: images@1, images@2\. Choose one with --data\."):
        results.agreement(tmp_path, tmp_path, recipe="flowers", other_recipe="digits")


def test_the_encoder_of_a_published_trial_is_said_not_to_be_kept(tmp_path: Path) -> None:
    fingerprint = results.load("stop_gradient", root=PUBLISHED).fingerprint[0]
    for ask in (
        lambda: results.encoder(fingerprint, root=PUBLISHED),
        lambda: results.export(fingerprint, tmp_path / "x.safetensors", root=PUBLISHED),
    ):
        with pytest.raises(UserError, match=rf"has the numbers of trial {fingerprint} alone.* --keep-checkpoints"):
            ask()
    with pytest.raises(UserError, match="has no finished trial"):
        results.encoder("0" * 20, root=PUBLISHED)


def test_names_are_taken_as_people_write_them() -> None:
    by_number = results.compare("batch_size", 64, 512, root=PUBLISHED)  # type: ignore[arg-type]
    assert by_number == results.compare("batch_size", "64", "512", root=PUBLISHED)
    assert {table.name for table, _ in results.claims(names="predictor", root=PUBLISHED)} == {"predictor"}


def test_watch_ends_with_its_reader(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "ablations.results", "watch", "--results", str(tmp_path)]
    watch = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert watch.stdout
    try:
        watch.stdout.readline()
        watch.stdout.close()
        assert watch.wait(timeout=60) == 0
    finally:
        watch.kill()


def test_a_column_of_another_type_is_an_error_that_says_so(tmp_path: Path) -> None:
    def text(table: pa.Table) -> pa.Table:
        at = table.column_names.index("z_std")
        return table.set_column(at, "z_std", table["z_std"].cast(pa.string()))

    with pytest.raises(UserError, match="of another type than this version's"):
        results.load("predictor", overrides="", root=made(tmp_path / "results", text))


def test_a_place_is_read_where_run_writes_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(tmp_path / "runs")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(results.load("predictor", overrides="", root="~/runs")) > 0
    with pytest.raises(UserError, match="The place of results is empty"):
        results.load("predictor", root="")
