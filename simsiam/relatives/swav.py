"""SwAV (Caron et al. 2020): which prototypes a view has is predicted from the other view. Two views, no multi-crop."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from simsiam import distributed, objective
from simsiam.config import Config
from simsiam.method import Method
from simsiam.model import initialise

EPSILON, ITERATIONS = 0.05, 3  # of Sinkhorn-Knopp


class SwAV(Method):
    """Codes of one view by Sinkhorn-Knopp over the global batch, and their cross-entropy with the other's scores.

    The prototypes are of length 1, within the gradient. Sec. 6.2 adds h to the side that predicts, and lets the
    gradient through the codes (`stop_gradient=False`).
    """

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        assert config.prototypes
        assert config.dim
        self.prototypes = nn.Linear(config.dim, config.prototypes, bias=False)
        initialise(nn.ModuleDict({"prototypes": self.prototypes}), config.seed)

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (2, b, 3, H, W) -> the mean loss of a picture's two views, (b,)."""
        p, z = self.model(x)  # p is z without a predictor
        prototypes = objective.unit(self.prototypes.weight)
        predicted, scores = ([objective.products(objective.unit(each), prototypes) for each in both] for both in (p, z))
        part = distributed.share(self.config.batch_size)
        codes = []
        for each in scores:
            every = distributed.gather(each)
            codes.append(sinkhorn(every.detach() if self.config.stop_gradient else every)[part])
        assert self.config.temperature is not None
        losses = [
            -(code * F.log_softmax(score / self.config.temperature, 1)).sum(1)
            for code, score in zip(codes, reversed(predicted), strict=True)
        ]
        return (losses[0] + losses[1]) / 2


def sinkhorn(scores: Tensor) -> Tensor:
    """Scores (B, K) -> codes (B, K): each row adds up to 1, and all prototypes are used about equally often."""
    q = ((scores - scores.detach().max()) / EPSILON).exp()
    q = q / q.sum()
    for _ in range(ITERATIONS):
        q = q / q.sum(0, keepdim=True) / q.shape[1]
        q = q / q.sum(1, keepdim=True) / q.shape[0]
    return q * q.shape[0]
