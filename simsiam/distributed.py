"""One worker or many, without the caller minding. Plain torch.distributed; every function is the identity for one."""

from __future__ import annotations

import functools
import json
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.nn import functional as F


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else 1


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0


def share(n: int) -> slice:
    """This worker's contiguous part of n items; the parts differ by at most one in length."""
    return slice(n * rank() // world_size(), n * (rank() + 1) // world_size())


def total(x: Tensor) -> Tensor:
    """The sum of x over all workers, without gradient."""
    if world_size() > 1:
        x = x.clone()
        dist.all_reduce(x)
    return x


def gather(x: Tensor) -> Tensor:
    """Rows of all workers in rank order, x of shape (n_w, ...) with n_w differing between workers -> (sum n_w, ...).

    What each worker makes of them has a part in the gradient.
    """
    if world_size() == 1:
        return x
    gathered: Tensor = _Gather.apply(x)  # type: ignore[no-untyped-call]
    return gathered


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        counts = [int(n) for n in stack(torch.tensor([len(x)], device=x.device)).flatten()]
        ctx.first, ctx.rows = sum(counts[: rank()]), len(x)
        padded = x.new_zeros((max(counts), *x.shape[1:]))
        padded[: len(x)] = x
        return torch.cat([part[:n] for part, n in zip(stack(padded), counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradient: Tensor) -> Tensor:
        return total(gradient[0])[ctx.first : ctx.first + ctx.rows]


def stack(x: Tensor) -> Tensor:
    """x of every worker, the same shape on each -> (workers, *x.shape)."""
    if world_size() == 1:
        return x[None]
    parts = [torch.empty_like(x) for _ in range(world_size())]
    dist.all_gather(parts, x.contiguous())
    return torch.stack(parts)


def everyone(item: Any) -> list[Any]:
    """A small thing that JSON can tell of every worker, in rank order. Over the hosts: it asks nothing of the GPUs.

    Not by torch's all_gather_object, whose pickles let whoever joins the group run code in every worker. Raises
    ValueError for what is no JSON.
    """
    if world_size() == 1:
        return [item]
    group = _hosts(dist.group.WORLD)
    content = torch.tensor(list(json.dumps(item).encode()), dtype=torch.uint8)
    lengths = [torch.zeros(1, dtype=torch.int64) for _ in range(world_size())]
    dist.all_gather(lengths, torch.tensor([len(content)]), group=group)
    longest = max(int(length) for length in lengths)
    padded = [torch.zeros(longest, dtype=torch.uint8) for _ in range(world_size())]
    dist.all_gather(padded, F.pad(content, (0, longest - len(content))), group=group)
    texts = [bytes(each[: int(length)].tolist()) for each, length in zip(padded, lengths, strict=True)]
    return [json.loads(text) for text in texts]


@functools.lru_cache(maxsize=1)
def _hosts(world: Any) -> Any:
    """A group of all workers that talk as processes, whatever the world's own backend is."""
    return world if dist.get_backend(world) == "gloo" else dist.new_group(backend="gloo")


def agree(decision: bool, device: torch.device | str = "cpu") -> bool:
    """Rank 0's decision, on every worker."""
    if world_size() == 1:
        return decision
    flag = torch.tensor([float(decision)], device=device)
    dist.broadcast(flag, src=0)
    return bool(flag.item())
