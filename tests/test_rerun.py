"""--rerun, and what is kept of a finished trial while it runs again: neither a failure nor a kill loses a result."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import pytest
import tiny
from made import a_result, finish, plan

from ablations import provenance, rerun, run, training
from ablations import trial as trials
from ablations.files import DamagedError, Folder
from ablations.store import Store
from ablations.table import UserError

TINY = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *tiny.OVERRIDES]
AGAIN = ["--keep-checkpoints", "--rerun", "unkept"]


def test_rerun_unkept_without_keeping_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "stop_gradient", "--rerun", "unkept", "--results", str(tmp_path)]
    assert run.main(command) == 2
    assert "--rerun unkept is for --keep-checkpoints" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("owner", "name", "error", "code"),
    [
        (training, "_launcher", UserError("no place for a trial"), 2),
        (trials, "run", RuntimeError("out of luck"), 1),
        (trials, "run", KeyboardInterrupt(), 130),
    ],
)
def test_a_result_whose_trial_does_not_come_to_run_again_is_still_there(
    owner: Any, name: str, error: BaseException, code: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run.main([*TINY, "--results", str(tmp_path)]) == 0
    before = pd.read_parquet(tmp_path / "stop_gradient.parquet")
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, mock.Mock(side_effect=error))
        assert run.main([*TINY, *AGAIN, "--results", str(tmp_path)]) == code
    pd.testing.assert_frame_equal(pd.read_parquet(tmp_path / "stop_gradient.parquet"), before)
    store, (fingerprint,) = Store.at(tmp_path), before.fingerprint
    assert store.state(fingerprint) == "done"
    assert store.curve(fingerprint)


def test_a_checkpoint_that_is_kept_is_that_of_the_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    store.checkpoint(trial.fingerprint, "simsiam").write(b"old weights")
    finish_and_keep(store, trial)
    assert store.kept(trial.fingerprint) == b"old weights"
    assert store.unkept([trial.fingerprint]) == set()
    monkeypatch.setattr(provenance, "sources", lambda *_: "5" * 16)
    finish(store, [trial])
    assert store.kept(trial.fingerprint) is None
    assert store.unkept([trial.fingerprint]) == {trial.fingerprint}


def test_a_kept_checkpoint_that_a_disk_has_damaged_is_not_given(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    store.checkpoint(trial.fingerprint, "simsiam").write(b"weights")
    finish_and_keep(store, trial)
    (file,) = (tmp_path / "kept").iterdir()
    file.write_bytes(file.read_bytes().replace(b"weights", b"weighty"))
    with pytest.raises(DamagedError, match=f"kept/{file.name} is damaged"):
        store.kept(trial.fingerprint)


def test_a_trial_whose_checkpoint_a_disk_has_damaged_starts_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main([*TINY, "--results", str(tmp_path / "sound")]) == 0
    sound = pd.read_parquet(tmp_path / "sound" / "stop_gradient.parquet")
    damaged = Store.at(tmp_path).checkpoint(sound.fingerprint[0], "simsiam")
    damaged.folder.write(damaged.name, b"torn")
    capsys.readouterr()
    assert run.main([*TINY, "--results", str(tmp_path)]) == 0
    assert f"{damaged.name} is damaged: the trial starts again\n" in capsys.readouterr().err
    assert list(pd.read_parquet(tmp_path / "stop_gradient.parquet").loss) == list(sound.loss)


def test_a_disk_that_does_not_take_the_checkpoint_loses_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    store.checkpoint(trial.fingerprint, "simsiam").write(b"weights")
    write = Folder.write

    def full(folder: Folder, name: str, content: bytes) -> None:
        if name.startswith("kept/"):
            raise OSError(28, "No space left on device")
        write(folder, name, content)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "write", full)
        with pytest.raises(OSError, match="No space"):
            finish_and_keep(store, trial)
    assert store.state(trial.fingerprint) == "half done"
    finish_and_keep(store, trial)
    assert store.kept(trial.fingerprint) == b"weights"


@pytest.mark.parametrize("moves", range(5))
def test_what_a_kill_leaves_aside_is_back_with_the_next_command(
    moves: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, (trial, other) = Store.at(tmp_path), plan()
    finish(store, [trial, other])
    move, left = Folder.move, [moves]

    def killed(folder: Folder, name: str, to: str) -> None:
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        move(folder, name, to)

    with monkeypatch.context() as patch:
        patch.setattr(Folder, "move", killed)
        with (
            pytest.raises(KeyboardInterrupt),
            rerun.set_aside(store, [trial.fingerprint, other.fingerprint]),
        ):
            raise KeyboardInterrupt  # with which settling fails, as it does not happen after a SIGKILL
    assert store.state(trial.fingerprint) == ("to run" if moves else "done")
    rerun.settle(store)
    for each in (trial, other):
        assert store.state(each.fingerprint) == "done"
        assert store.curve(each.fingerprint)
    assert not store.folder.names("aside/trials")


def test_what_is_half_done_again_stays_aside_until_it_is_done(tmp_path: Path) -> None:
    store, (trial, _) = Store.at(tmp_path), plan()
    finish(store, [trial], knn_top1=80.0)
    with rerun.set_aside(store, [trial.fingerprint]):
        store.checkpoint(trial.fingerprint, "simsiam").write(b"half")
    assert store.state(trial.fingerprint) == "half done"
    finish(store, [trial])
    rerun.settle(store)
    (old,) = (tmp_path / "superseded" / "trials").iterdir()
    assert list(pd.read_parquet(old).knn_top1) == [80.0]
    assert (tmp_path / "superseded" / "curves" / old.name).exists()
    assert [line["knn_top1"] for line in [store.trial(trial.fingerprint)] if line] == [90.0]


def finish_and_keep(store: Store, trial: Any) -> None:
    store.write(a_result(trial.config), [{"epoch": 1, "loss": -0.5}], keep_checkpoint=True)


def test_an_old_failure_of_a_seed_that_is_not_asked_for_is_no_failure_of_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "decided.py"  # no claim is undecided after the first look
    its = "name='decided', title='t', section='s', varies=('momentum',)"
    its += ", rows=(Row(name='as it is', changes={}), Row(name='other', changes={'momentum': 0.8}))"
    its += ", claims=(Claim(WITHIN, ('as it is', 'other'), section='s', margin=99.0),)"
    table.write_text(f"from ablations.table import WITHIN, Claim, Row, Table\nTABLE = Table({its})\n")
    command = ["--table", str(table), "--launcher", "local", *tiny.OVERRIDES, "--results", str(tmp_path)]
    with monkeypatch.context() as patch:
        patch.setattr(trials, "run", lambda *_, **__: 1 / 0)
        assert run.main([*command, "--seeds", "3-3"]) == 1
    assert run.main([*command, "--seeds-until-decided", "4"]) == 0
