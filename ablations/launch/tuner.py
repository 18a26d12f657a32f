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

from ablations import placement
from ablations import trial as ours
from ablations.alarm import within
from ablations.launch import HEAD, cluster
from ablations.launch.queue import Queue
from ablations.launch.trainable import PATIENCE, trainable
from ablations.launch.watch import Watch
from ablations.launch.work import Job
from ablations.progress import Progress
from ablations.store import Store
from ablations.table import Trial
from ablations.terminal import say
from simsiam import data
from simsiam.checkpoint import TimeLimitError
from simsiam.config import Runtime

logging.getLogger("ray.tune").setLevel(logging.CRITICAL)  # what became of a trial is ours to tell

_SECONDS, _CLOUD_SECONDS = 60, 900  # that a worker group waits for its place; an autoscaler has nodes to start


def launch(
    todo: Sequence[Trial],
    runtime: Runtime,
    store: Store,
    progress: Progress,
    rebuild: Callable[[bool], None],
    *,
    scratch: str,
) -> list[Trial]:
    """Run trials of different fingerprints, keep each result in the store, and call `rebuild` now and then.

    It is told whether a trial has just ended. One trial's exception does not stop the others. Returns the trials that
    the time limit has left. `scratch` is the folder of the results that is Ray's until it ends. Raises UserError if the
    cluster cannot hold one trial, or if its nodes do not see the results or the data.
    """
    current, maximum = cluster.current(), cluster.maximum()
    demand = placement.demand(runtime, current, maximum)
    if "GPU" not in demand.worker:
        placement.check_precision((trial.config for trial in todo), "cpu")
    concurrent = placement.concurrent(current, maximum, demand)
    fit = placement.slots(current, demand)
    say(
        f"Placement: {demand} a trial, {concurrent} trial{'s' * (concurrent > 1)} at once. "
        f"The nodes that are there have room for {fit} worker{'s' * (fit != 1)}."
    )
    try:
        decoded = within(runtime.until, lambda: ours.shared(data.of(runtime), [trial.config for trial in todo]))
    except TimeLimitError:
        return list(todo)
    in_memory = all(decoded.values())
    if note := placement.decoding(in_memory, runtime):
        say(note)
    cluster.check_that_nodes_see(store, scratch, None if in_memory else runtime.data_path)
    grows = maximum is not None and placement.slots(dataclasses.replace(maximum, head={}), demand) > 0
    job = {
        "runtime": dataclasses.asdict(runtime),
        "resources": dict(demand.worker),
        "results": store.folder.uri,
        "scratch": scratch,
        "patience": os.environ.get(PATIENCE) or (_CLOUD_SECONDS if grows else _SECONDS),
        "given_up": False,
    }
    # One copy a node, which its workers map into memory.
    pictures = {images: ray.put(each) for images, each in decoded.items()}
    watch, left = Watch(store, progress, rebuild, runtime), list(todo)
    while left and not watch.over:
        watch.queue = Queue(left, job)
        _fit(_tuner(job, runtime, pictures, concurrent, store, watch), watch)
        left = [trial for trial in left if trial.fingerprint not in watch.ended]
    return left


def _fit(tuner: tune.Tuner, watch: Watch) -> None:
    """Run what is in the watch's queue. What the results' place has raised is raised again: Tune makes a text of it."""
    try:
        tuner.fit()
    except tune.TuneError as error:
        raise watch.error or error from None


def _tuner(
    job: Job, runtime: Runtime, pictures: dict[int | None, Any], concurrent: int, store: Store, watch: Watch
) -> tune.Tuner:
    """A Tuner that starts what is in the watch's queue, `concurrent` at once, one after another in the same processes.

    Args:
        job: what all trials are told.
    """
    # A trial of one worker stands where it trains. The driver of several is on the head with next to nothing: it must
    # never hold what its workers wait for.
    where = job["resources"] if runtime.workers == 1 else {HEAD: 0.001}
    files, root = store.folder.open()
    return tune.Tuner(
        tune.with_resources(
            tune.with_parameters(trainable, pictures=pictures, mailbox=watch.mailbox),
            tune.PlacementGroupFactory([where]),
        ),
        tune_config=tune.TuneConfig(
            search_alg=watch.queue,
            num_samples=len(watch.queue.waiting),
            max_concurrent_trials=concurrent,
            reuse_actors=True,
            time_budget_s=None if runtime.until is None else runtime.until - time.time(),
        ),
        run_config=tune.RunConfig(
            name="trials",
            storage_path=f"{root}/{job['scratch']}/{uuid.uuid4().hex}",
            storage_filesystem=files,
            failure_config=tune.FailureConfig(max_failures=-1),  # the watch gives up what gets no further
            callbacks=[watch],
            verbose=0,
        ),
    )
