"""D, the stop-gradient and the symmetrised loss: the one owner of these switches (Sec. 3, 4.1, 4.5, 4.6)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam.config import Config


def D(p: Tensor, z: Tensor, similarity: str = "cosine") -> Tensor:
    """How far p is from predicting z, both of shape (B, d) -> (B,).

    `cosine` is Eq. 1, the negative cosine similarity, in [-1, 1]. `cross_entropy` is Sec. 4.5's
    -softmax(z) . log softmax(p) over channels.
    """
    if similarity == "cosine":
        return -(F.normalize(p, dim=1) * F.normalize(z, dim=1)).sum(1)
    return -(F.softmax(z, dim=1) * F.log_softmax(p, dim=1)).sum(1)


def loss(p: Sequence[Tensor], z: Sequence[Tensor], config: Config) -> Tensor:
    """Eq. 2 for each image: the mean of D over the directions of each pair of views.

    Views 0 and 1 are a pair, 2 and 3 another (`pairs_per_image=2`). Symmetric: D(p1, z2)/2 + D(p2, z1)/2.
    Asymmetric: D(p1, z2) alone.

    Args:
        p, z: one tensor of shape (B, d) a view, h's and f's output. The loss is computed in float32 or wider.

    Returns:
        Tensor of shape (B,).
    """
    p, z = [_widen(x) for x in p], [_widen(x) for x in z]
    if config.stop_gradient:
        z = [x.detach() for x in z]
    terms = []
    for one, two in ((i, i + 1) for i in range(0, config.views, 2)):
        terms.append(D(p[one], z[two], config.similarity))
        if config.symmetric:
            terms.append(D(p[two], z[one], config.similarity))
    return sum(terms[1:], start=terms[0]) / len(terms)


def unit(z: Tensor) -> Tensor:
    """z/||z|| of each row, in float32 or wider."""
    return F.normalize(_widen(z), dim=1)


def products(one: Tensor, other: Tensor) -> Tensor:
    """Inner products of rows, (n, d) and (m, d) -> (n, m), in their own type where the network runs in bfloat16."""
    with torch.autocast(one.device.type, enabled=False):
        return one @ other.T


def _widen(x: Tensor) -> Tensor:
    return x.to(torch.promote_types(x.dtype, torch.float32))
