"""The end of a time limit in work that has no end of its own in view: an evaluation, or pictures that are decoded."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from typing import TypeVar

from simsiam.checkpoint import TimeLimitError

T = TypeVar("T")


class _Alarm(BaseException):
    """The time is over. No Exception: who reads a checkpoint takes some of these for a torn one."""


def within(until: float | None, work: Callable[[], T]) -> T:
    """What `work` returns, if it does so by that time, in seconds since 1970; else raises TimeLimitError.

    What is in the last checkpoint stays. For a process's main thread alone.
    """
    if until is None:
        return work()

    def end(*_: object) -> None:
        raise _Alarm

    before = signal.signal(signal.SIGALRM, end)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(until - time.time(), 0.001), 1.0)  # again, where a destructor ate it
        try:
            return work()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
    except _Alarm:
        raise TimeLimitError from None
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
