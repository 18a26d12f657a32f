"""How often a trial has failed in one place: it is tried again for as long as it gets further."""

from __future__ import annotations


class Failures:
    """Of each trial, its last ones in a row at one checkpoint."""

    def __init__(self) -> None:
        self._last: dict[str, tuple[int | None, int]] = {}

    def add(self, fingerprint: str, reached: int | None) -> int:
        """A trial has failed, its checkpoint being of that time -> how often it has there."""
        before, times = self._last.get(fingerprint, (None, 0))
        times = times + 1 if reached == before else 1
        self._last[fingerprint] = reached, times
        return times
