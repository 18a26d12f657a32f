"""The plan on Ray: one TorchTrainer a trial, under one Tuner. The only file here that imports ray.

Tune is asked for little: to start each trial once, a few at a time. What is done stands in the store, what is half
done in a checkpoint, so a run that was killed goes on from a fresh Tuner.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

_ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # Train takes one report of an epoch in each of these
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
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
from ray import tune  # noqa: E402
from ray.tune.integration.ray_train import TuneReportCallback  # noqa: E402
from ray.tune.progress_reporter import TrialProgressCallback  # noqa: E402

from ablations import provenance  # noqa: E402
from ablations import trial as trials  # noqa: E402
from ablations.progress import Progress  # noqa: E402
from ablations.store import FAILED, Store, unfinished  # noqa: E402
from ablations.table import Trial, UserError  # noqa: E402
from simsiam import distributed  # noqa: E402
from simsiam.config import Config, Runtime, fingerprint  # noqa: E402

RETRIES = 2  # of a trial whose workers or whose driver die

_train: Any = ray.train  # its type hints are those of Train V1

_REPORT_SECONDS = 2.0  # between two epochs that a trial tells of

Job = dict[str, Any]  # what a trial's driver and its workers are told, in plain values


def launch(
    todo: Sequence[Trial], runtime: Runtime, store: Store, progress: Progress, on_done: Callable[[], None]
) -> None:
    """Run trials of different fingerprints, keep each result in the store, and call `on_done` after each.

    One trial's exception does not stop the others. Raises UserError if the cluster cannot hold one trial.
    """
    scratch = store.root / ".ray" / uuid.uuid4().hex  # Ray wants a place that all nodes see
    _connect()
    try:
        resources = _resources(runtime)
        concurrent = _concurrent(resources, runtime.workers)
        jobs = [
            {
                "config": dataclasses.asdict(trial.config),
                "runtime": dataclasses.asdict(runtime),
                "resources": resources,
                "results": str(store.root),
                "scratch": str(scratch),
            }
            for trial in todo
        ]
        tuner = tune.Tuner(
            # The driver stands on the head with next to nothing: it must never hold what its workers wait for.
            tune.with_resources(_drive, {"node:__internal_head__": 0.001}),
            param_space={"job": tune.grid_search(jobs)},
            tune_config=tune.TuneConfig(max_concurrent_trials=concurrent),
            run_config=tune.RunConfig(
                name="trials",
                storage_path=str(scratch),
                failure_config=tune.FailureConfig(max_failures=RETRIES),
                callbacks=[_Watch(store, progress, on_done)],
                verbose=0,
            ),
        )
        tuner.fit()
    finally:
        ray.shutdown()
        shutil.rmtree(scratch, ignore_errors=True)


def _connect() -> None:
    """Join the cluster that RAY_ADDRESS names or that runs here, else start one on this machine."""
    environment = {name: os.environ[name] for name in _ENVIRONMENT}
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job's working_dir is on the path already
        environment["PYTHONPATH"] = os.pathsep.join([str(provenance.ROOT), os.environ.get("PYTHONPATH", "")])
    ray.init(runtime_env={"env_vars": environment}, logging_level=logging.ERROR, log_to_driver=False)
    # `ray job stop` sends SIGTERM. It is to end a run as Ctrl-C does; ray.init has just set a handler that dies.
    signal.signal(signal.SIGTERM, _interrupt)


def _interrupt(*_: Any) -> None:
    # Not by way of SIGINT: a shell starts what it puts into the background with SIGINT ignored.
    raise KeyboardInterrupt


def _resources(runtime: Runtime) -> dict[str, float]:
    """What one worker asks for."""
    resources = {"CPU": 1.0 + runtime.loader_processes}
    return resources | {"GPU": 1.0} if ray.cluster_resources().get("GPU") else resources


def _concurrent(resources: dict[str, float], workers: int) -> int:
    """How many trials the cluster's workers hold at once: with more, trials wait for each other for ever."""
    cluster = ray.cluster_resources()
    fit = min(int(cluster.get(name, 0) // (amount * workers)) for name, amount in resources.items())
    if fit < 1:
        asked = ", ".join(f"{amount * workers:g} {name}" for name, amount in resources.items())
        there = ", ".join(f"{cluster.get(name, 0):g} {name}" for name in resources)
        raise UserError(
            f"A trial with --workers {workers} asks for {asked}; the cluster has {there}. Use fewer workers."
        )
    return fit


def _drive(params: dict[str, Any]) -> None:
    """One trial's driver: its workers train and evaluate, and it puts their result into the store."""
    job: Job = params["job"]
    config, store = Config(**job["config"]), Store(Path(job["results"]))
    trainer = _train.torch.TorchTrainer(
        _work,
        train_loop_config=job,
        scaling_config=_train.ScalingConfig(
            num_workers=job["runtime"]["workers"],
            use_gpu="GPU" in job["resources"],
            resources_per_worker=job["resources"],
        ),
        run_config=_train.RunConfig(
            name=fingerprint(config),
            storage_path=job["scratch"],
            failure_config=_train.FailureConfig(max_failures=RETRIES),
            callbacks=[TuneReportCallback()],
            logging_config=_train.LoggingConfig(log_level="ERROR"),
        ),
    )
    try:
        result, curve = trainer.fit().return_value
    except _train.TrainingFailedError as error:
        store.write_failure(unfinished(config, FAILED, _cause(error)))
    else:
        store.write(result, curve)


def _work(job: Job) -> tuple[trials.Result, list[trials.Result]]:
    """One worker of a trial. Its progress goes through Train to Tune, at most every few seconds."""
    config, device = Config(**job["config"]), ray.train.torch.get_device()
    runtime = Runtime(**(job["runtime"] | {"device": str(device)}))
    told = time.monotonic()

    def on_epoch(line: trials.Result) -> None:
        nonlocal told
        if distributed.agree(time.monotonic() - told > _REPORT_SECONDS, device):
            told = time.monotonic()
            ray.train.report(line)

    place = Store(Path(job["results"])).checkpoint(fingerprint(config))
    return trials.run(config, runtime, place=place, on_epoch=on_epoch)


def _cause(error: Exception) -> str:
    """The exception of the first worker that failed, in one line."""
    failures = getattr(error, "worker_failures", None)
    cause = next(iter(failures.values())) if failures else error
    cause = getattr(cause, "cause", None) or cause
    return f"{type(cause).__name__}: {cause}".strip().splitlines()[0]


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
        self._finish(trial, f"The trial's driver died {RETRIES + 1} times.")

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
