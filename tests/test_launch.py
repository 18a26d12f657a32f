"""The plan on a real Ray, started by the test: the same numbers as in one process, for any number of workers."""

from __future__ import annotations

import dataclasses
import functools
import shutil
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pandas as pd
import pytest
import ray.exceptions
import tiny
import torch
from moto.server import ThreadedMotoServer
from pictures import encoded, write_both_splits
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import (
    UserExceptionWithTraceback,
    WorkerGroupStartupTimeoutError,
    WorkerHealthCheckFailedError,
)

from ablations import launch, lines, options, progress, provenance, request, results, run
from ablations import store as stores
from ablations.launch import connection, trainable
from ablations.table import UserError
from simsiam import checkpoint
from simsiam.config import Runtime, fingerprint
from simsiam.data import DataError

# Ray leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),  # Ray starts its processes with a low priority: slow beside other work
]

CLOCK = ["wall_seconds", "device_seconds", "price", "eval_seconds", "images_per_second", "started", "ended"]
# The nodes' own: a URI with a key and its secret in it is refused.
KEYS = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_EC2_METADATA_DISABLED": "true"}
HOW = ["workers", "workers_by_step", "threads"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a small Ray on this machine, gone when the tests are."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 3, "object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("RAY_AUTH_MODE", "disabled")
        environment.setenv("OMP_NUM_THREADS", "1")
        for name, value in KEYS.items():
            environment.setenv(name, value)
        ray = Cluster(initialize_head=True, head_node_args=head)
        environment.setenv("RAY_ADDRESS", ray.address)
        yield ray.address
        ray.shutdown()


def science(folder: Path) -> pd.DataFrame:
    """A table without its clock, and without what tells launchers apart."""
    return pd.read_parquet(folder / "stop_gradient.parquet").drop(columns=[*CLOCK, *HOW, "message"])


def test_ray_gives_the_numbers_of_one_process_for_any_number_of_workers(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    told: list[int] = []
    monkeypatch.setattr(progress.Progress, "epoch", lambda self, name, line: told.append(line["epoch"]))
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--set", "precision=float64", "--rows", "with"]
    for name, arguments in {
        "local": ["--launcher", "local"],
        "one": [],
        "two": ["--workers", "2", "--price", "36"],
    }.items():
        told.clear()
        assert run.main([*command, *arguments, "--results", str(tmp_path / name)]) == 0
        assert told[-1] == tiny.FIELDS["epochs"]
    local, one, two = (science(tmp_path / name) for name in ("local", "one", "two"))
    pd.testing.assert_frame_equal(one, local, rtol=1e-9)
    pd.testing.assert_frame_equal(two, local, rtol=1e-6)
    (line,) = pd.read_parquet(tmp_path / "two" / "stop_gradient.parquet").to_dict("records")
    assert line["workers"] == 2
    assert line["device_seconds"] == pytest.approx(2 * line["wall_seconds"])
    assert line["price"] == pytest.approx(line["device_seconds"] / 100)
    assert not [*(tmp_path / "one").glob(".ray/*")]


@pytest.mark.slow
def test_workers_that_read_pictures_while_training_give_the_numbers_of_one_process(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    folder = write_both_splits(tmp_path / "data", [encoded(i, 12, 12 + i % 2) for i in range(40)])
    command = ["--table", "stop_gradient", "--rows", "with", "--data", str(folder), "--set", "precision=float64"]
    for name, value in (tiny.FIELDS | {"batch_size": 16, "train_images": 30}).items():
        command += ["--set", f"{name}={value}"]
    for name, arguments in {"local": ["--launcher", "local"], "two": ["--workers", "2"]}.items():
        assert run.main([*command, *arguments, "--results", str(tmp_path / name)]) == 0
    pd.testing.assert_frame_equal(science(tmp_path / "two"), science(tmp_path / "local"), rtol=1e-6)


def test_a_failing_trial_is_a_row_and_stops_no_other(cluster: str, tmp_path: Path) -> None:
    # A checkpoint of another Config makes its trial raise in the worker, each time it is tried.
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--results", str(tmp_path)]
    assert run.main([*command, "--plan"]) == 0
    trial, _ = request.read(options.parser().parse_args(command)).trials(range(1))
    content = checkpoint.pack(tiny.config(seed=99), {})
    stores.Store.at(tmp_path).checkpoint(trial.fingerprint, "simsiam").write(content)
    assert run.main(command) == 1
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet").set_index("row")
    assert table.outcome["with"] == "failed"
    assert table.message["with"]
    assert table.outcome["without"] in ("finished", "collapsed")


@pytest.mark.slow
def test_a_node_that_came_later_and_does_not_see_the_results_fails_its_trial(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What the workers look for is not there, as on a node with a disk of its own.
    monkeypatch.setattr(launch.cluster, "check_that_nodes_see", lambda *arguments: None)
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--rows", "with", "--results", str(tmp_path)]
    assert run.main(command) == 1
    (message,) = pd.read_parquet(tmp_path / "stop_gradient.parquet").message
    assert "does not see the results folder" in message


@pytest.mark.slow
def test_results_in_a_bucket(cluster: str) -> None:
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1")
    client.create_bucket(Bucket="bucket")
    # The cluster was started without these: the address carries them to its nodes.
    uri = f"s3://bucket/x?scheme=http&endpoint_override={host}:{port}&region=us-east-1"
    assert run.main(["--table", "stop_gradient", *tiny.OVERRIDES, "--results", uri]) == 0
    folder = stores.Store.at(uri).folder
    assert len(results.load("stop_gradient", root=uri)) == 2
    assert len(folder.names("trials")) == len(folder.names("curves")) == 2
    assert folder.names("checkpoints") == folder.names(".ray") == []
    server.stop()


@pytest.mark.parametrize(
    ("cause", "hopeless"),
    [
        (torch.OutOfMemoryError("CUDA out of memory"), True),
        (torch.AcceleratorError("CUDA error: out of memory"), True),
        (MemoryError(), True),
        (DataError("Corrupt image"), True),
        (checkpoint.WrongCheckpointError("of another Config"), True),
        (RuntimeError("Connection closed by peer"), False),
        (OSError("No space left on device"), False),
        (ray.exceptions.ActorDiedError(), False),
        (ray.exceptions.OutOfMemoryError("killed by the memory monitor"), False),
    ],
)
def test_what_would_end_in_the_same_way_is_not_tried_again(cause: Exception, hopeless: bool) -> None:
    assert trainable.hopeless(cause) == hopeless


def test_workers_get_the_code_as_it_was_when_the_command_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    here = tmp_path / "simsiam"
    shutil.copytree(connection.simsiam.__path__[0], here)
    monkeypatch.setattr(connection.simsiam, "__path__", [str(here)])
    code = connection._code.__wrapped__
    monkeypatch.setattr(connection, "_code", functools.cache(code))
    sent = connection._environment()["working_dir"]
    (here / "objective.py").write_text("edited = True")
    assert connection._environment()["working_dir"] == sent  # as at the next look of --seeds-until-decided
    assert "edited" not in (Path(sent) / "simsiam" / "objective.py").read_text()
    monkeypatch.setattr(connection, "_code", code)
    with pytest.raises(UserError, match="The code was edited while the command began"):
        connection._environment()


def no_place() -> Exception:
    return ControllerError(WorkerGroupStartupTimeoutError(num_workers=8))


def death(cause: Exception | None = None) -> Exception:
    return WorkerGroupError("1 failed", {0: cause or ray.exceptions.ActorDiedError()})


def test_a_trial_that_had_to_go_on_with_fewer_workers_asks_for_all_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = torch.OutOfMemoryError("CUDA out of memory")
    # What becomes of each worker group, and of how many workers the nodes have room for then.
    script = [(death(), 8), (no_place(), 4), (death(), 8), (no_place(), 4), (death(short), 8), (no_place(), 4)]
    script += [(no_place(), 5), (death(), 0)]
    asked, told, room = [], [], [8]

    def fit(job: Any, workers: int, name: str) -> Any:
        asked.append(workers)
        error, room[0] = script[len(asked) - 1]
        if len(asked) == len(script):
            raise death(DataError("Corrupt image"))  # which ends it
        raise error

    monkeypatch.setattr(trainable, "_fit", fit)
    monkeypatch.setattr(trainable.placement, "slots", lambda *_: room[0])
    monkeypatch.setattr(trainable.cluster, "current", lambda: None)
    board = SimpleNamespace(tell=lambda name, text: told.append(text))
    monkeypatch.setenv(trainable.PATIENCE, "1")  # which it sets for Train
    monkeypatch.setattr(trainable.trainer, "remove_placement_groups", lambda: None)
    config, store = tiny.config(), stores.Store.at(tmp_path)
    job = {"config": dataclasses.asdict(config), "runtime": dataclasses.asdict(Runtime(workers=8))}
    job |= {"results": str(tmp_path), "patience": 1, "given_up": False, "resources": {"GPU": 1.0}}
    trainable.trainable({"job": job}, {config.train_images: None}, board)
    told = [text for text in told if not text.startswith("waiting for ")]
    # After the fifth: four were too few for the memory, so five at least.
    assert asked == [8, 8, 4, 8, 4, 8, 8, 5]
    assert told[0].startswith("starting again with 8 of 8 workers: ActorDiedError: ")
    assert told[1] == "starting again with 4 of 8 workers: no place for 8 workers of 1 GPU"
    assert len(told) == len(script) - 1
    failure = store.failure(fingerprint(config))
    assert failure is not None
    assert failure["message"] == "DataError: Corrupt image"


def test_a_driver_after_one_that_died_within_its_last_write_leaves_the_result_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, store = tiny.config(), stores.Store.at(tmp_path)
    done = lines.unfinished(config, "finished", "") | {"sources": provenance.sources()}
    with monkeypatch.context() as dying:
        dying.setattr(stores.Store, "tidy", lambda *_: None)  # SIGKILL between the result and this
        store.write(done, [{"epoch": 1}])
    store.write_failure(lines.unfinished(config, lines.FAILED, "Monday's full disk"))
    store.checkpoint(fingerprint(config), "simsiam").write(b"last")
    job = {"config": dataclasses.asdict(config), "runtime": dataclasses.asdict(Runtime())}
    job |= {"results": str(tmp_path), "given_up": False}
    trainable.trainable({"job": job}, {config.train_images: None}, None)  # type: ignore[arg-type]
    assert store.trial(fingerprint(config))["outcome"] == "finished"
    assert store.failure(fingerprint(config)) is None
    assert store.checkpoint(fingerprint(config), "simsiam").read() is None


def test_the_cause_is_the_exception_as_the_worker_raised_it() -> None:
    raised = UserExceptionWithTraceback(DataError("Corrupt image in x.png"), "Traceback ...")
    assert str(trainable.cause_of(WorkerGroupError("1 failed", {1: raised}))) == "Corrupt image in x.png"
    assert str(trainable.cause_of(ControllerError(RuntimeError("no controller")))) == "no controller"
    dead = WorkerHealthCheckFailedError("A worker health check failed.", failure=ray.exceptions.OutOfMemoryError("x"))
    assert isinstance(trainable.cause_of(WorkerGroupError("1 failed", {0: dead})), ray.exceptions.OutOfMemoryError)
    echo, first = RuntimeError("Connection closed by peer"), torch.OutOfMemoryError("CUDA out of memory")
    assert trainable.cause_of(WorkerGroupError("2 failed", {0: echo, 1: first})) is first


def test_more_workers_than_the_cluster_holds_are_refused(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--workers", "4", "--results", str(tmp_path)]
    assert run.main(command) == 2
    assert "asks for 4 workers of 1 CPU. The cluster has 1 x 3 CPU: room for 3." in capsys.readouterr().err


def test_a_ray_that_does_not_start_in_time_is_said_in_a_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[Any]
) -> None:
    def init(*_: Any, **__: Any) -> None:
        raise Exception("The current node timed out during startup.")  # as ray.init does, of no kind of its own

    monkeypatch.setattr(connection.ray, "init", init)
    monkeypatch.setenv("RAY_ADDRESS", "local")
    assert run.main(["--table", "stop_gradient", *tiny.OVERRIDES, "--results", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "error: Ray did not start: The current node timed out during startup. On a busy machine try again; " in said
    assert "Traceback" not in said
