"""Sec. 5.2, Eq. 7 and 8: SimSiam as an alternation of two sub-problems, with many steps of SGD on the first of them.

The paper makes eta for the pictures of the next k steps, with one augmentation each, and caches it. Here eta is made
when a step needs it, by the weights that there were at the cycle's start: the same numbers, and no cache to keep.
"""

from __future__ import annotations

import torch
from torch import Tensor

from simsiam import objective
from simsiam.config import Config
from simsiam.method import Method, momentum_encoder, move


class Alternation(Method):
    """D against z of weights that are `eta_steps` steps old at most; 0 stands for an epoch. With 1 it is
    SimSiam, and a Config says so."""

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        self.eta = momentum_encoder(config)
        self._cycle = config.eta_steps or len(labels) // config.batch_size

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (V, b, 3, H, W) -> the loss of each picture, (b,). f's running statistics are left alone by eta's."""
        p, _ = self.model(x)
        with torch.no_grad():
            eta = [self.eta.f(view) for view in x]
        return objective.loss(p, eta, self.config)

    def update(self, steps: int, of: int) -> None:
        """The second sub-problem: eta is made by the present weights from here on."""
        if steps % self._cycle == 0:
            move(self.eta, self.model, 0.0)
