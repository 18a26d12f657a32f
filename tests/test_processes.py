"""The processes of trials of one worker, on a real Ray: one trial after another in one of them, and what if it dies."""

from __future__ import annotations

import collections
import itertools
import os
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
import ray.exceptions
import tiny
from made import plan
from ray import cloudpickle, tune
from ray.tune.search import Searcher

from ablations import launch, lines, options, request, run
from ablations import store as stores
from ablations.columns import METRICS
from ablations.launch import notices, tuner, watch, work
from ablations.launch.queue import Queue
from ablations.launch.trainable import hopeless
from ablations.progress import Progress
from ablations.trial import failure as trials_failure
from simsiam import distributed
from simsiam.config import Config, Runtime, fingerprint
from simsiam.data import DataError

# Ray leaves sockets to the garbage collector.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning"),
    pytest.mark.timeout(600),  # Ray starts its processes with a low priority: slow beside other work
]

# A process that torchrun has started has these; Ray's take them over.
TORCHRUN = dict(
    RANK="1", WORLD_SIZE="4", LOCAL_RANK="1", LOCAL_WORLD_SIZE="4", MASTER_ADDR="127.0.0.1", MASTER_PORT="9"
)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A small Ray on this machine, started within a torchrun, that takes itself to have one GPU."""
    from ray.cluster_utils import Cluster

    head = {"num_cpus": 2, "num_gpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
    with pytest.MonkeyPatch.context() as environment:
        for name, value in {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "2", **TORCHRUN}.items():
            environment.setenv(name, value)
        ray = Cluster(initialize_head=True, head_node_args=head)
        environment.setenv("RAY_ADDRESS", ray.address)
        yield
        ray.shutdown()


# Put before the training of each trial. Its line: the seed, the process and the GPU that it is given.
SABOTAGE = """
_work = work


def work(job):
    import os, signal
    from simsiam.checkpoint import TimeLimitError

    seed, diary = job["config"]["seed"], job["results"] + "/diary"
    with open(diary, "a") as file:
        print(seed, os.getpid(), os.environ.get("CUDA_VISIBLE_DEVICES"), torch.distributed.is_initialized(), file=file)
    tries = [line.split()[0] for line in open(diary)].count(str(seed))
    {}
    return _work(job)
"""


@pytest.fixture
def sabotage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Changes the code that the trials get."""

    def change(code: str) -> None:
        copy = tmp_path / "code"
        for package in (launch.connection.simsiam, launch.connection.ablations):
            shutil.copytree(package.__path__[0], copy / package.__name__)
        with open(copy / "ablations" / "launch" / "work.py", "a") as file:
            file.write(SABOTAGE.format(code.replace("\n", "\n    ")))
        monkeypatch.setattr(launch.connection, "_code", lambda: str(copy))

    return change


def command(results: Path, seeds: int, *more: str) -> list[str]:
    asked = ["--table", "stop_gradient", "--rows", "with", "--seeds", str(seeds), *tiny.OVERRIDES, *more]
    return [*asked, "--results", str(results)]


def diary(results: Path) -> dict[int, list[list[str]]]:
    """Seed -> a line for each time that it was started."""
    lines = collections.defaultdict(list)
    for line in (results / "diary").read_text().splitlines():
        lines[int(line.split()[0])].append(line.split()[1:])
    return lines


@pytest.mark.slow
def test_trials_share_a_process_until_it_dies_fails_or_keeps_memory(
    cluster: None, sabotage: Any, tmp_path: Path
) -> None:
    sabotage("""\
if seed == 2 and tries == 1:
    os.kill(os.getpid(), signal.SIGSEGV)
if seed == 4 and tries == 1:
    raise RuntimeError("CUDA error: an illegal memory access was encountered")
if seed == 6:
    globals()["kept"] = bytearray(os.urandom(1)) * (3 << 29)""")
    results = tmp_path / "ray"
    assert run.main(command(results, 8)) == 0
    assert run.main(command(tmp_path / "local", 8, "--launcher", "local")) == 0
    ours, local = (pd.read_parquet(folder / "stop_gradient.parquet") for folder in (results, tmp_path / "local"))
    names = [*METRICS, "threads"]
    pd.testing.assert_frame_equal(ours[names], local[names], check_exact=True)

    started = diary(results)
    assert {seed: len(lines) for seed, lines in started.items()} == {0: 1, 1: 1, 2: 2, 3: 1, 4: 2, 5: 1, 6: 1, 7: 1}
    order = [(int(line.split()[0]), line.split()[1]) for line in (results / "diary").read_text().splitlines()]
    for (seed, process), (_, after) in itertools.pairwise(order):
        dies = (seed in (2, 4) and process == started[seed][0][0]) or seed == 6
        assert (process != after) == dies, order
    assert all(line[2] == "False" for lines in started.values() for line in lines)  # no torchrun's process group


@pytest.mark.slow
def test_what_dies_in_one_place_again_and_again_is_given_up_and_stops_no_other(
    cluster: None, sabotage: Any, tmp_path: Path
) -> None:
    sabotage("""\
if seed == 0:
    os.kill(os.getpid(), signal.SIGSEGV)
if seed == 1:
    raise ValueError("as the test asked")""")
    assert run.main(command(tmp_path, 3, "--gpus-per-trial", "0.5")) == 1
    started = diary(tmp_path)
    assert {seed: len(lines) for seed, lines in started.items()} == {0: 6, 1: 1, 2: 1}
    assert {line[1] for lines in started.values() for line in lines} == {"0"}  # one GPU, shared
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet").set_index("seed")
    assert list(table.outcome[[0, 1]]) == ["failed", "failed"]
    assert table.message[0].startswith("ActorDiedError: ")
    assert table.message[1] == "ValueError: as the test asked"
    assert table.outcome[2] in ("finished", "collapsed")


def test_pictures_that_one_node_does_not_get_end_no_other_trial(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(work.ray, "get", lambda pictures: pictures)  # too large to be held
    monkeypatch.setattr(work.ray.util, "get_node_ip_address", lambda: "10.0.0.7")
    with pytest.raises(OSError, match=r"10\.0\.0\.7 does not get the pictures: .*gone does not exist") as raised:
        work._pictures({"pictures": None}, Runtime(data_path=str(tmp_path / "gone")))
    assert not hopeless(raised.value)
    assert lines.spoiled({"message": trials_failure(raised.value, 1, 1.0)}) is None


def test_trials_that_have_not_begun_do_not_begin_once_the_data_are_wrong(
    cluster: None, sabotage: Any, tmp_path: Path
) -> None:
    sabotage("""\
if seed == 1:
    from simsiam.data import DataError
    raise DataError("Corrupt image in x.png")""")
    assert run.main(command(tmp_path, 5)) == 1
    assert diary(tmp_path).keys() == {0, 1}
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet").set_index("seed")
    assert table.outcome[0] in ("finished", "collapsed")
    assert set(table.outcome[1:]) == {"failed"}
    assert set(table.message[1:]) == {"DataError: Corrupt image in x.png"}


def test_a_trial_that_the_time_limit_ends_has_not_failed_and_does_not_start_again(
    cluster: None, sabotage: Any, tmp_path: Path
) -> None:
    sabotage("""\
if seed == 1:
    raise TimeLimitError""")
    todo = request.read(options.parser().parse_args(command(tmp_path, 3))).trials(range(3))
    store, told = stores.Store.at(tmp_path), Progress(todo)
    store.write_failure(lines.unfinished(todo[1].config, lines.FAILED, "Monday's full disk"))
    with launch.ready(store) as run_trials:
        left = run_trials(todo, Runtime(until=time.time() + 3600), store, told, lambda ended: None)
    assert left == [todo[1]]
    assert len(diary(tmp_path)[1]) == 1
    assert [store.state(trial.fingerprint) for trial in todo] == ["done", "failed", "done"]
    begun = time.monotonic()
    with launch.ready(store) as run_trials:
        assert run_trials(todo[1:2], Runtime(until=time.time() - 1), store, told, lambda ended: None) == [todo[1]]
    assert time.monotonic() - begun < 60
    assert len(diary(tmp_path)[1]) == 1


class Trials:
    """A watch without a Ray, and one trial that ends in exceptions."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: list[str] = []
        monkeypatch.setattr(watch, "Mailbox", lambda: SimpleNamespace(take=dict))
        progress: Any = SimpleNamespace(
            note=lambda name, text: self.told.append(text), finish=lambda name, result: None
        )
        self.store, self.file, self.config = stores.Store.at(folder), folder / "error.pkl", tiny.config()
        self.watch = watch.Watch(self.store, progress, lambda ended: None, Runtime())
        job = {"config": vars(self.config), "runtime": vars(Runtime()), "given_up": False}
        self.trial = SimpleNamespace(config={"job": job}, pickled_error_file=str(self.file))

    def fail(self, error: BaseException) -> bool:
        """Whether it is given up."""
        self.file.write_bytes(cloudpickle.dumps(error))
        self.watch.on_trial_recover(0, [], self.trial)
        return bool(self.trial.config["job"]["given_up"])

    def save(self, content: bytes) -> None:
        self.store.checkpoint(fingerprint(self.config), "simsiam").write(content)


def test_a_trial_is_tried_again_for_as_long_as_it_gets_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials, death = Trials(tmp_path, monkeypatch), ray.exceptions.ActorDiedError()
    for number in range(10):
        trials.save(b"%d" % number)
        assert not trials.fail(death)
    assert [trials.fail(death) for _ in range(5)] == [False] * 4 + [True]
    assert len(trials.told) == 14
    assert trials.told[0].startswith("starting again: ActorDiedError: ")
    failure = trials.store.failure(fingerprint(trials.config))
    assert failure is not None
    assert failure["message"].startswith("ActorDiedError: ")


def test_what_no_trial_has_a_place_for_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    now = [1000.0]
    monkeypatch.setattr(watch.time, "monotonic", lambda: now[0])
    monkeypatch.setattr(watch.connection, "free", lambda: "0 of 2 CPUs")
    trials = Trials(tmp_path, monkeypatch)
    trials.trial.config["job"]["resources"] = {"CPU": 1.0}
    for status, seconds in (("PENDING", 19), ("RUNNING", 30), ("PENDING", 19), ("TERMINATED", 30), ("PENDING", 21)):
        trials.trial.status = status
        now[0] += seconds
        trials.watch.on_step_end(0, [trials.trial])
    assert capsys.readouterr().out == "Waiting: a trial asks for 1 worker of 1 CPU; free: 0 of 2 CPUs.\n"


def test_what_is_hopeless_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Trials(tmp_path, monkeypatch).fail(DataError("Corrupt image"))


def test_what_is_wrong_with_the_data_gives_up_all_that_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(tmp_path, monkeypatch)
    others = []
    for seed, status in ((1, "PENDING"), (2, "RUNNING")):
        job = {**trials.trial.config["job"], "config": vars(tiny.config(seed=seed))}
        others.append(SimpleNamespace(config={"job": job}, status=status))
    trials.trial.status = "ERROR"
    trials.watch.queue = Queue(plan(seeds=[3, 4]), {"given_up": False})
    begun = trials.watch.queue.suggest("its")["job"]
    assert (begun["name"], begun["given_up"]) == ("stop_gradient/with seed 3", False)
    assert Config(**begun["config"]).seed == 3
    assert len(trials.watch.queue.waiting) == 3
    assert trials.fail(DataError("Corrupt image in x.png"))
    trials.watch.on_trial_complete(0, [trials.trial, *others], trials.trial)
    assert [other.config["job"]["given_up"] for other in others] == [True, False]
    not_begun = plan(seeds=[3, 4])[1:]
    for config in (tiny.config(seed=1), *(trial.config for trial in not_begun)):
        failure = trials.store.failure(fingerprint(config))
        assert failure is not None
        assert failure["message"] == "DataError: Corrupt image in x.png"
    assert trials.watch.ended == {fingerprint(trials.config), *(trial.fingerprint for trial in not_begun)}
    assert trials.watch.queue.suggest("next") == Searcher.FINISHED


def test_what_the_place_of_the_results_raises_is_what_a_run_raises(
    cluster: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = Trials(tmp_path, monkeypatch)
    monkeypatch.setattr(stores.Store, "state", lambda *_: os.listdir(tmp_path / "gone"))
    its = trials.watch
    monkeypatch.setattr(its._progress, "start", lambda name: os.listdir(tmp_path / "gone"), raising=False)
    for call in (its.on_trial_start, its.on_trial_recover, its.on_trial_error, its.on_trial_complete):
        its.error = None
        with pytest.raises(FileNotFoundError):
            call(0, [], trials.trial)
        assert isinstance(its.error, FileNotFoundError)

    def fit() -> None:
        raise tune.TuneError("Traceback (most recent call last): ...")

    for error, raised in ((its.error, FileNotFoundError), (None, tune.TuneError)):
        its.error = error
        monkeypatch.setattr(tuner, "Watch", lambda *_: trials.watch)
        monkeypatch.setattr(tuner, "_tuner", lambda *_: SimpleNamespace(fit=fit))
        with launch.ready(trials.store) as run_trials, pytest.raises(raised):
            run_trials(plan(seeds=[0]), Runtime(), trials.store, Progress(()), lambda ended: None)
    its.error = FileNotFoundError()
    monkeypatch.undo()
    trials.store.fail(trials.config, "it failed")
    its.on_trial_complete(0, [], trials.trial)
    assert its.error is None  # the run went on


def test_a_process_that_ends_after_its_result_has_not_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(tmp_path, monkeypatch)
    done = lines.unfinished(trials.config, "finished", "")
    trials.store.write(done, [{"epoch": 1}])
    assert not any(trials.fail(ray.exceptions.ActorDiedError()) for _ in range(10))
    assert trials.told == []
    trials.watch.on_trial_complete(0, [], trials.trial)
    assert trials.watch.ended == {fingerprint(trials.config)}
    assert trials.store.failure(fingerprint(trials.config)) is None


def test_a_failure_is_told_where_the_disk_did_not_take_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trials = Trials(tmp_path, monkeypatch)
    monkeypatch.setattr(stores.Store, "write_failure", lambda *_: None)
    assert trials.fail(DataError("Corrupt image"))
    trials.watch.on_trial_complete(0, [], trials.trial)
    assert trials.watch.ended == {fingerprint(trials.config)}


def test_a_notice_is_one_checkpoint_and_then_the_trial_leaves(monkeypatch: pytest.MonkeyPatch) -> None:
    asked, going, clock = [0], {"elsewhere"}, [0.0]

    def ask() -> set[str]:
        asked[0] += 1
        return going

    monkeypatch.setattr(notices, "going", ask)
    monkeypatch.setattr(notices.time, "monotonic", lambda: clock[0])
    hurry = notices.Notices(["here", "there"])
    for second in range(100):
        clock[0] = second / 10
        assert not hurry()
    assert asked[0] <= 6  # in ten seconds
    going.add("there")
    clock[0] += 5
    monkeypatch.setattr(distributed, "rank", lambda: 1)
    assert not hurry()
    monkeypatch.setattr(distributed, "rank", lambda: 0)
    assert hurry()
    with pytest.raises(notices.LeavingError):
        hurry()
