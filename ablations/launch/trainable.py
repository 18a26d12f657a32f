"""One trial as Tune starts it: in this process if it has one worker, else from here, with a worker group."""

from __future__ import annotations

import gc
import itertools
import os
import re
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.v2._internal.exceptions import RayTrainError, WorkerGroupStartupTimeoutError

from ablations import placement
from ablations import trial as trials
from ablations.files import Folder
from ablations.launch import cluster, trainer
from ablations.launch.mailbox import Mailbox
from ablations.launch.notices import LeavingError
from ablations.launch.work import Job, work
from ablations.progress import HALF_DONE
from ablations.store import Store
from ablations.tries import Failures
from simsiam.checkpoint import TimeLimitError
from simsiam.config import Config, Runtime, fingerprint

TRIES = 6  # of a trial whose workers die before they have got further than the time before
PATIENCE = "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"  # that a worker group waits for its place

_GROWN = 1 << 30  # bytes of memory that a process may have more after a trial than before its first
_GROWN_GPU = 1 << 28

_train: Any = ray.train  # its type hints are those of Train V1


class WornError(RuntimeError):
    """A trial is done, and has left so much memory behind that the next one gets a new process."""


def trainable(params: dict[str, Any], pictures: dict[int | None, Any], mailbox: Mailbox) -> None:
    """One trial, from its last checkpoint, if there is one, to its result in the store.

    One after another they run in one process. An exception ends it: Tune starts the trial again, in a new one.
    """
    job: Job = params["job"]
    config, runtime, store = Config(**job["config"]), Runtime(**job["runtime"]), Store.at(job["results"])
    name = fingerprint(config)
    if job["given_up"]:
        return
    if store.state(name) == "done":  # a process before this one died between its result and its end
        store.tidy([name])
        return
    job |= {"pictures": pictures[config.train_images], "mailbox": mailbox}
    run = _one_worker if runtime.workers == 1 else _worker_group
    try:
        if runtime.over:
            raise TimeLimitError
        run(job, config, runtime, store)
    except TimeLimitError:
        mailbox.tell(name, HALF_DONE)
        mailbox.wait()


def _one_worker(job: Job, config: Config, runtime: Runtime, store: Store) -> None:
    """The trial in this process, in Train's local mode, which knows no retries: they are Tune's."""
    result, curve = _fit(job, 0, fingerprint(config))
    store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
    if _worn():
        raise WornError("has left memory behind")


def _worker_group(job: Job, config: Config, runtime: Runtime, store: Store) -> None:
    """The trial's workers in processes of their own, and here what puts their result into the store.

    What dies is started again from the last checkpoint, as often as it gets further in between; a worker group that
    finds no place, with the workers that fit. Each time after that, all workers are asked for again.
    """
    name, mailbox = fingerprint(config), job["mailbox"]
    checkpoint = store.checkpoint(name, config.method)
    os.environ[PATIENCE] = str(job["patience"])
    workers, least, failures = runtime.workers, 1, Failures()
    for attempt in itertools.count():
        try:
            trainer.remove_placement_groups()
            if not attempt:  # later, why it starts again is to be read
                mailbox.tell(name, f"waiting for {placement.Demand(workers, job['resources'])}")
            result, curve = _fit(job, workers, f"{name}-{attempt}")
            store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
            return
        except _train.TrainingFailedError as error:
            if _found_no_place(error):
                why = f"no place for {placement.Demand(workers, job['resources'])}"
                fit = placement.slots(cluster.current(), placement.Demand(runtime.workers, job["resources"]))
                workers = min(runtime.workers, fit) if fit >= least else runtime.workers
            else:
                times = failures.add(name, checkpoint.modified())
                cause = cause_of(error)
                if isinstance(cause, TimeLimitError):
                    raise cause from None
                why = trials.failure(cause, workers, runtime.gpu_fraction)
                if trials.out_of_memory(cause) and workers < runtime.workers:  # too few for the batch: wait for more
                    least = workers + 1
                elif times >= TRIES or hopeless(cause):
                    store.fail(config, why)
                    return
                workers = runtime.workers
            mailbox.tell(name, f"starting again with {workers} of {runtime.workers} workers: {why}")


def _fit(job: Job, workers: int, name: str) -> Any:
    """What `work` returns for a worker group, from its start to its end; for 0 workers, in this process."""
    files, root = Folder(job["results"]).open()
    train = trainer.Trainer(
        work,
        train_loop_config=job,
        scaling_config=_train.ScalingConfig(
            num_workers=workers, use_gpu="GPU" in job["resources"], resources_per_worker=job["resources"]
        ),
        run_config=_train.RunConfig(
            name=name,
            storage_path=f"{root}/{job['scratch']}",
            storage_filesystem=files,
            failure_config=_train.FailureConfig(max_failures=0, controller_failure_limit=0),
            logging_config=_train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return train.fit().return_value


def _worn() -> bool:
    """Whether the trials of this process have left much memory behind."""
    gc.collect()
    if torch.cuda.is_initialized():
        torch.cuda.empty_cache()
        if torch.cuda.memory_allocated() > _GROWN_GPU:
            return True
    return _own_bytes() - _FRESH > _GROWN


def _own_bytes() -> int:
    """Memory that this process alone holds; 0 where the system does not say."""
    try:
        text = Path("/proc/self/smaps_rollup").read_text()
    except OSError:
        return 0
    return sum(1024 * int(kilobytes) for kilobytes in re.findall(r"Private_Dirty: +(\d+)", text))


_FRESH = _own_bytes()  # before the first trial


def _found_no_place(error: Exception) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def hopeless(cause: BaseException) -> bool:
    """Whether the next attempt would end in the same way: memory does not grow, and a wrong value stays wrong.

    What a dead neighbour or a lost node leads to are RuntimeErrors, OSErrors and errors of Ray's own. Of those, Ray's
    own of memory is hopeful: there was not enough for all that ran on a node.
    """
    if isinstance(cause, ray.exceptions.RayError):
        return False
    return trials.out_of_memory(cause) or not isinstance(cause, (RuntimeError, OSError, RayTrainError))


def cause_of(error: BaseException) -> BaseException:
    """The exception as it was raised where it began: of several workers', one that is not another's echo."""
    failures = getattr(error, "worker_failures", None)
    if failures:
        causes = [cause_of(each) for each in failures.values()]
        ours = (TimeLimitError, LeavingError)
        return next((cause for cause in causes if hopeless(cause) or isinstance(cause, ours)), causes[0])
    for wrapper in ("controller_failure", "health_check_failure", "cause", "_base_exc"):
        if isinstance(inner := getattr(error, wrapper, None), Exception):
            return cause_of(inner)
    return error
