"""Trials small enough for a test: a second each."""

from __future__ import annotations

from typing import Any

from simsiam import data
from simsiam.checkpoint import Checkpointer
from simsiam.config import Config
from simsiam.recipes import DIGITS

FIELDS: dict[str, Any] = dict(
    image_size=8,
    crop_min_area=0.4,
    base_lr=0.5,
    width=4,
    dim=16,
    projector_hidden=16,
    predictor_hidden=4,
    epochs=2,
    eval_every=1,
    train_images=300,
)
OVERRIDES = [part for name, value in FIELDS.items() for part in ("--set", f"{name}={value}")]


def config(**changes: Any) -> Config:
    return Config(**{"data": data.locate(None).name, **DIGITS, **FIELDS, **changes})


class Memory:
    """A checkpoint's place that forgets when the test ends, and can be told to die at a write."""

    def __init__(self, content: bytes | None = None, die_at: int | None = None) -> None:
        self.content, self.writes, self.die_at = content, 0, die_at

    def read(self) -> bytes | None:
        return self.content

    def write(self, content: bytes) -> None:
        self.writes += 1
        self.content = content
        if self.writes == self.die_at:
            raise KeyboardInterrupt


def checkpointer(of: Config | None = None, place: Memory | None = None, seconds: float = 30) -> Checkpointer:
    return Checkpointer(of or config(), place or Memory(), seconds=seconds)
