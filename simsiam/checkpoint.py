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

EVERY = 20  # steps between two calls of Keeper.save: with many workers, a look at the clock is a broadcast


class Place(Protocol):
    """Where the one checkpoint of a trial is kept. A write is complete or has not happened."""

    def read(self) -> bytes | None: ...

    def write(self, content: bytes) -> None: ...


class TimeLimitError(RuntimeError):
    """The time that there was is over. What is done so far is in the checkpoint."""


class WrongCheckpointError(ValueError):
    """The checkpoint belongs to another Config."""


class Keeper:
    """The one checkpoint of a run, in named parts, and the run's clock. Every worker has one and calls it alike.

    Args:
        seconds: between two checkpoints.
        device: on which the workers agree.
        hurry: asked by every worker at each look at the clock: whether a checkpoint is wanted at once.
    """

    def __init__(
        self,
        config: Config,
        place: Place,
        *,
        seconds: float,
        device: torch.device | str = "cpu",
        hurry: Callable[[], bool] = lambda: False,
    ) -> None:
        self._config, self._place, self._every, self._device, self._hurry = config, place, seconds, device, hurry
        self._parts: dict[str, Any] = {}
        self._earlier = {"wall": 0.0, "workers": 0.0}
        self._started = self._saved = time.monotonic()

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
        found = distributed.everyone(content and hashlib.sha256(content).hexdigest()[:8])
        if len(set(found)) > 1:
            raise RuntimeError(
                f"The workers of a trial must go on from one checkpoint. Got {', '.join(map(str, found))} instead: "
                "keep the results in a folder that is the same on all nodes, or in a bucket."
            )
        self._parts = (content and unpack(self._config, content)) or {}
        self._earlier = self._parts.get("seconds", self._earlier)
        self._started = self._saved = time.monotonic()  # workers that had to wait for one of them have not trained
        return self._parts

    def part(self, name: str) -> Any:
        """A part as it was found or saved last, None if there is none."""
        return self._parts.get(name)

    def save(self, parts: Callable[[], dict[str, Any]], at_once: bool = False) -> None:
        """Write a checkpoint, if it is time for one, with these parts new and the others as they were.

        `parts` is called only then: to gather them takes time.
        """
        hurry = self._hurry()  # every worker asks, whatever its own clock says
        due = at_once or hurry or time.monotonic() - self._saved > self._every
        if not distributed.agree(due, self._device):
            return
        self._saved = time.monotonic()
        self._parts |= parts()
        if distributed.rank() == 0:
            self._place.write(pack(self._config, {**self._parts, "seconds": self.seconds}))


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
