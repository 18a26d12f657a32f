"""What other tools show of a run's trials as they go: TensorBoard's files, and on request W&B and MLflow.

They are told by run.py's own process, once an epoch, of what the first worker of each trial has told it: a trial on
another machine needs nothing of them, and none of them is a reason for a trial to fail.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

from ablations import provenance
from ablations.files import Folder
from ablations.table import Trial, UserError
from ablations.terminal import say
from simsiam import config as configs

TENSORBOARD, WANDB, MLFLOW, NOTHING = TRACKERS = "tensorboard", "wandb", "mlflow", "none"

_SECONDS = 30.0  # that a run waits for them at its end
_PROJECT = "simsiam-ablations"  # in W&B and MLflow
_EPOCH = ("loss", "z_std", "effective_rank", "knn_top1", "classifier_top1", "lr", "images_per_second")
_END = ("knn_top1", "knn_train_top1", "linear_top1", "classifier_top1", "ap", "wall_seconds")


def default_trackers() -> list[str]:
    """Those of $SIMSIAM_TRACK, else TensorBoard. Raises UserError for a name that is none."""
    names = [name.strip() for name in (os.environ.get("SIMSIAM_TRACK") or TENSORBOARD).split(",")]
    for name in names:
        if name not in TRACKERS:
            raise UserError(configs.unknown("tracker of SIMSIAM_TRACK", name, TRACKERS))
    return names


class Tracker(Protocol):
    """One of the tools. Any of its exceptions ends it, and nothing else."""

    def begin(self, trial: Trial, epoch: int) -> None:
        """A trial starts at this epoch, or again: what is there of this epoch and of later ones is made again."""

    def log(self, trial: Trial, epoch: int, numbers: Mapping[str, float]) -> None: ...

    def end(self, trial: Trial, outcome: str, epoch: int, numbers: Mapping[str, float]) -> None: ...

    def close(self) -> None:
        """The run is over. Trials that have not ended go on with the next command."""


class Tracking:
    """Tells each tracker of the trials' epochs and ends.

    Args:
        names: of TRACKERS.
        folder: of the results.

    Raises UserError for one that is not installed, or not set up; TensorBoard alone may be missing.
    """

    def __init__(self, names: Sequence[str], folder: Folder) -> None:
        made = {name: _MADE_BY[name](folder) for name in dict.fromkeys(names) if name != NOTHING}
        self._trackers = {name: tracker for name, tracker in made.items() if tracker}
        self._epochs: dict[str, int] = {}  # fingerprint -> the last one that was told
        self._said: queue.SimpleQueue[Callable[[Tracker], None] | None] = queue.SimpleQueue()
        # Of its own, so that a server that does not answer keeps no trial waiting.
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._said.put(lambda tracker: tracker.close())
        self._said.put(None)
        self._thread.join(_SECONDS)
        if self._thread.is_alive():
            say(f"{', '.join(self._trackers)} did not take all that there was to tell in {_SECONDS:g} s.", error=True)

    def epoch(self, trial: Trial, line: Mapping[str, Any]) -> None:
        """A trial has done an epoch, with the line of its curve."""
        epoch, before = line["epoch"], self._epochs.get(trial.fingerprint)
        self._epochs[trial.fingerprint] = epoch
        if before is None or epoch <= before:  # it has gone back to a checkpoint
            self._said.put(lambda tracker: tracker.begin(trial, epoch))
        numbers = _numbers(line, _EPOCH)
        self._said.put(lambda tracker: tracker.log(trial, epoch, numbers))

    def finish(self, trial: Trial, result: Mapping[str, Any]) -> None:
        """A trial has ended, with its result. One of which no epoch was told has nothing to show."""
        if (epoch := self._epochs.pop(trial.fingerprint, None)) is not None:
            numbers, outcome = _numbers(result, _END), result["outcome"]
            self._said.put(lambda tracker: tracker.end(trial, outcome, epoch, numbers))

    def _go_on(self) -> None:
        while (tell := self._said.get()) is not None:
            for name, tracker in list(self._trackers.items()):
                try:
                    tell(tracker)
                except Exception as error:
                    del self._trackers[name]
                    why = f"{type(error).__name__}: {error}"
                    say(f"{name} is told no more of this run ({why}). The trials go on.", error=True)


def _numbers(line: Mapping[str, Any], names: Sequence[str]) -> dict[str, float]:
    return {name: line[name] for name in names if line.get(name) is not None and math.isfinite(line[name])}


def _named(trial: Trial) -> str:
    """A trial's name with what tells it from those of other recipes, data and overrides."""
    return f"{trial.name} {trial.fingerprint[:8]}"


def _id(trial: Trial) -> str:
    """What names a trial's run in W&B and MLflow: the Config, and the code that trains it."""
    return f"{trial.fingerprint}-{provenance.sources(trial.config.method)}"


class _TensorBoard:
    def __init__(self, folder: Folder, writer: Any) -> None:
        self._place = Path.home() / "simsiam-results" if folder.bucket else Path(folder.uri)
        self._writer, self._writers, self._number = writer, dict[str, Any](), itertools.count()
        if folder.bucket:
            say(f"TensorBoard: its files are in {self._place}/tensorboard, since the results are in a bucket.")

    def begin(self, trial: Trial, epoch: int) -> None:
        if earlier := self._writers.pop(trial.fingerprint, None):
            earlier.close()
        name = re.sub(r"[^\w.=+ -]", "_", _named(trial).partition("/")[2])
        folder = self._place / "tensorboard" / trial.table.name / name
        # Else two of one second would have one name, and the first be lost.
        suffix = f".{os.getpid()}.{next(self._number)}"
        self._writers[trial.fingerprint] = self._writer(str(folder), purge_step=epoch, filename_suffix=suffix)

    def log(self, trial: Trial, epoch: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writers[trial.fingerprint].add_scalar(name, number, epoch)
        self._writers[trial.fingerprint].flush()

    def end(self, trial: Trial, outcome: str, epoch: int, numbers: Mapping[str, float]) -> None:
        for name, number in numbers.items():
            self._writers[trial.fingerprint].add_scalar(f"end/{name}", number, epoch)
        self._writers.pop(trial.fingerprint).close()

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()


class _Wandb:
    def __init__(self, wandb: Any) -> None:
        self._wandb, self._runs = wandb, dict[str, Any]()

    def begin(self, trial: Trial, epoch: int) -> None:
        if trial.fingerprint not in self._runs:  # W&B leaves out an epoch that it has
            self._runs[trial.fingerprint] = self._wandb.init(
                project=os.environ.get("WANDB_PROJECT", _PROJECT),
                id=_id(trial),
                resume="allow",
                name=trial.name,
                group=trial.table.name,
                config=_config(trial),
                reinit="create_new",
                settings=self._wandb.Settings(console="off"),
            )

    def log(self, trial: Trial, epoch: int, numbers: Mapping[str, float]) -> None:
        self._runs[trial.fingerprint].log(dict(numbers), step=epoch)

    def end(self, trial: Trial, outcome: str, epoch: int, numbers: Mapping[str, float]) -> None:
        run = self._runs.pop(trial.fingerprint)
        run.summary.update({**numbers, "outcome": outcome})
        run.finish(exit_code=int(outcome == "failed"))

    def close(self) -> None:
        for run in self._runs.values():
            run.finish(exit_code=1)


class _MLflow:
    def __init__(self, client: Any, entities: Any) -> None:
        self._client, self._entities, self._runs = client, entities, dict[str, str]()
        self._epochs = dict[str, int]()  # run -> the last one that it has: MLflow would take another of the same number
        found = client.get_experiment_by_name(_PROJECT)
        self._experiment = found.experiment_id if found else client.create_experiment(_PROJECT)

    def begin(self, trial: Trial, epoch: int) -> None:
        if trial.fingerprint in self._runs:
            return
        earlier = self._client.search_runs([self._experiment], f"tags.trial = '{_id(trial)}'")
        if earlier and epoch > 1:  # else it is trained again from its start
            self._runs[trial.fingerprint] = run = earlier[0].info.run_id
            self._epochs[run] = max((each.step for each in self._client.get_metric_history(run, "loss")), default=-1)
            return
        tags = {"mlflow.runName": trial.name, "trial": _id(trial), "table": trial.table.name}
        run = self._client.create_run(self._experiment, tags=tags).info.run_id
        self._runs[trial.fingerprint] = run
        params = [self._entities.Param(name, str(value)) for name, value in _config(trial).items()]
        self._client.log_batch(run, params=params)

    def log(self, trial: Trial, epoch: int, numbers: Mapping[str, float]) -> None:
        run = self._runs[trial.fingerprint]
        if epoch > self._epochs.get(run, -1):
            self._epochs[run] = epoch
            self._log(run, epoch, numbers)

    def _log(self, run: str, epoch: int, numbers: Mapping[str, float]) -> None:
        now = int(1000 * time.time())
        metrics = [self._entities.Metric(name, number, now, epoch) for name, number in numbers.items()]
        self._client.log_batch(run, metrics=metrics)

    def end(self, trial: Trial, outcome: str, epoch: int, numbers: Mapping[str, float]) -> None:
        run = self._runs.pop(trial.fingerprint)
        self._log(run, epoch, {f"end/{name}": number for name, number in numbers.items()})
        self._client.set_tag(run, "outcome", outcome)
        self._client.set_terminated(run, "FAILED" if outcome == "failed" else "FINISHED")

    def close(self) -> None:
        for run in self._runs.values():
            self._client.set_terminated(run, "KILLED")


def _config(trial: Trial) -> dict[str, Any]:
    named = {"table": trial.table.name, "row": trial.row.name, "recipe": trial.recipe, "overrides": trial.overrides}
    return {**dataclasses.asdict(trial.config), **named}


def _tensorboard(folder: Folder) -> Tracker | None:
    """By whichever of the two writers is there: Ray brings tensorboardX, torch has one for who has tensorboard."""
    try:
        from tensorboardX import SummaryWriter
    except ImportError:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            return None
    return _TensorBoard(folder, SummaryWriter)


def _wandb(folder: Folder) -> Tracker:
    try:
        import wandb
    except ImportError:
        raise UserError('--track wandb needs wandb: pip install -e ".[wandb]"') from None
    return _Wandb(wandb)


def _mlflow(folder: Folder) -> Tracker:
    try:
        from mlflow import MlflowClient, entities
    except ImportError:
        raise UserError('--track mlflow needs mlflow: pip install -e ".[mlflow]"') from None
    if not os.environ.get("MLFLOW_TRACKING_URI"):
        raise UserError("--track mlflow needs MLFLOW_TRACKING_URI, where your runs are kept. Set it.")
    try:
        return _MLflow(MlflowClient(), entities)
    except Exception as error:
        raise UserError(f"--track mlflow: {os.environ['MLFLOW_TRACKING_URI']} does not answer: {error}") from None


_MADE_BY: dict[str, Callable[[Folder], Tracker | None]] = {
    TENSORBOARD: _tensorboard,
    WANDB: _wandb,
    MLFLOW: _mlflow,
}
