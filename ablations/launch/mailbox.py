"""What the trials tell of themselves as they go, from wherever they are, to run.py."""

from __future__ import annotations

from typing import Any

import ray

from ablations.launch import HEAD

Word = str | dict[str, Any]  # a word on what it does, or the line of an epoch


class Mailbox:
    """What each trial has told, in its order. Nobody waits for it: a trial that tells something goes on at once.

    Not Tune's own reports: their queues of one hang a trial for good whose run.py has not listened for some seconds.
    """

    def __init__(self) -> None:
        # On the head, as run.py: no other node takes it along.
        actor: Any = _Said
        self._actor = actor.options(num_cpus=0, resources={HEAD: 0.001}, max_restarts=-1, max_task_retries=-1).remote()

    def tell(self, fingerprint: str, what: Word) -> None:
        self._actor.tell.remote(fingerprint, what)

    def wait(self) -> None:
        """Until all is there that this process has told: it may end right after."""
        ray.get(self._actor.wait.remote())

    def take(self) -> list[tuple[str, Word]]:
        """Fingerprints, each with what its trial has told, since the last time."""
        told: list[tuple[str, Word]] = ray.get(self._actor.take.remote())
        return told


@ray.remote
class _Said:
    def __init__(self) -> None:
        self._told: list[tuple[str, Word]] = []

    def tell(self, fingerprint: str, what: Word) -> None:
        self._told.append((fingerprint, what))

    def wait(self) -> None:
        """Calls of one process come in the order in which it made them."""

    def take(self) -> list[tuple[str, Word]]:
        told, self._told = self._told, []
        return told
