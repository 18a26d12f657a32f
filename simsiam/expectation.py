"""Sec. 5.2: the expectation over augmentations, which the predictor may stand for, made by a moving average instead."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam import distributed, objective
from simsiam.config import Config
from simsiam.method import Method


class Expectation(Method):
    """No predictor. A view's target is m eta_x + (1 - m) z of the other, and eta_x becomes the mean of both targets.

    z and eta are normalised to length 1 (`eta_normalised`): for the cosine the paper's footnote 5 says so of eq. 9, and
    the memory bank that it compares this with (Wu et al. 2018) is. Ours is that eta starts at a picture's first z
    (`eta_start`). With m = 0 it is the row without a predictor, and a Config says so.
    """

    draws = True
    averages: Tensor
    seen: Tensor

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        assert config.dim
        self.register_buffer("averages", torch.zeros(len(labels), config.dim))
        self.register_buffer("seen", torch.full((len(labels),), config.eta_start == "zero"))
        self._news: tuple[Tensor, Tensor] = torch.empty(0), torch.empty(0)

    def draw(self, ids: npt.NDArray[Any], epoch: int, step: int) -> npt.NDArray[Any]:
        """Which pictures these are, (b,)."""
        return ids

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (2, b, 3, H, W) and the pictures' numbers (b,) -> the loss of each picture, (b,)."""
        assert drawn is not None
        assert self.config.eta_momentum is not None
        _, z = self.model(x)
        eta, m = self.averages[drawn], self.config.eta_momentum * self.seen[drawn, None]
        targets = [m * eta + (1 - m) * self._normalised(each.detach()) for each in z]
        self._news = drawn, (targets[0] + targets[1]) / 2  # read by `update`
        return objective.loss(z, targets, self.config)

    def update(self, steps: int, of: int) -> None:
        """Keep the averages of the step's pictures, on every worker."""
        ids, eta = map(distributed.gather, self._news)
        self.averages[ids] = self._normalised(eta)
        self.seen[ids] = True

    def _normalised(self, z: Tensor) -> Tensor:
        z = z.to(self.averages.dtype)
        return F.normalize(z, dim=1) if self.config.eta_normalised else z
