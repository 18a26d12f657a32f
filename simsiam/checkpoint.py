"""A half-done run as bytes, and back: exact, and only for the Config that it belongs to."""

from __future__ import annotations

import dataclasses
import io
import pickle
from typing import Any, Protocol

import torch

from simsiam.config import Config, difference


class Place(Protocol):
    """Where the one checkpoint of a trial is kept. A write is complete or has not happened."""

    def read(self) -> bytes | None: ...

    def write(self, content: bytes) -> None: ...


class WrongCheckpointError(ValueError):
    """The checkpoint belongs to another Config."""


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
