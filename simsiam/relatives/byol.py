"""BYOL (Grill et al. 2020): SimSiam with a momentum encoder for the target (Sec. 6.2)."""

from __future__ import annotations

import torch
from torch import Tensor

from simsiam import objective, optim
from simsiam.config import Config
from simsiam.method import Method, momentum_encoder, move


class BYOL(Method):
    """D(p1, z2') / 2 + D(p2, z1') / 2, z' by a momentum encoder, whose momentum goes to 1 along half a cosine."""

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        self.target = momentum_encoder(config)

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (2, b, 3, H, W) -> the loss of each picture, (b,)."""
        p, _ = self.model(x)
        with torch.no_grad():
            z = [self.target.f(view) for view in x]
        return objective.loss(p, z, self.config)

    def update(self, steps: int, of: int) -> None:
        """Move the momentum encoder: tau = 1 - (1 - tau_base) (cos(pi k / K) + 1) / 2."""
        assert self.config.target_momentum is not None
        move(self.target, self.model, 1 - (1 - self.config.target_momentum) * optim.cosine(steps / of))
