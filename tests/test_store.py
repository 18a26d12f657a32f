"""Parquet on a disk: what is kept, what is told apart, and what a torn write leaves."""

from __future__ import annotations

import dataclasses
import math
import os
import struct
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from made import a_result, finish, plan
from test_config import some_configs

from ablations import planning, provenance
from ablations.columns import COLUMNS
from ablations.files import Folder
from ablations.lines import FAILED, INFEASIBLE, unfinished
from ablations.rebuild import Rebuild
from ablations.store import Store
from ablations.table import Row, Table, UserError
from simsiam.config import FIELDS, Config, fingerprint


@settings(max_examples=50, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(config=some_configs())
def test_a_config_survives_parquet(tmp_path: Path, config: Config) -> None:
    store = Store.at(tmp_path)
    store.write(a_result(config), [])
    kept = store.trial(fingerprint(config))
    assert kept is not None
    assert Config(**{name: kept[name] for name in FIELDS}) == config


def test_a_table_is_in_the_papers_order_with_every_column_of_the_schema(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan("predictor", seeds=range(2))
    finish(store, trials[::-1])
    store.rebuild(trials)
    frame = pd.read_parquet(tmp_path / "predictor.parquet")
    assert list(frame.columns) == list(COLUMNS)
    assert list(zip(frame.row, frame.seed, strict=True)) == [(t.row.name, t.config.seed) for t in trials]
    assert list(frame.paper) == [67.7, 67.7, 0.1, 0.1, 1.5, 1.5, 68.1, 68.1]
    assert frame.predictor_lr.isna().sum() == 4
    units = {field.name: field.metadata[b"unit"] for field in pq.read_schema(tmp_path / "predictor.parquet")}
    assert units["knn_top1"] == b"per cent of the test set"


def test_one_trial_is_a_row_of_every_table_that_asks_for_it(tmp_path: Path) -> None:
    store = Store.at(tmp_path)
    trials = [*plan("stop_gradient"), *plan("predictor")]
    finish(store, [trials[0]])
    store.rebuild(trials)
    assert [line["row"] for line in store.table("stop_gradient")] == ["with"]
    assert [line["row"] for line in store.table("predictor")] == ["baseline"]


def test_a_quick_try_stands_beside_the_table_and_replaces_nothing(tmp_path: Path) -> None:
    store, real, quick = Store.at(tmp_path), plan(seeds=range(2)), plan(overrides={"epochs": 1})
    finish(store, real)
    store.rebuild(real)
    finish(store, quick, knn_top1=10.0)
    store.rebuild(quick)
    frame = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    assert list(frame[frame.overrides == ""].knn_top1) == [90.0] * 4
    assert list(frame[frame.overrides == "epochs=1"].knn_top1) == [10.0] * 2


def test_outcomes_without_numbers_are_rows_but_not_done(tmp_path: Path) -> None:
    table = Table(
        name="t",
        title="T",
        section="",
        varies=("batch_size",),
        rows=(Row(name="ok", changes={}), Row(name="huge", changes={"batch_size": 4096})),
    )
    trials = planning.plan(table, recipe="digits", data="digits@0", train_images=1437, overrides={})
    store = Store.at(tmp_path)
    store.write_failure(unfinished(trials[0].config, "failed", "it broke"))
    store.rebuild(trials)
    assert [(line["outcome"], line["message"]) for line in store.table("t")] == [
        ("failed", "it broke"),
        (INFEASIBLE, "batch_size must be at most the 1437 training images. Got 4096 instead."),
    ]
    assert store.trial(trials[0].fingerprint) is None
    finish(store, [trials[0]])
    store.rebuild(trials)
    assert store.table("t")[0]["outcome"] == "finished"
    assert store.failure(trials[0].fingerprint) is None


def test_a_finished_trial_leaves_its_curve_and_no_checkpoint(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    place = store.checkpoint(trial.fingerprint, "simsiam")
    place.write(b"half")
    assert place.read() == b"half"
    finish(store, [trial])
    assert place.read() is None
    assert pd.read_parquet(tmp_path / "curves" / f"{trial.fingerprint}.parquet").epoch.tolist() == [1]


def test_what_a_writer_killed_within_a_checkpoint_left_goes_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (trial, other) = Store.at(tmp_path), plan()
    with monkeypatch.context() as dying:
        dying.setattr(Path, "unlink", lambda path, missing_ok: None)
        dying.setattr(os, "replace", lambda path, to: None)  # SIGKILL after the write, before the rename
        for each in (trial, other):
            store.checkpoint(each.fingerprint, "simsiam").write(b"half")
    left = sorted(path.name.split("-")[0] for path in (tmp_path / "checkpoints").iterdir())
    assert left == sorted([f".{trial.fingerprint}", f".{other.fingerprint}"])
    finish(store, [trial])
    assert [path.name.split("-")[0] for path in (tmp_path / "checkpoints").iterdir()] == [f".{other.fingerprint}"]


def test_a_result_stays_in_the_table_where_another_command_cannot_start_it(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan()
    finish(store, trials[:1])
    store.rebuild([dataclasses.replace(trial, infeasible="too many workers") for trial in trials])
    lines = store.table("stop_gradient")
    assert [(line["outcome"], line["knn_top1"]) for line in lines] == [("finished", 90.0), (INFEASIBLE, None)]


def test_a_write_that_dies_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    finish(store, [trial])

    def die(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    for call in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, call, die)
            with pytest.raises(OSError, match="No space"):
                finish(store, [trial], knn_top1=1.0)
        kept = store.trial(trial.fingerprint)
        assert kept is not None
        assert kept["knn_top1"] == 90.0
    assert not [*tmp_path.rglob("*.tmp")]


def test_the_curve_is_there_before_the_trial_is_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    written: list[str] = []
    replace = os.replace

    def record(source: Path, target: Path) -> None:
        written.append(Path(target).parent.name)
        replace(source, target)

    monkeypatch.setattr(os, "replace", record)
    finish(store, [trial])
    assert written == ["curves", "trials"]


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    finish(store, [trial])
    file = tmp_path / "trials" / f"{trial.fingerprint}.parquet"
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match=f"{file.name} is damaged"):
        store.trial(trial.fingerprint)


def test_a_number_that_a_disk_has_changed_is_not_read(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    finish(store, [trial], knn_top1=81.375)
    file = tmp_path / "trials" / f"{trial.fingerprint}.parquet"
    whole, (one, other) = file.read_bytes(), (struct.pack("<d", number) for number in (81.375, 91.375))
    for was, now in ((one, other), (b"knn_top1", b"knn_top0")):
        assert was in whole
        file.write_bytes(whole.replace(was, now))
        with pytest.raises(UserError, match=f"{file.name} is damaged"):
            store.trial(trial.fingerprint)


def test_what_a_table_carries_is_not_read_where_a_disk_has_changed_it(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan()
    finish(store, trials)
    store.rebuild(trials)
    file = tmp_path / "stop_gradient.parquet"
    table = pq.read_table(file)
    told = dict(table.schema.metadata)
    (stamps,) = (key for key, value in told.items() if trials[0].fingerprint.encode() in value)
    told[stamps] = told[stamps].replace(trials[0].fingerprint.encode(), b"0" * 20)  # still JSON
    pq.write_table(table.replace_schema_metadata(told), file)
    with pytest.raises(UserError, match=r"stop_gradient\.parquet is damaged"):
        Store.at(tmp_path).table("stop_gradient")


def test_a_damaged_curve_comes_with_what_makes_it_again(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    name = trial.fingerprint
    for kind in ("curves", "pictures"):
        store.write(a_result(trial.config) | {"pictures": []}, [{"epoch": 1}])
        file = tmp_path / kind / f"{name}.parquet"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(b"x")
        read = {"curves": store.curve, "pictures": store.pictures}[kind]
        with pytest.raises(UserError, match=f"Remove it and trials/{name}.parquet; the same command trains it again"):
            read(name)
        file.unlink()
        (tmp_path / f"trials/{name}.parquet").unlink()
        assert store.state(name) == "to run"
    file.write_bytes(b"x")
    with pytest.raises(UserError, match="Remove it, or fetch it again"):
        store.pictures(name)


def test_a_damaged_table_hides_no_state(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan()
    finish(store, trials)
    (tmp_path / "stop_gradient.parquet").write_bytes(b"torn")
    assert set(store.states(trial.fingerprint for trial in trials).values()) == {"done"}
    with pytest.raises(UserError, match=r"stop_gradient\.parquet is damaged"):
        store.rebuild(trials)


def test_a_result_of_other_sources_is_stale_and_kept_when_it_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    store.checkpoint(trial.fingerprint, "simsiam").write(b"half")
    assert store.state(trial.fingerprint) == "half done"
    finish(store, [trial])
    assert store.state(trial.fingerprint) == "done"
    old = provenance.sources()
    monkeypatch.setattr(provenance, "sources", lambda *_: "5" * 16)
    assert store.state(trial.fingerprint) == "stale"
    finish(store, [trial], knn_top1=91.0)
    assert store.state(trial.fingerprint) == "done"
    kept = pd.read_parquet(tmp_path / "superseded" / "trials" / f"{trial.fingerprint}-{old}.parquet")
    assert list(kept.knn_top1) == [90.0]
    assert (tmp_path / "superseded" / "curves" / f"{trial.fingerprint}-{old}.parquet").exists()


def test_a_checkpoint_of_other_sources_is_not_gone_on_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    store.checkpoint(trial.fingerprint, "simsiam").write(b"half")
    monkeypatch.setattr(provenance, "sources", lambda *_: "5" * 16)
    assert store.checkpoint(trial.fingerprint, "simsiam").read() is None
    assert store.state(trial.fingerprint) == "to run"


def test_table_files_take_what_is_new_and_are_made_again_where_they_are_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, trials = Store.at(tmp_path), plan(seeds=range(3))
    rebuild, read = Rebuild(store, trials), []
    real = Store.trial
    monkeypatch.setattr(Store, "trial", lambda self, fingerprint: read.append(fingerprint) or real(self, fingerprint))
    rebuild.at_once()
    for done in trials:
        finish(store, [done])
        read.clear()
        rebuild.at_once()
        assert read == [done.fingerprint]
    whole = store.table("stop_gradient")
    assert len(whole) == len(trials)
    read.clear()
    rebuild.at_once()
    assert read == []
    (tmp_path / "stop_gradient.parquet").unlink()
    rebuild.at_once()
    assert store.table("stop_gradient") == whole
    finish(store, trials[:1], knn_top1=12.0)
    rebuild.at_once()
    assert [line["knn_top1"] for line in store.table("stop_gradient")] == [12.0] + [90.0] * (len(trials) - 1)


def test_states_of_what_is_in_a_table_open_no_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, trials = Store.at(tmp_path), plan(seeds=range(3))
    asked = [trial.fingerprint for trial in trials]
    finish(store, trials[:-1])
    Rebuild(store, trials).at_once()
    opened, real = [], Folder.read

    def read(self: Folder, name: str) -> bytes | None:
        opened.append(name)
        return real(self, name)

    monkeypatch.setattr(Folder, "read", read)
    assert list(store.states(asked).values()) == ["done"] * 5 + ["to run"]
    assert opened == ["stop_gradient.parquet"]
    # A newer result that no table has yet, by other sources: its file is asked, and the table of the others.
    monkeypatch.setattr(provenance, "sources", lambda *_: "5" * 16)
    assert list(store.states(asked).values()) == ["stale"] * 5 + ["to run"]
    finish(store, trials[:1])
    opened.clear()
    assert list(store.states(asked).values()) == ["done"] + ["stale"] * 4 + ["to run"]
    assert opened == ["stop_gradient.parquet", f"trials/{asked[0]}.parquet"]
    Rebuild(store, trials[:1]).at_once()  # the others' lines, and what is known of their files, stay
    opened.clear()
    assert list(store.states(asked).values()) == ["done"] + ["stale"] * 4 + ["to run"]
    assert opened == ["stop_gradient.parquet"]


def test_states_are_those_of_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (done, failed, half, stale, both, new) = Store.at(tmp_path), plan(seeds=range(3))
    finish(store, [stale])
    monkeypatch.setattr(provenance, "sources", lambda *_: "5" * 16)
    finish(store, [done, both])
    for trial in (failed, both):
        store.write_failure(unfinished(trial.config, FAILED, "as the test asked"))
    store.checkpoint(half.fingerprint, "simsiam").write(b"half")
    asked = [trial.fingerprint for trial in (done, failed, half, stale, both, new)]
    assert list(store.states(asked).values()) == ["done", "failed", "half done", "stale", "done", "to run"]
    assert store.states(asked) == {fingerprint: store.state(fingerprint) for fingerprint in asked}
    assert [failure["fingerprint"] for failure in store.failures(asked)] == [failed.fingerprint, both.fingerprint]


def test_two_writers_of_one_table_lose_nothing(tmp_path: Path) -> None:
    sets = [plan(overrides={"epochs": 1 + i}, seeds=range(3)) for i in range(4)]
    store = Store.at(tmp_path)
    for trials in sets:
        finish(store, trials)
    with ThreadPoolExecutor() as pool:  # flock is of an open file, so threads that open it each stand for processes
        for _ in pool.map(store.rebuild, sets * 5):
            pass
    assert len(store.table("stop_gradient")) == 24


def test_numbers_that_are_not_finite_survive(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    finish(store, [trial], outcome="diverged", loss=math.nan, z_std=math.inf)
    kept = store.trial(trial.fingerprint)
    assert kept is not None
    assert math.isnan(kept["loss"])
    assert kept["z_std"] == math.inf


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"results folder .*file.* cannot be written"):
        Store.at(tmp_path / "file").folder.check_writable()
    Store.at(tmp_path / "new" / "folder").folder.check_writable()
