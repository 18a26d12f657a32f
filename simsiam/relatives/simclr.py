"""SimCLR (Chen et al. 2020): a view is to be found among all views of a batch. Sec. 6.2 adds h and a stop-gradient."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam import distributed, objective
from simsiam.method import Method


class SimCLR(Method):
    """NT-Xent over the global batch: a positive and 2 (B - 1) negatives for each view."""

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (2, b, 3, H, W) -> the mean loss of a picture's two views, (b,)."""
        p, z = self.model(x)  # p is z without a predictor
        if self.config.stop_gradient:
            z = [each.detach() for each in z]
        assert self.config.temperature is not None
        return nt_xent(p, z, self.config.temperature)


def nt_xent(p: list[Tensor], z: list[Tensor], temperature: float) -> Tensor:
    """-log of the softmax of cosine(p1, z2) / temperature over all z of the batch but the view's own, and with views
    swapped. p and z are two tensors (b, d) each, of this worker's share -> the mean of both, (b,).
    """
    p, z = [objective.unit(each) for each in p], [objective.unit(each) for each in z]
    every = torch.cat([distributed.gather(each) for each in z])  # (2 B, d): all first views, then all second ones
    batch = len(every) // 2
    rows = torch.arange(batch, device=every.device)[distributed.share(batch)]
    losses = []
    for view in (0, 1):
        cosine = objective.products(p[view], every) / temperature
        own, other = rows + view * batch, rows + (1 - view) * batch
        cosine = cosine.scatter(1, own[:, None], -torch.inf)
        losses.append(F.cross_entropy(cosine, other, reduction="none"))
    return (losses[0] + losses[1]) / 2
