"""The trials that have not begun, in their order."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterable
from typing import Any

from ray.tune.search import Searcher

from ablations.launch.work import Job
from ablations.table import Trial


class Queue(Searcher):
    """Gives Tune one trial whenever there is a place for one.

    Not a grid search, which copies all trials for each of them before the first begins. Taking trials out of `waiting`
    keeps them from beginning.

    Args:
        job: what all trials are told.
    """

    def __init__(self, trials: Iterable[Trial], job: Job) -> None:
        super().__init__()
        self.waiting = deque(trials)
        self._job = job

    def suggest(self, trial_id: str) -> Any:
        if not self.waiting:
            return Searcher.FINISHED
        trial = self.waiting.popleft()
        return {"job": self._job | {"config": dataclasses.asdict(trial.config), "name": trial.name}}

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The watch is told, too."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing reads it back: what is done stands in the store."""

    def restore(self, checkpoint_path: str) -> None:
        """The same."""

    def __getstate__(self) -> dict[str, Any]:
        return {}  # Tune pickles it into a state that nothing here reads back, either
