"""What other tools are told: read back by their own means, after a resume too, and never a trial's end."""

from __future__ import annotations

import struct
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import tiny
from tensorboardX.proto.event_pb2 import Event, SessionLog

from ablations import catalogue, planning, provenance, run, tracking
from ablations.files import Folder
from ablations.store import Store
from ablations.table import Trial, UserError
from ablations.tracking import Tracking


def a_trial(table: str = "stop_gradient", row: int = 0) -> Trial:
    return planning.plan(
        catalogue.get(table), recipe="digits", data="digits@0", train_images=1437, overrides={"epochs": 4}
    )[row]


def a_line(epoch: int, **numbers: Any) -> dict[str, Any]:
    return {"epoch": epoch, "loss": -epoch / 10, "z_std": None, "knn_top1": float("nan"), "lr": 0.1, **numbers}


END = {"outcome": "finished", "knn_top1": 90.0, "linear_top1": 95.0}


def tell(place: Path | str, *names: str, resumed: bool = False) -> None:
    """Three epochs of a trial; then, as after a death, from the second on, and its end."""
    with Tracking(names, Folder.at(place)) as told:
        for epoch in (1, 2, 3):
            told.epoch(a_trial(), a_line(epoch))
        if resumed:
            for epoch in (2, 3, 4):
                told.epoch(a_trial(), a_line(epoch, knn_top1=80.0))
            told.finish(a_trial(), END)


def events(folder: Path) -> Iterator[Event]:
    """Those of TensorBoard's files, in the order in which they were written."""
    for file in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime_ns):
        content = file.read_bytes()
        while content:  # length, its checksum, the event, its checksum
            (length,) = struct.unpack("<Q", content[:8])
            yield Event.FromString(content[12 : 12 + length])
            content = content[16 + length :]


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Name -> (step, value), as TensorBoard shows them: what is purged is gone."""
    shown: dict[str, list[tuple[int, float]]] = {}
    for event in events(folder):
        if event.HasField("session_log") and event.session_log.status == SessionLog.START:
            shown = {name: [each for each in several if each[0] < event.step] for name, several in shown.items()}
        for value in event.summary.value:
            shown.setdefault(value.tag, []).append((event.step, round(value.simple_value, 4)))
    return shown


def test_tensorboard_shows_each_epoch_once_after_a_resume(tmp_path: Path) -> None:
    tell(tmp_path, "tensorboard", resumed=True)
    (folder,) = (tmp_path / "tensorboard" / "stop_gradient").iterdir()
    assert folder.name.startswith("with seed 0 ")
    shown = scalars(folder)
    assert shown["loss"] == [(1, -0.1), (2, -0.2), (3, -0.3), (4, -0.4)]
    assert shown["knn_top1"] == [(2, 80.0), (3, 80.0), (4, 80.0)]  # what is not a number is left out
    assert shown["end/linear_top1"] == [(4, 95.0)]


def test_a_row_with_a_slash_is_one_folder_and_a_bucket_has_its_files_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    with Tracking(["tensorboard"], Folder("s3://bucket/results")) as told:
        told.epoch(a_trial("output_dim"), a_line(1))
    (folder,) = (tmp_path / "simsiam-results" / "tensorboard" / "output_dim").iterdir()
    assert folder.name.startswith("d_8 seed 0 ")
    assert f"its files are in {tmp_path}/simsiam-results/tensorboard" in capsys.readouterr().out


def test_a_run_is_tracked_by_default_and_on_each_launcher_alike(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SIMSIAM_TRACK")
    command = ["--table", "stop_gradient", "--launcher", "local", *tiny.OVERRIDES, "--results", str(tmp_path)]
    assert run.main(command) == 0
    folders = sorted((tmp_path / "tensorboard" / "stop_gradient").iterdir())
    trials = {line["fingerprint"][:8]: line for line in Store.at(tmp_path).table("stop_gradient")}
    assert len(folders) == 2
    for folder in folders:
        line = trials[folder.name.rpartition(" ")[2]]
        curve = Store.at(tmp_path).curve(line["fingerprint"])
        assert curve is not None
        assert scalars(folder)["loss"] == [(each["epoch"], round(each["loss"], 4)) for each in curve]
        assert scalars(folder)["end/knn_top1"][0][1] == pytest.approx(line["knn_top1"], abs=1e-3)


def test_mlflow_has_a_run_for_a_trial_and_goes_on_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"file://{tmp_path}/mlruns")
    tell(tmp_path, "mlflow")  # interrupted after three epochs
    with Tracking(["mlflow"], Folder.at(tmp_path)) as told:
        for epoch in (3, 4):
            told.epoch(a_trial(), a_line(epoch))
        told.finish(a_trial(), END)
    client = MlflowClient()
    experiment = client.get_experiment_by_name("simsiam-ablations")
    assert experiment is not None
    (found,) = client.search_runs([experiment.experiment_id])
    assert found.info.run_name == "stop_gradient/with seed 0"
    assert found.info.status == "FINISHED"
    assert found.data.params["base_lr"] == "0.2"
    assert found.data.tags["outcome"] == "finished"
    assert found.data.metrics["end/linear_top1"] == 95.0
    steps = [(each.step, each.value) for each in client.get_metric_history(found.info.run_id, "loss")]
    assert sorted(steps) == [(1, -0.1), (2, -0.2), (3, -0.3), (4, -0.4)]  # each once
    tell(tmp_path, "mlflow", resumed=True)  # trained again, from its start
    assert len(client.search_runs([experiment.experiment_id])) == 2
    monkeypatch.setattr(tracking.provenance, "sources", lambda *_: "5" * 16)
    with Tracking(["mlflow"], Folder.at(tmp_path)) as told:
        told.epoch(a_trial(), a_line(3))  # of other code
    assert len(client.search_runs([experiment.experiment_id])) == 3


def records(content: bytes) -> Iterator[bytes]:
    """Those of W&B's file: after its own header LevelDB's log, blocks of 32 KiB of whole or split records."""
    place, parts = 7, b""
    while place + 7 <= len(content):
        if 32768 - place % 32768 < 7:
            place += 32768 - place % 32768
            continue
        length, kind = struct.unpack("<HB", content[place + 4 : place + 7])
        parts += content[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part of one
            yield parts
            parts = b""


def test_wandb_gets_a_run_for_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import wandb
    from wandb.proto.wandb_internal_pb2 import Record

    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path))
    tell(tmp_path, "wandb", resumed=True)
    wandb.teardown()
    (file,) = tmp_path.glob("wandb/offline-run-*/run-*.wandb")
    assert file.stem == f"run-{a_trial().fingerprint}-{provenance.sources()}"
    steps, summary = dict[int, dict[str, str]](), dict[str, str]()
    for record in map(Record.FromString, records(file.read_bytes())):
        if record.HasField("history"):
            items = {item.key or ".".join(item.nested_key): item.value_json for item in record.history.item}
            steps[int(record.history.step.num)] = items
        summary |= {each.key or ".".join(each.nested_key): each.value_json for each in record.summary.update}
        if record.HasField("run"):
            assert (record.run.display_name, record.run.run_group) == ("stop_gradient/with seed 0", "stop_gradient")
    assert [float(steps[epoch]["loss"]) for epoch in (1, 2, 3, 4)] == [-0.1, -0.2, -0.3, -0.4]
    assert summary["outcome"] == '"finished"'


class Broken:
    """A tracker whose server has gone, or does not answer."""

    def __init__(self, hangs: threading.Event | None = None) -> None:
        self.hangs, self.asked = hangs, 0

    def begin(self, trial: Trial, epoch: int) -> None:
        self.asked += 1
        if self.hangs is None:
            raise ConnectionError("no route")
        self.hangs.wait(20)

    def log(self, trial: Trial, epoch: int, numbers: Mapping[str, float]) -> None:
        self.asked += 1

    def end(self, trial: Trial, outcome: str, epoch: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


def test_a_tracker_that_fails_is_told_no_more_and_the_others_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = Broken()
    monkeypatch.setitem(tracking._MADE_BY, "wandb", lambda folder: broken)
    tell(tmp_path, "wandb", "tensorboard", resumed=True)
    assert broken.asked == 1
    message = capsys.readouterr().err
    assert message == "wandb is told no more of this run (ConnectionError: no route). The trials go on.\n"
    (folder,) = (tmp_path / "tensorboard" / "stop_gradient").iterdir()
    assert len(scalars(folder)["loss"]) == 4


def test_a_server_that_does_not_answer_keeps_nothing_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    answers = threading.Event()
    monkeypatch.setitem(tracking._MADE_BY, "wandb", lambda folder: Broken(answers))
    monkeypatch.setattr(tracking, "_SECONDS", 0.2)
    begun = time.monotonic()
    tell(tmp_path, "wandb", resumed=True)
    assert time.monotonic() - begun < 10
    answers.set()
    assert "wandb did not take all that there was to tell in 0.2 s." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("name", "module", "said"),
    [
        ("wandb", "wandb", 'pip install -e ".[wandb]"'),
        ("mlflow", "mlflow", 'pip install -e ".[mlflow]"'),
        ("mlflow", "", "needs MLFLOW_TRACKING_URI"),
    ],
)
def test_what_is_asked_for_and_not_there_is_refused_before_anything_starts(
    name: str,
    module: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    started: list[str],
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    if module:
        monkeypatch.setitem(sys.modules, module, None)
    command = ["--table", "stop_gradient", "--launcher", "local", *tiny.OVERRIDES, "--results", str(tmp_path)]
    assert run.main([*command, "--track", name]) == 2
    assert said in capsys.readouterr().err
    assert started == []


def test_without_a_writer_tensorboard_is_no_error_and_an_unknown_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("tensorboardX", "torch.utils.tensorboard"):
        monkeypatch.setitem(sys.modules, module, None)
    tell(tmp_path, "tensorboard", resumed=True)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setenv("SIMSIAM_TRACK", "")  # as where it is not set
    assert tracking.default_trackers() == ["tensorboard"]
    monkeypatch.setenv("SIMSIAM_TRACK", "tensorbord")
    with pytest.raises(UserError, match="Did you mean 'tensorboard'"):
        tracking.default_trackers()
