"""What Ray is told of nodes that will go: spot machines that the cloud takes away, nodes that somebody drains."""

from __future__ import annotations

import time
from collections.abc import Collection

from ray._private.state import state

from simsiam import distributed

_SECONDS = 2.0  # between two questions to Ray


class LeavingError(RuntimeError):
    """A node of this trial is about to go. What is done so far is in the checkpoint."""


def going() -> set[str]:
    """The ids of the nodes that will go."""
    return set(state.get_draining_nodes())


class Notices:
    """Asked by every worker now and then whether a checkpoint is wanted at once, because a node of theirs will go.

    The next question after that raises LeavingError: the trial goes on elsewhere, and the node is free to go. Not
    Train's own watcher: that is a process for each trial, and there is none for a trial of one process.

    Args:
        nodes: ids of the nodes that this trial's workers are on.
    """

    def __init__(self, nodes: Collection[str]) -> None:
        self._nodes, self._leaving = set(nodes), False
        self._next = time.monotonic()

    def __call__(self) -> bool:
        if self._leaving:
            raise LeavingError("its node is about to go")
        if distributed.rank() != 0 or time.monotonic() < self._next:  # whether to write is for rank 0 to decide
            return False
        self._next = time.monotonic() + _SECONDS
        self._leaving = not self._nodes.isdisjoint(going())
        return self._leaving
