"""How far a run is: what its terminal shows, and what it leaves in running/ for `results watch` to show elsewhere."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from ablations.files import Folder
from ablations.terminal import say, shown, some

_FOLDER = "running"
_SECONDS = 5.0  # between two posts
_PATIENCE = 5.0  # that a run waits at its end for a folder that does not answer
_ALIVE = 3 * _SECONDS  # without a word before a run counts as ended
_DEAD = 3600.0  # seconds after which its board is taken away
_NAMED = 3  # trials in a note on another run
_BESIDES = 6  # lines of a terminal that are not for trials
_LEAST = 4  # trials shown, however low the terminal is

_TWICE = (
    "Another run that writes here, heard of {seconds:.0f} s ago, has {number} of these trainings too: {names}. "
    "If it goes on, they are trained twice; `python -m ablations.results watch` shows both."
)


@dataclass(frozen=True)
class Told:
    """How far one trial is. Numbers are None before there are any; `left` is in seconds."""

    name: str
    fingerprint: str
    status: str
    epochs: int
    waiting: bool = False
    ended: bool = False
    epoch: int | None = None
    loss: float | None = None
    z_std: float | None = None
    knn_top1: float | None = None
    left: float | None = None

    def cells(self) -> tuple[str, ...]:
        """Epoch, loss, std, kNN and time left as text; empty before the first epoch."""
        if self.epoch is None:
            return ("", "", "", "", "")
        numbers = ((self.loss, ".3f"), (self.z_std, ".2f"), (self.knn_top1, ".1f"))
        left = "" if self.left is None else duration(self.left)
        return (f"{self.epoch}/{self.epochs}", *("-" if n is None else format(n, form) for n, form in numbers), left)


@dataclass(frozen=True)
class Board:
    """How far all trials of a run are: those that run, then those that have ended, the last first, then the others."""

    summary: str
    trials: Sequence[Told]

    def window(self, height: int) -> tuple[list[Told], str]:
        """The trials that so many lines can show, and how many others there are."""
        running = [each for each in self.trials if not each.waiting and not each.ended]
        ended = [each for each in self.trials if each.ended]
        waiting = [each for each in self.trials if each.waiting]
        room = max(_LEAST, height - _BESIDES)
        found = [*running, *ended[: max(1, (room - len(running)) // 2)], *waiting][:room]
        others = len(self.trials) - len(found)
        return found, f"and {others} more, {len(waiting)} waiting in all" if others else ""

    def grid(self, height: int) -> Any:
        """The same for rich, within so many lines."""
        from rich.console import Group
        from rich.table import Table as Grid
        from rich.text import Text  # as it stands: a string would be markup, in which [0] and :cat: mean something

        grid = Grid(box=None, pad_edge=False)
        for heading in ("trial", "status", "epoch", "loss", "z_std", "kNN", "left"):
            grid.add_column(heading, overflow="fold")  # not every terminal has an ellipsis
        trials, others = self.window(height)
        for each in trials:
            grid.add_row(*(Text(shown(cell)) for cell in (each.name, each.status, *each.cells())))
        return Group(Text(shown(self.summary)), grid, *([Text(others)] if others else []))


class Post:
    """Leaves a run's board in its results folder every few seconds, and takes it away when the run ends.

    It has a thread of its own: a bucket that does not answer keeps no trial waiting.
    """

    def __init__(self, folder: Folder, board: Callable[[], Board]) -> None:
        self._folder, self._board = folder, board
        self._name = f"{_FOLDER}/{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}.json"
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._go_on, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join(_PATIENCE)

    def _go_on(self) -> None:
        looks = 2  # at the other boards: one that begins with this one is there at the second
        while True:
            with contextlib.suppress(Exception):  # no trial fails for it
                self._folder.write(self._name, packed(self._board()))
                if looks:
                    looks = 0 if self._look() else looks - 1
            if self._over.wait(_SECONDS):
                break
        with contextlib.suppress(Exception):
            self._folder.remove(self._name)

    def _look(self) -> bool:
        """Remove the boards of runs that were killed -> whether a run that goes on has trials of this one, and said."""
        told = False
        for name, seconds, theirs in _boards(self._folder):
            if seconds > _DEAD:
                self._folder.remove(name)
            elif name != self._name and seconds < _ALIVE and (names := _in_both(self._board(), theirs)):
                say(_TWICE.format(seconds=max(0, seconds), number=len(names), names=some(names, _NAMED)), error=True)
                told = True
        return told


def _in_both(mine: Board, theirs: Board) -> list[str]:
    """The names of trials that neither run has ended yet."""
    ours, its = ({each.fingerprint: each.name for each in board.trials if not each.ended} for board in (mine, theirs))
    return [name for fingerprint, name in ours.items() if fingerprint in its]


def packed(board: Board) -> bytes:
    return json.dumps({"written": time.time(), **dataclasses.asdict(board)}).encode()


def posted(folder: Folder) -> list[tuple[float, Board]]:
    """Of each run that has left its board: how many seconds ago that was, and the board. Those that are none are left
    out, as of another version."""
    return [(seconds, board) for _, seconds, board in _boards(folder)]


def _boards(folder: Folder) -> Iterator[tuple[str, float, Board]]:
    for name in folder.names(_FOLDER):
        with contextlib.suppress(ValueError, TypeError, KeyError):
            told = json.loads(folder.read(f"{_FOLDER}/{name}") or b"{}")
            board = Board(told["summary"], [Told(**each) for each in told["trials"]])
            yield f"{_FOLDER}/{name}", time.time() - told["written"], board


def duration(seconds: float) -> str:
    """0:42, 12:05 or 3:12:05."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"
