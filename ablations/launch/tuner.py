"""All trials of a command, a few at a time."""

from __future__ import annotations

import dataclasses
import logging
import os
import time
import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray
from ray import tune
from ray.tune.progress_reporter import TrialProgressCallback

from ablations import placement
from ablations import trial as ours
from ablations.launch import cluster
from ablations.launch.board import Board
from ablations.launch.cluster import HEAD
from ablations.launch.drive import PATIENCE, Job, drive
from ablations.progress import Progress
from ablations.store import FAILED, Store, unfinished
from ablations.table import Trial
from simsiam import data
from simsiam.config import Config, Runtime, fingerprint
from simsiam.loader import Decoded

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what became of a trial is ours to tell

DRIVERS = 6  # of one trial, one after the other as they die

_BOARD_SECONDS = 1.0  # between two looks at what the trials have told
_SECONDS, _CLOUD_SECONDS = 60, 900  # that a worker group waits for its place; an autoscaler has nodes to start


def launch(
    todo: Sequence[Trial], runtime: Runtime, store: Store, progress: Progress, rebuild: Callable[[bool], None]
) -> None:
    """Run trials of different fingerprints, keep each result in the store, and call `rebuild` now and then.

    It is told whether a trial has just ended. One trial's exception does not stop the others. Raises UserError if the
    cluster cannot hold one trial, or if its nodes do not see the results or the data.
    """
    scratch = f".ray/{uuid.uuid4().hex}"  # Ray wants a place that all nodes see
    cluster.connect()
    try:
        there, possible = cluster.there(), cluster.possible()
        ask = cluster.ask(runtime, there, possible)
        if "GPU" not in ask.worker:
            placement.check_precision((trial.config for trial in todo), "cpu")
        concurrent = placement.concurrent(there, possible, ask)
        fit = placement.slots(there, ask)
        print(
            f"Placement: {ask} a trial, {concurrent} trial{'s' * (concurrent > 1)} at once. The nodes that are there "
            f"have room for {fit} worker{'s' * (fit != 1)}.",
            flush=True,
        )
        decoded = ours.shared(data.locate(runtime.data_path), [trial.config for trial in todo])
        cluster.check_that_nodes_see(store, scratch, None if all(decoded.values()) else runtime.data_path)
        grows = possible is not None and placement.slots(dataclasses.replace(possible, head={}), ask) > 0
        job = {
            "runtime": dataclasses.asdict(runtime),
            "resources": dict(ask.worker),
            "results": store.folder.uri,
            "scratch": scratch,
            "patience": os.environ.get(PATIENCE) or (_CLOUD_SECONDS if grows else _SECONDS),
            "notices": grows or bool(there.others),
        }
        jobs = [job | {"config": dataclasses.asdict(trial.config)} for trial in todo]
        _tuner(jobs, decoded, concurrent, store, _Watch(Board(), store, progress, rebuild)).fit()
    finally:
        ray.shutdown()
        store.folder.remove_folder(scratch)


def _tuner(
    jobs: list[Job], decoded: dict[int | None, Decoded | None], concurrent: int, store: Store, watch: _Watch
) -> tune.Tuner:
    """A Tuner that starts a driver for each job, `concurrent` at once."""
    # One copy a node, which its workers map into memory.
    pictures = {images: ray.put(each) for images, each in decoded.items()}
    files, root = store.folder.open()
    return tune.Tuner(
        # The driver stands on the head with next to nothing: it must never hold what its workers wait for.
        tune.with_resources(tune.with_parameters(drive, pictures=pictures, board=watch.board), {HEAD: 0.001}),
        param_space={"job": tune.grid_search(jobs)},
        tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=f"{root}/{jobs[0]['scratch']}",
            storage_filesystem=files,
            failure_config=tune.FailureConfig(max_failures=DRIVERS - 1),
            callbacks=[watch],
            verbose=0,
        ),
    )


class _Watch(TrialProgressCallback):
    """Tells of the trials as they go, in place of Tune's own lines. Runs in run.py's process."""

    def __init__(self, board: Board, store: Store, progress: Progress, rebuild: Callable[[bool], None]) -> None:
        super().__init__()
        self.board, self._store, self._progress, self._rebuild = board, store, progress, rebuild
        self._next = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a state that nothing here reads back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progress.start(fingerprint(_config(trial)))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() > self._next:
            self._read_board()
            self._rebuild(False)

    def _read_board(self) -> None:
        self._next = time.monotonic() + _BOARD_SECONDS
        for name, told in self.board.take().items():
            if isinstance(told, str):
                self._progress.note(name, told)
            else:
                self._progress.epoch(name, told)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._finish(trial, "The trial's driver ended without a result.")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        error = trial.get_pickled_error()
        cause = f" {ours.failure(getattr(error, 'cause', None) or error, 1, 1.0)}" if error else ""
        self._finish(trial, f"The trial's driver ended {DRIVERS} times without a result.{cause}")

    def _finish(self, trial: Any, reason: str) -> None:
        self._read_board()  # or its last word would come after its end
        config = _config(trial)
        name = fingerprint(config)
        done = self._store.trial(name) if self._store.state(name) == "done" else None
        result = self._store.failure(name) or done  # a failure there is the last attempt's
        if result is None:
            result = unfinished(config, FAILED, reason)
            self._store.write_failure(result)
        self._progress.finish(name, result)
        self._rebuild(True)


def _config(trial: Any) -> Config:
    return Config(**trial.config["job"]["config"])
