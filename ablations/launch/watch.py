"""What Tune tells of the trials, in run.py's process: how they go, which of them start again, and how they end."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from ray import cloudpickle
from ray.tune.progress_reporter import TrialProgressCallback

from ablations import trial as ours
from ablations.columns import Result
from ablations.launch import connection
from ablations.launch.mailbox import Mailbox
from ablations.launch.queue import Queue
from ablations.launch.trainable import TRIES, cause_of, hopeless
from ablations.lines import spoiled
from ablations.placement import Demand
from ablations.progress import HALF_DONE, Progress
from ablations.store import Store
from ablations.table import UserError
from ablations.terminal import say
from ablations.tries import Failures
from simsiam.config import Config, Runtime, fingerprint

_MAIL_SECONDS = 1.0  # between two looks at what the trials have told
_PLACE_SECONDS = 20.0  # that trials may find no place before that is said, and said again


class Watch(TrialProgressCallback):
    """Tells of the trials as they go, in place of Tune's own lines, and gives up those that get no further.

    `ended` has the fingerprints of those that are done or have failed, `queue` the trials that have not begun, and
    `error` what the results' place has raised here: Tune makes a text of it.

    Args:
        runtime: of the trials.
    """

    def __init__(self, store: Store, progress: Progress, rebuild: Callable[[bool], None], runtime: Runtime) -> None:
        super().__init__()
        self.mailbox, self.ended, self.queue = Mailbox(), set[str](), Queue((), {})
        self._store, self._progress, self._rebuild, self._runtime = store, progress, rebuild, runtime
        self.error: OSError | UserError | None = None
        self._failures = Failures()
        self._given_up: dict[str, Result] = {}
        self._short = False  # of time: a trial has ended half done
        self._next = self._placed = time.monotonic()

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles its callbacks into a state that nothing here reads back

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._kept():
            self._progress.start(fingerprint(_config(trial)))

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        if time.monotonic() > self._next:
            self._read_mail()
            with self._kept():
                self._rebuild(False)
            self._say_what_is_waited_for(trials)

    def _say_what_is_waited_for(self, trials: list[Any]) -> None:
        """Where no trial has a place: what one asks for, and what there is."""
        now, waiting = time.monotonic(), [trial for trial in trials if trial.status == "PENDING"]
        if not waiting or any(trial.status == "RUNNING" for trial in trials):
            self._placed = now
        elif now - self._placed > _PLACE_SECONDS:
            self._placed = now
            demand = Demand(self._runtime.workers, waiting[0].config["job"]["resources"])
            say(f"Waiting: a trial asks for {demand}; free: {connection.free()}.")

    def _read_mail(self) -> None:
        self._next = time.monotonic() + _MAIL_SECONDS
        for name, told in self.mailbox.take():
            self._short = self._short or told == HALF_DONE
            if isinstance(told, str):
                self._progress.note(name, told)
            else:
                self._progress.epoch(name, told)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._kept():
            self._failed(trial)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its process died before it got the trial: Tune does not start it again, `launch` does."""
        with self._kept():
            self._failed(trial)
            if fingerprint(_config(trial)) in self._given_up:
                self._end(trial, trials)

    @contextlib.contextmanager
    def _kept(self) -> Iterator[None]:
        try:
            yield
        except (OSError, UserError) as error:
            self.error = error
            raise
        self.error = None  # Tune went on after the last one

    def _failed(self, trial: Any) -> None:
        """A process of a trial has ended. Give the trial up if that was once too often."""
        config = _config(trial)
        name = fingerprint(config)
        if self._store.state(name) == "done":
            return
        cause, reached = cause_of(_error(trial)), self._store.checkpoint(name, config.method).modified()
        why = ours.failure(cause, self._runtime.workers, self._runtime.gpu_fraction)
        if self._failures.add(name, reached) >= TRIES or hopeless(cause):
            self._give_up(trial, why)
        else:
            self._read_mail()
            self._progress.note(name, f"starting again: {why}")

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        with self._kept():
            self._end(trial, trials)

    def _give_up(self, trial: Any, why: str) -> None:
        """Its process, if it gets one, ends without training."""
        config = _config(trial)
        self._given_up[fingerprint(config)] = self._store.fail(config, why)
        trial.config["job"]["given_up"] = True

    def _end(self, trial: Any, trials: list[Any]) -> None:
        self._read_mail()  # or its last word would come after its end
        config = _config(trial)
        name = fingerprint(config)
        result = self._store.trial(name) if self._store.state(name) == "done" else self._given_up.get(name)
        if result is None:
            if self.over:
                return
            result = self._store.failure(name)
        if result is None:
            result = self._store.fail(config, "The trial's process ended without a result.")
        self.ended.add(name)
        if why := spoiled(result):
            for other in trials:
                if other.status == "PENDING" and not other.config["job"]["given_up"]:
                    self._give_up(other, why)
        self._progress.finish(name, result)
        while why and self.queue.waiting:
            last = self.queue.waiting.pop()
            self.ended.add(last.fingerprint)
            self._progress.finish(last.fingerprint, self._store.fail(last.config, why))
        self._rebuild(True)

    @property
    def over(self) -> bool:
        """Whether the time for trials is over."""
        return self._short or self._runtime.over


def _config(trial: Any) -> Config:
    return Config(**trial.config["job"]["config"])


def _error(trial: Any) -> BaseException:
    """Why a trial's process ended."""
    file = Path(trial.pickled_error_file or "")
    return cloudpickle.loads(file.read_bytes()) if file.is_file() else RuntimeError("its process ended")
