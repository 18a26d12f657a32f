"""The plan on Ray: one TorchTrainer a trial, under one Tuner. The only file here that imports ray.

Tune is asked for little: to start each trial once, a few at a time. What is done stands in the store, what is half
done in a checkpoint, so a run that was killed goes on from a fresh Tuner.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import logging
import os
import signal
import socket
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Train takes one report of an epoch in each of these
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output cannot be silenced
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is run.py's to handle
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in _ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

import ray  # noqa: E402  (Ray reads its environment when it is imported)
import ray.train  # noqa: E402
import ray.train.torch  # noqa: E402
import torch  # noqa: E402
from ray import tune  # noqa: E402
from ray._private.state import state as ray_state  # noqa: E402  (there is no public way to the autoscaler's limits)
from ray.train.v2._internal.exceptions import WorkerGroupStartupTimeoutError  # noqa: E402
from ray.tune.integration.ray_train import TuneReportCallback  # noqa: E402
from ray.tune.progress_reporter import TrialProgressCallback  # noqa: E402
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy  # noqa: E402

import ablations  # noqa: E402
import simsiam  # noqa: E402
from ablations import placement  # noqa: E402
from ablations import trial as trials  # noqa: E402
from ablations.files import BUCKETS, Folder  # noqa: E402
from ablations.progress import Progress  # noqa: E402
from ablations.store import FAILED, Store, unfinished  # noqa: E402
from ablations.table import Trial, UserError  # noqa: E402
from simsiam import distributed  # noqa: E402
from simsiam.config import Config, Runtime, fingerprint  # noqa: E402
from simsiam.loader import Decoded  # noqa: E402

RETRIES = 2  # of a trial whose workers die before they have got further than the time before
DRIVERS = 6  # of one trial, one after the other as they die

_train: Any = ray.train  # its type hints are those of Train V1

_REPORT_SECONDS = 2.0  # between two epochs that a trial tells of
_SECONDS, _CLOUD_SECONDS = 60, 900  # that a worker group waits for its place; an autoscaler has nodes to start
_UNBOUNDED = 10**6  # nodes of a kind that the autoscaler has no limit for

Job = dict[str, Any]  # what a trial's driver and its workers are told, in plain values


def launch(
    todo: Sequence[Trial], runtime: Runtime, store: Store, progress: Progress, on_done: Callable[[], None]
) -> None:
    """Run trials of different fingerprints, keep each result in the store, and call `on_done` after each.

    One trial's exception does not stop the others. Raises UserError if the cluster cannot hold one trial, or if its
    nodes do not see the results or the data.
    """
    scratch = f".ray/{uuid.uuid4().hex}"  # Ray wants a place that all nodes see
    _connect()
    try:
        ask = _ask(runtime)
        there, possible, head_bytes = _cluster()
        concurrent = placement.concurrent(there, possible, ask, head_bytes)
        print(f"Placement: {ask} a trial, {concurrent} trials at once.", flush=True)
        decoded = trials.shared(runtime, [trial.config for trial in todo])
        _check_that_nodes_see(store, scratch, None if all(decoded.values()) else runtime.data_path)
        jobs = [
            {
                "config": dataclasses.asdict(trial.config),
                "runtime": dataclasses.asdict(runtime),
                "resources": dict(ask.worker),
                "results": store.folder.uri,
                "scratch": scratch,
                "patience": _CLOUD_SECONDS if possible else _SECONDS,
                "notices": bool(possible) or len(there) > 1,
            }
            for trial in todo
        ]
        # One copy a node, which its workers map into memory.
        pictures = {images: ray.put(each) for images, each in decoded.items()}
        files, root = store.folder.open()
        tuner = tune.Tuner(
            # The driver stands on the head with next to nothing: it must never hold what its workers wait for.
            tune.with_resources(tune.with_parameters(_drive, pictures=pictures), {"node:__internal_head__": 0.001}),
            param_space={"job": tune.grid_search(jobs)},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=f"{root}/{scratch}",
                storage_filesystem=files,
                failure_config=tune.FailureConfig(max_failures=DRIVERS - 1),
                callbacks=[_Watch(store, progress, on_done)],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
        store.folder.remove_folder(scratch)


def _connect() -> None:
    """Join the cluster that RAY_ADDRESS names or that runs here, else start one on this machine."""
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    environment: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in _ENVIRONMENT}}
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if not job.get("runtime_env", {}).get("working_dir"):  # else every node has the code already
        environment["py_modules"] = [path for package in (simsiam, ablations) for path in package.__path__]
    ray.init(runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    # `ray job stop` sends SIGTERM. It is to end a run as Ctrl-C does; ray.init has just set a handler that dies.
    signal.signal(signal.SIGTERM, _interrupt)


def _check_address(address: str) -> None:
    """Raises UserError where nothing listens: ray.init would wait for minutes without a word."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"No Ray listens at RAY_ADDRESS={address}: {error}. Start one, or unset it.") from None


def _interrupt(*_: Any) -> None:
    # Not by way of SIGINT: a shell starts what it puts into the background with SIGINT ignored.
    raise KeyboardInterrupt


def _ask(runtime: Runtime) -> placement.Ask:
    """One CPU for training and one for each loader process; where there are GPUs, one of them or a share of it."""
    worker = {"CPU": 1.0 + runtime.loader_processes}
    there, possible, _ = _cluster()
    if any(kind.resources.get("GPU") for kind in (*there, *possible)):
        worker["GPU"] = runtime.gpu_fraction
    elif runtime.gpu_fraction != 1:
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs GPUs; the cluster has none. Leave it out.")
    return placement.Ask(runtime.workers, worker)


def _cluster() -> tuple[list[placement.Nodes], list[placement.Nodes], float]:
    """The nodes that are there, those that the autoscaler could make of them (none without one), the head's memory."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = [placement.Nodes(1, resources) for resources in alive]
    config = ray_state.get_cluster_config()
    groups = config.node_group_configs if config else []
    possible = [
        placement.Nodes(group.max_count if group.max_count >= 0 else _UNBOUNDED, dict(group.resources))
        for group in groups
    ]
    head = next(resources for resources in alive if "node:__internal_head__" in resources)
    return there, possible, head.get("memory", 0.0)


def _check_that_nodes_see(store: Store, scratch: str, data_path: str | None) -> None:
    """Raises UserError if a node lacks the results folder, or the data folder that its workers will read."""
    marker = f"{scratch}/marker"
    store.folder.write(marker, b"")
    paths = [] if store.folder.bucket else [f"{store.folder.uri}/{marker}"]
    if data_path and not data_path.startswith(BUCKETS):
        paths.append(data_path)
    nodes = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]]
    looks = {
        node["NodeManagerAddress"]: _missing.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote(paths)
        for node in nodes
        if paths
    }
    for address, look in looks.items():
        for path in ray.get(look):
            what = f"the results folder {store.folder}" if path.endswith(marker) else f"the data folder {path}"
            raise UserError(f"Node {address} does not see {what}. Use a folder that all nodes mount, or a bucket.")


@ray.remote
def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]


def _drive(params: dict[str, Any], pictures: dict[int | None, Any]) -> None:
    """One trial's driver: its workers train and evaluate, and it puts their result into the store.

    What dies is started again from the last checkpoint, as often as it gets further in between; a worker group that
    finds no place, with the workers that fit.
    """
    job: Job = params["job"]
    os.environ["RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S"] = str(job["patience"])
    os.environ["RAY_TRAIN_ENABLE_PREEMPTION_WATCHER"] = str(int(job["notices"]))  # a process more for each trial
    config, runtime, store = Config(**job["config"]), Runtime(**job["runtime"]), Store.at(job["results"])
    checkpoint = store.checkpoint(fingerprint(config))
    job["pictures"] = pictures[config.train_images]
    workers, failures, reached = runtime.workers, 0, checkpoint.modified()
    for attempt in itertools.count():
        try:
            result, curve = _fit(job, workers, f"{fingerprint(config)}-{attempt}").return_value
            store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
            return
        except _train.TrainingFailedError as error:
            if _found_no_place(error):
                workers = min(runtime.workers, placement.slots(_cluster()[0], _ask(runtime))) or workers
                continue
            before, reached = reached, checkpoint.modified()
            failures = 1 if reached != before else failures + 1
            if failures > RETRIES:
                message = trials.failure(_cause(error), workers, runtime.gpu_fraction)
                store.write_failure(unfinished(config, FAILED, message))
                return


def _fit(job: Job, workers: int, name: str) -> Any:
    """Train's result of one worker group, from its start to its end."""
    files, root = Folder(job["results"]).open()
    trainer = _train.torch.TorchTrainer(
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
            callbacks=[TuneReportCallback()],
            logging_config=_train.LoggingConfig(log_level="ERROR"),
        ),
    )
    return trainer.fit()


def _work(job: Job) -> tuple[trials.Result, list[trials.Result]]:
    """One worker of a trial. Its progress goes through Train to Tune, at most every few seconds."""
    config, device = Config(**job["config"]), ray.train.torch.get_device()
    runtime = Runtime(**(job["runtime"] | {"device": str(device)}))
    if device.type == "cuda" and distributed.world_size() > 1:
        node, gpu = ray.get_runtime_context().get_node_id(), str(torch.cuda.get_device_properties(device).uuid)
        placement.check_devices(distributed.everyone((node, gpu)))
    told, noticed = time.monotonic(), False

    def on_epoch(line: trials.Result) -> None:
        nonlocal told
        if distributed.agree(time.monotonic() - told > _REPORT_SECONDS, device):
            told = time.monotonic()
            ray.train.report(line)

    def hurry() -> bool:
        """Whether the cloud has just said that it takes one of these nodes away."""
        nonlocal noticed
        first = job["notices"] and not noticed and _train.get_preemption_info() is not None
        noticed = noticed or first
        return first

    return trials.run(
        config,
        runtime,
        decoded=cast("Decoded | None", ray.get(job["pictures"])),
        place=Store.at(job["results"]).checkpoint(fingerprint(config)),
        on_epoch=on_epoch,
        hurry=hurry,
    )


def _found_no_place(error: Exception) -> bool:
    return isinstance(getattr(error, "controller_failure", None), WorkerGroupStartupTimeoutError)


def _cause(error: Exception) -> BaseException:
    """The exception of the first worker that failed, as it was raised there."""
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else error
    return getattr(cause, "cause", None) or getattr(cause, "_base_exc", None) or cause


class _Watch(TrialProgressCallback):
    """Tells of Tune's trials as they go, in place of Tune's own lines. Runs in run.py's process."""

    def __init__(self, store: Store, progress: Progress, on_done: Callable[[], None]) -> None:
        super().__init__()
        self._store, self._progress, self._on_done = store, progress, on_done

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a state that nothing here reads back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._progress.start(fingerprint(_config(trial)))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        if "epoch" in result:
            self._progress.epoch(fingerprint(_config(trial)), result)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._finish(trial, "The trial's driver ended without a result.")

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._finish(trial, f"The trial's driver died {DRIVERS} times.")

    def _finish(self, trial: Any, reason: str) -> None:
        config = _config(trial)
        name = fingerprint(config)
        result = self._store.failure(name) or self._store.trial(name)  # a failure there is the last attempt's
        if result is None:
            result = unfinished(config, FAILED, reason)
            self._store.write_failure(result)
        self._progress.finish(name, result)
        self._on_done()


def _config(trial: Any) -> Config:
    return Config(**trial.config["job"]["config"])
