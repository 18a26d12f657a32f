"""A half-done run as bytes, and back: exact, and only for the Config that it belongs to; and when that is done."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import pickle
import time
from collections.abc import Callable
from typing import Any, Protocol

import torch

from simsiam import distributed
from simsiam.config import Config, difference

_MARGIN = 1.5  # of the time that is kept for what a run does until it looks at the clock again

EVERY = 20  # steps between two calls of Checkpointer.save: with many workers, a look at the clock is a broadcast


class Place(Protocol):
    """Where the one checkpoint of a trial is kept. A write is complete or has not happened."""

    def read(self) -> bytes | None: ...

    def write(self, content: bytes) -> None: ...


class TimeLimitError(RuntimeError):
    """The time that there was is over. What is done so far is in the checkpoint."""


class WrongCheckpointError(ValueError):
    """The checkpoint belongs to another Config."""


class Checkpointer:
    """The one checkpoint of a run, in named parts, and the run's clock. Every worker has one and calls it alike.

    Args:
        seconds: between two checkpoints.
        device: on which the workers agree.
        hurry: asked by every worker at each look at the clock: whether a checkpoint is wanted at once.
        until: seconds since 1970, before which the run ends with a checkpoint; None for as long as it takes.
    """

    def __init__(
        self,
        config: Config,
        place: Place,
        *,
        seconds: float,
        device: torch.device | str = "cpu",
        hurry: Callable[[], bool] = lambda: False,
        until: float | None = None,
    ) -> None:
        self._config, self._place, self._every, self._device, self._hurry = config, place, seconds, device, hurry
        self._until = until
        self._parts: dict[str, Any] = {}
        self._earlier = {"wall": 0.0, "workers": 0.0}
        # The longest that the run has taken from one look at the clock to the next, an evaluation say, and for a write.
        self._longest = self._write = 0.0
        self._started = self._saved = self._looked = time.monotonic()

    @property
    def seconds(self) -> dict[str, float]:
        """Wall-clock time of the run, without what was done again after a checkpoint; and that of all workers."""
        now = time.monotonic() - self._started
        here = {"wall": now, "workers": now * distributed.world_size()}
        return {name: earlier + here[name] for name, earlier in self._earlier.items()}

    def resume(self) -> dict[str, Any]:
        """The parts of the checkpoint; none if there is no checkpoint.

        Raises RuntimeError if the workers do not find the same, WrongCheckpointError.
        """
        content = self._place.read()
        found = distributed.everyone(hashlib.sha256(content).hexdigest()[:8] if content else None)
        if len(set(found)) > 1:
            raise RuntimeError(
                f"The workers of a trial must go on from one checkpoint. Got {', '.join(map(str, found))} instead: "
                "keep the results in a folder that is the same on all nodes, or in a bucket."
            )
        self._parts = (content and unpack(self._config, content)) or {}
        seconds = self._parts.get("seconds", self._earlier)
        self._earlier = {name: seconds[name] for name in self._earlier}
        self._longest = seconds.get("longest", 0.0)
        # Workers that had to wait for one of them have not trained.
        self._started = self._saved = self._looked = time.monotonic()
        return self._parts

    def part(self, name: str) -> Any:
        """A part as it was found or saved last, None if there is none."""
        return self._parts.get(name)

    def save(self, parts: Callable[[], dict[str, Any]], at_once: bool = False) -> None:
        """Write a checkpoint, if it is time for one, with these parts new and the others as they were.

        `parts` is called only then: to gather them takes time. Raises TimeLimitError, with a checkpoint written, if
        the time left might not suffice until the next call.
        """
        now = time.monotonic()
        self._longest = max(self._longest, now - self._looked)
        hurry = self._hurry()  # every worker asks, whatever its own clock says
        over = self._until is not None and time.time() + _MARGIN * (self._longest + self._write) > self._until
        if distributed.agree(at_once or hurry or over or now - self._saved > self._every, self._device):
            self._saved = now
            self._parts |= parts()
            if distributed.rank() == 0:
                seconds = {**self.seconds, "longest": self._longest}
                self._place.write(pack(self._config, {**self._parts, "seconds": seconds}))
                self._write = max(self._write, time.monotonic() - now)
            if self._until is not None and distributed.agree(over, self._device):
                raise TimeLimitError("The time limit has come first. The same command goes on from the checkpoint.")
        self._looked = time.monotonic()


def pack(config: Config, state: dict[str, Any]) -> bytes:
    """A state of tensors, numbers, text, lists and dicts, with the Config that it is of."""
    buffer = io.BytesIO()
    torch.save({"config": dataclasses.asdict(config), "state": state}, buffer)
    return buffer.getvalue()


def unpack(config: Config, content: bytes) -> dict[str, Any] | None:
    """The state, its tensors on the CPU, or None if there is none that can be read.

    Raises WrongCheckpointError if it is of another Config, naming the fields that differ.
    """
    try:
        # Not onto a GPU at once: without room there, a whole checkpoint would pass for a torn one.
        packed = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except (EOFError, RuntimeError, pickle.UnpicklingError):  # torn by a dying disk: the run starts again
        return None
    differing = difference(packed["config"], dataclasses.asdict(config))
    if differing:
        fields = ", ".join(f"{name} (checkpoint {its!r}, here {mine!r})" for name, (its, mine) in differing.items())
        raise WrongCheckpointError(f"The checkpoint belongs to another Config; they differ in {fields}. Remove it.")
    return packed["state"]
