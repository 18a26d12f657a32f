"""What a method adds to f and h: its loss, its state, and what becomes of that after a step. This is SimSiam's.

The relatives (simsiam/relatives/) and Sec. 5's experiments change one or more of the three functions below, and nothing
else: views, steps, evaluation, checkpoints and workers are shared. That is the seam because all of them are a loss of
the views of a batch, gradients of it, and a state that is moved between two steps.
"""

from __future__ import annotations

import importlib
from typing import Any, ClassVar

import numpy.typing as npt
import torch
from torch import Tensor, nn

from simsiam import objective
from simsiam.config import Config
from simsiam.methods import METHODS
from simsiam.model import SimSiam


class Method(nn.Module):
    """SimSiam (Algorithm 1), and what its relatives are made from.

    Parameters and buffers are the method's state: they are in its checkpoint, and the same on every worker.

    Args:
        config: of the trial.
        labels: of the training pictures, int64 (N,), -1 where there is none. Only what is supervised looks at them.
    """

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__()
        self.config = config
        self.model = SimSiam(config)
        self.register_module("classifier", None)

    draws: ClassVar[bool] = False  # whether `forward` needs what `draw` gives
    classifier: nn.Module | None  # on the backbone's output, trained with it

    def draw(self, ids: npt.NDArray[Any], epoch: int, step: int) -> npt.NDArray[Any]:
        """Whole numbers that `forward` gets with a batch, the same shape for each.

        Args:
            ids: of this worker's pictures, (b,).
            step: within the epoch.
        """
        raise NotImplementedError

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (V, b, 3, H, W) of this worker's share of a batch -> the loss of each picture, (b,)."""
        p, z = self.model(x)  # h(f(x)) and f(x), V tensors of shape (b, d) each
        return objective.loss(p, z, self.config)

    def update(self, steps: int, of: int) -> None:
        """After a step: `steps` of all `of` are done."""


def build(config: Config, labels: Tensor) -> Method:
    """The method that a Config names."""
    module, _, name = METHODS[config.method].code.partition(":")
    method: Method = getattr(importlib.import_module(module), name)(config, labels)
    return method


def momentum_encoder(config: Config) -> SimSiam:
    """f as it starts, since a seed gives the same weights; without gradients, with running statistics of its own."""
    return SimSiam(config).requires_grad_(False)


@torch.no_grad()
def move(target: nn.Module, model: nn.Module, momentum: float) -> None:
    """target <- momentum x target + (1 - momentum) x model, of the weights."""
    torch._foreach_lerp_(list(target.parameters()), list(model.parameters()), 1 - momentum)
