"""Batch normalisation over the global batch or over groups of it, for any number of workers, on CPU and GPU.

torch's SyncBatchNorm refuses CPU tensors and knows no group smaller than a worker's share.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from simsiam import distributed


class BatchNorm(_BatchNorm):
    """BatchNorm1d and BatchNorm2d in one: x of shape (b, C) or (b, C, H, W), b this worker's share of the batch.

    Statistics are over groups of consecutive samples of the global batch of size B: group k is samples
    k g .. (k+1) g - 1, wherever they live. Running statistics are the mean over the groups.

    Args:
        channels: C.
        batch_size: B, over all workers.
        group: g, dividing B; None for B itself.
        affine: whether there is a learned scale and shift.
    """

    def __init__(self, channels: int, *, batch_size: int, group: int | None = None, affine: bool = True) -> None:
        super().__init__(channels, affine=affine)
        self.batch_size = batch_size
        self.group = group or batch_size

    def _check_input_dim(self, input: Tensor) -> None:
        if input.dim() not in (2, 4):
            raise ValueError(f"BatchNorm takes (b, C) or (b, C, H, W). Got {tuple(input.shape)} instead.")

    def forward(self, x: Tensor) -> Tensor:
        native = distributed.world_size() == 1 and self.group == self.batch_size
        if native or not self.training:
            return super().forward(x)
        self._check_input_dim(x)
        part = distributed.share(self.batch_size)
        if len(x) != part.stop - part.start:
            raise ValueError(
                f"This worker's share of the batch of {self.batch_size} is {part.stop - part.start} images. "
                f"Got {len(x)} instead."
            )
        members = torch.arange(part.start, part.stop, device=x.device) // self.group
        y, mean, var, count = _Normalise.apply(x, members, self.batch_size // self.group, self.eps)
        self._track(mean, var * (count / (count - 1)))
        shape = (1, -1) + (1,) * (x.dim() - 2)
        y = y * self.weight.view(shape) + self.bias.view(shape) if self.affine else y
        return y.to(x.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, var: Tensor) -> None:
        """Running statistics from those of each group, (G, C)."""
        self.num_batches_tracked.add_(1)  # type: ignore
        self.running_mean.lerp_(mean.mean(0).to(self.running_mean.dtype), self.momentum)  # type: ignore
        self.running_var.lerp_(var.mean(0).to(self.running_var.dtype), self.momentum)  # type: ignore


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with the statistics of each group gathered from all workers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, members: Tensor, groups: int, eps: float) -> tuple[Tensor, ...]:
        wide = x.to(torch.promote_types(x.dtype, torch.float32)).reshape(*x.shape[:2], -1)  # (b, C, pixels)
        counts = torch.bincount(members, minlength=groups).to(wide.dtype)[:, None] * wide.shape[2]  # (G, 1)
        means = _by_group(wide.sum(2), members, groups) / counts.clamp(min=1)
        squares = _by_group((wide - means[members][..., None]).square().sum(2), members, groups)

        # Chan's merge of (count, mean, M2): no cancellation, whatever the mean is.
        parts = distributed.stack(torch.cat([counts, means, squares], 1))  # (W, G, 1 + 2C)
        n, m, m2 = parts.split([1, means.shape[1], means.shape[1]], dim=2)
        count = n.sum(0)
        mean = (n * m).sum(0) / count
        var = (m2.sum(0) + (n * (m - mean).square()).sum(0)) / count

        invstd = (var + eps).rsqrt()
        y = (wide - mean[members][..., None]) * invstd[members][..., None]
        ctx.save_for_backward(y, members, invstd, count)
        ctx.dtype = x.dtype
        ctx.mark_non_differentiable(mean, var, count)
        return y.reshape(x.shape), mean, var, count  # wide: rounded once, after the scale and shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None, None]:
        y, members, invstd, count = ctx.saved_tensors
        grad = grads[0].reshape(y.shape)
        sums = torch.cat([grad.sum(2), (grad * y).sum(2)], 1)
        means = distributed.total(_by_group(sums, members, len(invstd))) / count  # (G, 2C)
        of_grad, of_product = means[members][..., None].chunk(2, dim=1)
        dx = (grad - of_grad - y * of_product) * invstd[members][..., None]
        return dx.reshape(grads[0].shape).to(ctx.dtype), None, None, None


def _by_group(rows: Tensor, members: Tensor, groups: int) -> Tensor:
    """Sums of rows (b, K) over the members of each group -> (G, K)."""
    return rows.new_zeros(groups, rows.shape[1]).index_add(0, members, rows)
