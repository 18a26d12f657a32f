"""A trial's checkpoints, written beside its training."""

from __future__ import annotations

import contextlib
import dataclasses
import threading
from collections.abc import Callable, Iterator

from ablations.files import Checkpoint
from simsiam.checkpoint import Place
from simsiam.config import Runtime


@contextlib.contextmanager
def beside(checkpoint: Checkpoint, runtime: Runtime, tell: Callable[[str], None]) -> Iterator[Place]:
    """A place for checkpoints whose writes return before they are over.

    The next one waits for the one before, and so does the end, unless a trial is interrupted. What a write has raised
    is raised by what waits for it. With a time limit each write is waited for at once: the run's clock keeps as much
    time as one takes, and all of its workers end with the last.

    Args:
        tell: what a person is told by of a checkpoint that a disk has damaged.
    """
    checkpoint = dataclasses.replace(checkpoint, tell=tell)
    if runtime.until is not None:
        yield checkpoint
        return
    place = _Beside(checkpoint)
    try:
        yield place
    except Exception:
        with contextlib.suppress(Exception):  # what has ended the trial says more
            place.wait()
        raise
    place.wait()


class _Beside:
    def __init__(self, checkpoint: Checkpoint) -> None:
        self._checkpoint = checkpoint
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None

    def read(self) -> bytes | None:
        return self._checkpoint.read()

    def write(self, content: bytes) -> None:
        self.wait()
        # A daemon: who interrupts a run does not wait until a bucket that does not answer was tried again for minutes.
        self._thread = threading.Thread(target=self._write, args=(content,), daemon=True)
        self._thread.start()

    def _write(self, content: bytes) -> None:
        try:
            self._checkpoint.write(content)
        except Exception as error:
            self._error = error

    def wait(self) -> None:
        """Until the last write is over. Raises what it has raised."""
        if self._thread:
            self._thread.join()
        error, self._error = self._error, None
        if error:
            raise error
