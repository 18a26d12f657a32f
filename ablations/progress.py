"""The trials of a run as a person sees them go: a live table in a terminal, plain lines otherwise."""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Self

from ablations.board import Board, Told, duration
from ablations.table import Trial
from ablations.terminal import is_terminal, say
from ablations.tracking import Tracking

Result = Mapping[str, Any]

HALF_DONE = "half done: the time limit has come first"  # what a trial says that ends so

_PLAIN_SECONDS = 15.0  # between two plain lines of one trial


class Progress:
    """The trials of a run as they go. A live table in a terminal, plain lines otherwise.

    The table is a window: what runs, what has ended last, and what is next.

    Args:
        todo: the trials that will run.
        tracking: what else is told of their epochs and ends; None for nothing.
        has_checkpoint: whether a trial goes on from one.
    """

    def __init__(
        self,
        todo: Sequence[Trial],
        tracking: Tracking | None = None,
        has_checkpoint: Callable[[Trial], bool] = lambda trial: False,
    ) -> None:
        self._tracking, self._has_checkpoint = tracking, has_checkpoint
        self._states = {trial.fingerprint: _State(trial) for trial in todo}
        self._ended: list[_State] = []
        self._begun: float | None = None
        self._epochs = 0  # done since then, by all trials
        self._live: Any = None

    def __enter__(self) -> Self:
        if is_terminal() and importlib.util.find_spec("rich"):
            from rich.live import Live

            self._live = Live(get_renderable=self._render, refresh_per_second=2)
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._live is not None:
            with contextlib.suppress(OSError, ValueError):  # a terminal that is closed
                self._live.stop()

    def start(self, fingerprint: str) -> None:
        self._begun = self._begun or time.monotonic()
        there = self._has_checkpoint(self._states[fingerprint].trial)
        self.note(fingerprint, "starting" + " from its checkpoint" * there)

    def note(self, fingerprint: str, text: str) -> None:
        """A trial says in words what it does."""
        state = self._states[fingerprint]
        state.status = text
        self._say(f"{state.name}: {text}")

    def epoch(self, fingerprint: str, line: Result) -> None:
        """A trial has done an epoch, with the line of its curve."""
        state = self._states[fingerprint]
        self._epochs += state.take(line)
        if self._tracking:
            self._tracking.epoch(state.trial, line)
        if time.monotonic() - state.said > _PLAIN_SECONDS:
            state.said = time.monotonic()
            self._say(f"{state.name}: {state.text()}")

    def finish(self, fingerprint: str, result: Result) -> None:
        state = self._states[fingerprint]
        state.status, state.ended = result["outcome"], True
        self._ended.append(state)
        if self._tracking:
            self._tracking.finish(state.trial, result)
        seconds = result.get("wall_seconds")
        took = f" in {duration(seconds)}" if seconds else ""
        reason = f": {result['message']}" if result.get("message") else ""
        self._say(f"{state.name}: {state.status}{took}{reason} ({self.summary()})")

    def _say(self, text: str) -> None:
        if self._live is None:
            say(text)

    def summary(self) -> str:
        """How far all of it is, as `3 of 12 done, 4:10 left in all`."""
        done = f"{len(self._ended)} of {len(self._states)} done"
        left = sum(state.epochs_left for state in self._states.values())
        if not self._epochs or self._begun is None or not left:
            return done
        seconds = (time.monotonic() - self._begun) / self._epochs * left
        return f"{done}, {duration(seconds)} left in all"

    def board(self) -> Board:
        """How far all of them are."""
        states = list(self._states.values())
        running = [state for state in states if state.status != _WAITING and not state.ended]
        waiting = [state for state in states if state.status == _WAITING]
        return Board(self.summary(), [state.told() for state in (*running, *self._ended[::-1], *waiting)])

    def _render(self) -> Any:
        return self.board().grid(shutil.get_terminal_size().lines)


_WAITING = "waiting"


class _State:
    def __init__(self, trial: Trial) -> None:
        self.trial, self.name, self.epochs = trial, trial.name, trial.config.epochs
        self.status, self.ended = _WAITING, False
        self.said = time.monotonic()
        self.line: Result | None = None
        self._first: tuple[float, int] | None = None

    @property
    def epochs_left(self) -> int:
        return 0 if self.ended else self.epochs - (self.line["epoch"] if self.line else 0)

    def take(self, line: Result) -> int:
        """The line of an epoch -> how many epochs have been done since the last one seen."""
        before = self.line["epoch"] if self.line else line["epoch"] - 1
        # An epoch that was not evaluated leaves what the last one showed.
        known = {name: value for name, value in line.items() if value is not None or self.line is None}
        self.status, self.line = "running", {**(self.line or {}), **known}
        if self._first is None or line["epoch"] < self._first[1]:  # a trial that starts again may fall behind it
            self._first = time.monotonic(), line["epoch"]
        return max(0, line["epoch"] - before)

    def left(self) -> float | None:
        """Seconds to the last epoch, at the speed since the first line seen; None before there are two."""
        if self.line is None or self._first is None or self.line["epoch"] == self._first[1]:
            return None
        begun, first = self._first
        return (time.monotonic() - begun) / (self.line["epoch"] - first) * (self.epochs - self.line["epoch"])

    def told(self) -> Told:
        numbers = {name: self.line[name] for name in ("epoch", "loss", "z_std", "knn_top1")} if self.line else {}
        waiting = self.status == _WAITING
        left = None if self.ended else self.left()
        what: dict[str, Any] = dict(name=self.name, fingerprint=self.trial.fingerprint, status=self.status)
        return Told(**what, epochs=self.epochs, waiting=waiting, ended=self.ended, left=left, **numbers)

    def text(self) -> str:
        cells = zip(("epoch {}", "loss {}", "z_std {}", "kNN {} %", "{} left"), self.told().cells(), strict=True)
        return ", ".join(form.format(cell) for form, cell in cells if cell not in ("", "-"))
