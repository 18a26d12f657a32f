"""A trial's checkpoints are written beside its training."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import pytest

from ablations.beside import beside
from ablations.files import Checkpoint, Folder
from simsiam.config import Runtime


class SlowFolder(Folder):
    """Each write waits for the test, and fails where its content says so."""

    go_on, waits = threading.Event(), threading.Event()

    def write(self, name: str, content: bytes) -> None:
        self.waits.set()
        try:
            assert self.go_on.wait(20)
        finally:
            self.waits.clear()
        if content.startswith(b"full"):
            raise OSError("no space left")
        super().write(name, content)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    SlowFolder.go_on = threading.Event()
    return Checkpoint(SlowFolder(str(tmp_path)), "x.pt")


def soon() -> None:
    threading.Timer(0.2, SlowFolder.go_on.set).start()


def test_a_run_goes_on_while_its_checkpoint_is_written(checkpoint: Checkpoint) -> None:
    with beside(checkpoint, Runtime(), print) as place:
        place.write(b"first")
        assert place.read() is None
        soon()
        place.write(b"second")  # waits for the first
        assert checkpoint.read() in (b"first", b"second")
    assert checkpoint.read() == b"second"


def test_with_a_time_limit_a_run_waits_for_each_checkpoint(checkpoint: Checkpoint) -> None:
    with beside(checkpoint, Runtime(until=time.time() + 60), print) as place:
        soon()
        place.write(b"first")
        assert checkpoint.read() == b"first"


def test_a_checkpoint_that_cannot_be_written_ends_its_trial_with_the_next(checkpoint: Checkpoint) -> None:
    SlowFolder.go_on.set()
    begun: list[bytes] = []

    def run(*contents: bytes) -> None:
        begun.clear()
        with beside(checkpoint, Runtime(), print) as place:
            for content in contents:
                begun.append(content)
                place.write(content)

    with pytest.raises(OSError, match="no space"):
        run(b"first", b"full", b"next", b"one more")
    assert begun == [b"first", b"full", b"next"]
    assert checkpoint.read() == b"first"
    with pytest.raises(OSError, match="no space"):
        run(b"last", b"full")
    assert checkpoint.read() == b"last"


def test_what_has_ended_a_trial_is_told_after_its_last_checkpoint_is_there(checkpoint: Checkpoint) -> None:
    def end(content: bytes, error: BaseException) -> None:
        with beside(checkpoint, Runtime(), print) as place:
            place.write(content)
            raise error

    soon()
    with pytest.raises(RuntimeError, match="its node is about to go"):
        end(b"last", RuntimeError("its node is about to go"))
    assert checkpoint.read() == b"last"
    with pytest.raises(RuntimeError, match="out of luck"):
        end(b"full", RuntimeError("out of luck"))
    SlowFolder.go_on.clear()
    with pytest.raises(KeyboardInterrupt):
        end(b"never", KeyboardInterrupt())
    assert SlowFolder.waits.wait(10)
    assert checkpoint.read() == b"last"
    SlowFolder.go_on.set()
