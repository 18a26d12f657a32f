"""Batch normalisation over the global batch or over groups of it, for any number of workers, on CPU and GPU.

torch's own kernels do it wherever they can: its SyncBatchNorm refuses CPU tensors and knows no group smaller than a
worker's share, and in the channels-last format its CPU kernels add up all rows of a channel one after another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor
from torch.nn.modules._functions import SyncBatchNorm
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
        workers, whole = distributed.world_size(), self.group == self.batch_size
        in_rows = x.device.type == "cpu" and _is_channels_last(x) and x.numel() > _LONGEST * x.shape[1]
        if not self.training or (workers == 1 and whole and not in_rows):
            return super().forward(x)
        self._check_input_dim(x)
        part = distributed.share(self.batch_size)
        if len(x) != part.stop - part.start:
            raise ValueError(
                f"This worker's share of the batch of {self.batch_size} is {part.stop - part.start} images. "
                f"Got {len(x)} instead."
            )
        if workers == 1:
            return self._in_rows(x) if whole and in_rows else self._by_folding(x)
        if whole and x.is_cuda:
            return self._by_torch(x, workers)
        return self._by_gathering(x, part)

    def _in_rows(self, x: Tensor) -> Tensor:
        """One worker on a CPU, channels last."""
        y, mean, var = _NormaliseRows.apply(x, self.weight, self.bias, self.eps)
        n = x.numel() // x.shape[1]
        self._track(mean[None], (var * (n / (n - 1)))[None])
        return y

    def _by_folding(self, x: Tensor) -> Tensor:
        """One worker: the groups side by side as channels of one native BN."""
        groups, channels = self.batch_size // self.group, x.shape[1]
        rest = x.shape[2:]
        folded = x.reshape(groups, self.group, channels, *rest).transpose(0, 1).reshape(self.group, -1, *rest)
        mean, var = (torch.zeros(len(folded[0]), dtype=_wide(x), device=x.device) for _ in range(2))
        weight, bias = (p.repeat(groups) if self.affine else None for p in (self.weight, self.bias))
        # With a momentum of 1 they become this batch's own.
        y = F.batch_norm(folded, mean, var, weight, bias, training=True, momentum=1.0, eps=self.eps)
        self._track(mean.view(groups, channels), var.view(groups, channels))
        return y.view(self.group, groups, channels, *rest).transpose(0, 1).reshape(x.shape)

    def _by_torch(self, x: Tensor, workers: int) -> Tensor:
        """Many GPUs, one group: the kernels of torch's SyncBatchNorm, which also takes shares of unequal length."""
        self.num_batches_tracked.add_(1)  # type: ignore
        return SyncBatchNorm.apply(
            x.contiguous(memory_format=torch.channels_last if _is_channels_last(x) else torch.contiguous_format),
            self.weight,
            self.bias,
            self.running_mean,
            self.running_var,
            self.eps,
            self.momentum,
            dist.group.WORLD,
            workers,
        )

    def _by_gathering(self, x: Tensor, part: slice) -> Tensor:
        """Many workers, whose groups may lie in several shares."""
        y, mean, var, count = _Normalise.apply(x, _Groups(part, self.group, self.batch_size // self.group), self.eps)
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


@dataclass(frozen=True)
class _Groups:
    """Which of G groups of g consecutive samples this worker's share has samples of. Known without a look at them."""

    part: slice
    size: int
    number: int

    @property
    def _touched(self) -> slice:
        return slice(self.part.start // self.size, -(-self.part.stop // self.size))

    def total(self, rows: Tensor) -> Tensor:
        """Sums of rows (b, K) over each group -> (G, K), in an order that does not vary: no atomics."""
        touched = self._touched
        before, after = self.part.start - touched.start * self.size, touched.stop * self.size - self.part.stop
        sums = F.pad(rows, (0, 0, before, after)).view(touched.stop - touched.start, self.size, -1).sum(1)
        return F.pad(sums, (0, 0, touched.start, self.number - touched.stop))

    def spread(self, values: Tensor) -> Tensor:
        """Each sample's own of the values of its group, (G, ...) -> (b, ...)."""
        touched = self._touched
        first = self.part.start - touched.start * self.size
        return values[touched].repeat_interleave(self.size, 0)[first : first + self.part.stop - self.part.start]

    def counts(self, like: Tensor) -> Tensor:
        """Samples of this share in each group, (G, 1)."""
        start = torch.arange(self.number, device=like.device) * self.size
        here = (start + self.size).clamp(max=self.part.stop) - start.clamp(min=self.part.start)
        return here.clamp(min=0).to(like.dtype)[:, None]


class _Normalise(torch.autograd.Function):
    """(x - mean) / sqrt(var + eps) with the statistics of each group gathered from all workers."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: _Groups, eps: float) -> tuple[Tensor, ...]:
        wide = x.to(_wide(x)).reshape(*x.shape[:2], -1)  # (b, C, pixels)
        counts = groups.counts(wide) * wide.shape[2]  # (G, 1)
        means = groups.total(wide.sum(2)) / counts.clamp(min=1)
        squares = groups.total((wide - groups.spread(means)[..., None]).square().sum(2))

        # Chan's merge of (count, mean, M2): no cancellation, whatever the mean is.
        parts = distributed.stack(torch.cat([counts, means, squares], 1))  # (W, G, 1 + 2C)
        n, m, m2 = parts.split([1, means.shape[1], means.shape[1]], dim=2)
        count = n.sum(0)
        mean = (n * m).sum(0) / count
        var = (m2.sum(0) + (n * (m - mean).square()).sum(0)) / count

        invstd = (var + eps).rsqrt()
        y = (wide - groups.spread(mean)[..., None]) * groups.spread(invstd)[..., None]
        ctx.save_for_backward(y, invstd, count)
        ctx.groups, ctx.dtype = groups, x.dtype
        ctx.mark_non_differentiable(mean, var, count)
        return y.reshape(x.shape), mean, var, count  # wide: rounded once, after the scale and shift

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        y, invstd, count = ctx.saved_tensors
        groups: _Groups = ctx.groups
        grad = grads[0].reshape(y.shape)
        sums = torch.cat([grad.sum(2), (grad * y).sum(2)], 1)
        means = distributed.total(groups.total(sums)) / count  # (G, 2C)
        of_grad, of_product = groups.spread(means)[..., None].chunk(2, dim=1)
        dx = (grad - of_grad - y * of_product) * groups.spread(invstd)[..., None]
        return dx.reshape(grads[0].shape).to(ctx.dtype), None, None


class _NormaliseRows(torch.autograd.Function):
    """BN of channels-last x (b, C, H, W), whose sums are exact enough to train on: each is of many short ones.

    It is n = b H W rows of C numbers, or as well n/s rows of s C: there torch's kernels add up no more than n/s rows.
    """

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
    ) -> tuple[Tensor, Tensor, Tensor]:
        rows = _short_sums(x)
        wide = torch.zeros(rows.shape[1], dtype=_wide(x))  # the type of what comes out; with a momentum of 0 it stays
        means, variances = torch.batch_norm_update_stats(rows, wide, wide, 0.0)
        means, variances = means.view(-1, x.shape[1]), variances.view(-1, x.shape[1])
        mean = means.mean(0)
        var = variances.mean(0) + (means - mean).square().mean(0)
        y = F.batch_norm(x, mean, var, weight, bias, training=False, eps=eps)
        ctx.save_for_backward(x, weight, mean, var)
        ctx.eps = eps
        ctx.mark_non_differentiable(mean, var)
        return y, mean, var

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor | None, Tensor | None, None]:
        x, weight, mean, var = ctx.saved_tensors
        grad, rows = (_short_sums(each) for each in (grads[0].contiguous(memory_format=torch.channels_last), x))
        n, sums = x.numel() // len(mean), rows.shape[1] // len(mean)
        many = [None if each is None else _repeated(each, sums) for each in (weight, mean, var)]
        dx, dweights, dbiases = torch.ops.aten.native_batch_norm_backward(
            grad, rows, *many, None, None, False, ctx.eps, [True, True, True]
        )
        dweight, dbias = dweights.view(sums, -1).sum(0), dbiases.view(sums, -1).sum(0)
        invstd = (var + ctx.eps).rsqrt()
        scale = invstd if weight is None else invstd * weight
        # As yet dx takes mean and var for constants. Their own part of it is linear in x.
        slope = -scale * invstd * dweight / n
        offset = scale * dbias / n + slope * mean
        dx.addcmul_(rows, _repeated(slope.to(x.dtype), sums)).sub_(_repeated(offset.to(x.dtype), sums))
        dx = dx.view(x.shape[0], *x.shape[2:], -1).permute(0, 3, 1, 2)
        return (dx, *((None, None) if weight is None else (dweight, dbias)), None)


_LONGEST = 1024  # rows that are added up one after another: as exact as torch's kernels for the other format


def _short_sums(x: Tensor) -> Tensor:
    """Channels-last x (b, C, H, W) -> (n/s, s C) with n/s at most _LONGEST, without a copy."""
    rows = x.permute(0, 2, 3, 1).flatten(0, 2)
    n = len(rows)
    sums = next(sums for sums in range(-(-n // _LONGEST), n + 1) if n % sums == 0)
    return rows.view(n // sums, -1)


def _repeated(values: Tensor, times: int) -> Tensor:
    return values.expand(times, -1).contiguous().view(-1)  # Tensor.repeat takes five times as long


def _wide(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)


def _is_channels_last(x: Tensor) -> bool:
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
