"""The table files, brought up to date while trials run."""

from __future__ import annotations

import contextlib
import time
from typing import Any

from ablations.store import Store
from ablations.table import Trial

_SECONDS = 3.0  # between two rebuilds


class Rebuild:
    """Brings the table files up to date with what is done, now and then, or at once.

    Now and then is every few seconds, and seldom enough to take a tenth of the time where a bucket is slow. The first
    time, and where somebody has removed a table, all trials are looked at, else those whose files are others.
    """

    def __init__(self, store: Store, trials: list[Trial]) -> None:
        self._store, self._trials = store, trials
        self._seen: dict[str, Any] = {}
        self._tables: set[str] = set()
        self._next, self._due = time.monotonic(), False

    def __call__(self, ended: bool) -> None:
        """Now and then: with what has ended since the last time, `ended` if a trial just has."""
        self._due = self._due or ended
        if self._due and time.monotonic() > self._next:
            with contextlib.suppress(OSError):  # the trials matter more: the last rebuild has all that they came to
                self.at_once()

    def at_once(self) -> None:
        begun = time.monotonic()
        try:
            self._rebuild()
            self._due = False
        finally:
            took = time.monotonic() - begun
            self._next = time.monotonic() + max(_SECONDS, 9 * took)

    def _rebuild(self) -> None:
        stamps = self._store.stamps()  # before the files are read: what is written meanwhile is another one next time
        seen = self._seen if self._tables <= self._store.table_files() else {}
        self._store.rebuild(
            [
                trial
                for trial in self._trials
                if stamps.get(trial.fingerprint) != seen.get(trial.fingerprint) or (trial.infeasible and not seen)
            ],
            stamps,
        )
        self._seen, self._tables = stamps, self._store.table_files()
