"""What runs in a trial's driver and in its workers."""

from __future__ import annotations

import itertools
import os
from typing import Any, cast

import ray
import ray.train
import ray.train.collective
import ray.train.torch
import torch
from ray.train.v2._internal.exceptions import RayTrainError, WorkerGroupStartupTimeoutError

from ablations import placement
from ablations import trial as trials
from ablations.files import Folder
from ablations.launch import cluster, orphans
from ablations.launch.board import Board
from ablations.store import FAILED, Store, unfinished
from simsiam import data, distributed
from simsiam.config import Config, Runtime, fingerprint
from simsiam.data import Source
from simsiam.loader import Decoded

RETRIES = 5  # of a trial whose workers die before they have got further than the time before
PATIENCE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # that a worker group waits for its place

_train: Any = ray.train  # its type hints are those of Train V1

Job = dict[str, Any]  # what a trial's driver and its workers are told


def drive(params: dict[str, Any], pictures: dict[int | None, Any], board: Board) -> None:
    """One trial's driver: its workers train and evaluate, and it puts their result into the store.

    What dies is started again from the last checkpoint, as often as it gets further in between; a worker group that
    finds no place, with the workers that fit. Each time after that, all workers are asked for again.
    """
    job: Job = params["job"]
    os.environ[PATIENCE] = str(job["patience"])
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(job["notices"]))  # a process more for each trial
    config, runtime, store = Config(**job["config"]), Runtime(**job["runtime"]), Store.at(job["results"])
    checkpoint = store.checkpoint(fingerprint(config))
    job |= {"pictures": pictures[config.train_images], "board": board}
    if store.state(fingerprint(config)) == "done":  # a driver before this one died between its result and its end
        store.tidy([fingerprint(config)])
        return
    workers, least, failures, reached = runtime.workers, 1, 0, checkpoint.modified()
    for attempt in itertools.count():
        try:
            result, curve = _fit(job, workers, f"{fingerprint(config)}-{attempt}").return_value
            store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
            return
        except _train.TrainingFailedError as error:
            if _found_no_place(error):
                why = f"no place for {placement.Ask(workers, job['resources'])}"
                fit = placement.slots(cluster.there(), placement.Ask(runtime.workers, job["resources"]))
                workers = min(runtime.workers, fit) if fit >= least else runtime.workers
            else:
                before, reached = reached, checkpoint.modified()
                failures = 1 if reached != before else failures + 1
                cause = _cause(error)
                why = trials.failure(cause, workers, runtime.gpu_fraction)
                if trials.out_of_memory(cause) and workers < runtime.workers:  # too few for the batch: wait for more
                    least = workers + 1
                elif failures > RETRIES or _hopeless(cause):
                    store.write_failure(unfinished(config, FAILED, why))
                    return
                workers = runtime.workers
            board.tell(fingerprint(config), f"starting again with {workers} of {runtime.workers} workers: {why}")


def _fit(job: Job, workers: int, name: str) -> Any:
    """Train's result of one worker group, from its start to its end."""
    files, root = Folder(job["results"]).open()
    orphans.remove_placement_groups()
    trainer = orphans.Trainer(
        _work,
        train_loop_config=job,
        scaling_config=_train.ScalingConfig(
            num_workers=workers, use_gpu="GPU" in job["resources"], resources_per_worker=job["resources"]
        ),
        run_config=_train.RunConfig(
            name=name,
            storage_path=f"{root}/{job['scratch']}",
            storage_filesystem=files,
            failure_config=_train.FailureConfig(max_failures=0, controller_failure_limit=0, max_preemption_failures=0),
            logging_config=_train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return trainer.fit()


def _work(job: Job) -> tuple[trials.Result, list[trials.Result]]:
    """One worker of a trial."""
    config, device, board = Config(**job["config"]), ray.train.torch.get_device(), job["board"]
    runtime = Runtime(**(job["runtime"] | {"device": str(device)}))
    if device.type == "cuda" and distributed.world_size() > 1:
        node, gpu = ray.get_runtime_context().get_node_id(), str(torch.cuda.get_device_properties(device).uuid)
        placement.check_devices(distributed.everyone((node, gpu)))
    store = Store.at(job["results"])
    cluster.check_that_this_node_sees(store, job["scratch"])
    pictures, noticed = _pictures(job, runtime), False

    def on_epoch(line: trials.Result) -> None:
        if distributed.rank() == 0:
            board.tell(fingerprint(config), line)

    def hurry() -> bool:
        """Whether the cloud has just said that it takes one of these nodes away."""
        nonlocal noticed
        first = job["notices"] and not noticed and _train.get_preemption_info() is not None
        noticed = noticed or first
        return first

    return trials.run(
        config,
        runtime,
        pictures=pictures,
        place=store.checkpoint(fingerprint(config)),
        on_epoch=on_epoch,
        hurry=hurry,
    )


def _pictures(job: Job, runtime: Runtime) -> Decoded | Source:
    """The pictures of the trial, decoded; or where they are, once they are on the nodes of all its workers."""
    if decoded := cast("Decoded | None", ray.get(job["pictures"])):
        return decoded
    source = data.locate(runtime.data_path)
    data.fetch(source)
    # A node may be new, and copy first. The others wait here: torch's collectives give up after half an hour.
    ray.train.collective.barrier()
    return source


def _found_no_place(error: Exception) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _hopeless(cause: BaseException) -> bool:
    """Whether the next attempt would end in the same way: memory does not grow, and a wrong value stays wrong.

    What a dead neighbour or a lost node leads to are RuntimeErrors, OSErrors and errors of Ray's own.
    """
    if isinstance(cause, (torch.OutOfMemoryError, MemoryError)):
        return True
    return not isinstance(cause, (RuntimeError, OSError, ray.exceptions.RayError, RayTrainError))


def _cause(error: Exception) -> BaseException:
    """The exception as it was raised where it began: of several workers', one that is not another's echo."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        causes = [_cause(each) for each in failures.values()]
        return next(filter(_hopeless, causes), causes[0])
    for wrapper in ("controller_failure", "health_check_failure", "cause", "_base_exc"):
        if isinstance(inner := getattr(error, wrapper, None), Exception):
            return _cause(inner)
    return error
