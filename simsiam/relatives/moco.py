"""MoCo v2 (He et al. 2020, Chen et al. 2020): a view is to be found among keys of a queue; as symmetrised in App. C."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam import distributed, objective, randomness
from simsiam.config import Config
from simsiam.method import Method, momentum_encoder, move


class MoCo(Method):
    """InfoNCE of queries by f against keys by a momentum encoder, their own and those of the last batches.

    BN is over groups of the batch (`bn_group`), so a key could be told by the statistics of its group. Keys are
    therefore made in another order than queries, drawn for each step, and put back (`shuffle_keys`).
    """

    draws = True
    queue: Tensor
    at: Tensor

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        assert config.queue
        assert config.dim
        self.target = momentum_encoder(config)
        word = int(randomness.bits("queue", config.seed)[0]) >> 1
        start = torch.randn(config.queue, config.dim, generator=torch.Generator().manual_seed(word))
        self.register_buffer("queue", F.normalize(start, dim=1))
        self.register_buffer("at", torch.zeros((), dtype=torch.int64))
        self._keys = torch.empty(0)

    def draw(self, ids: npt.NDArray[Any], epoch: int, step: int) -> npt.NDArray[Any]:
        """The order in which the global batch's keys are made, (B,)."""
        return randomness.permutation(self.config.batch_size, "keys", self.config.seed, epoch, step)

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (2, b, 3, H, W) and an order (B,) -> the mean loss of a picture's two views, (b,)."""
        assert drawn is not None
        _, z = self.model(x)
        queries = [objective.unit(each) for each in z]
        keys = [self._key(view, drawn) for view in x]
        part = distributed.share(self.config.batch_size)
        self._keys = torch.cat(keys)  # read by `update`
        losses = [self._info_nce(queries[0], keys[1][part]), self._info_nce(queries[1], keys[0][part])]
        return (losses[0] + losses[1]) / 2

    def update(self, steps: int, of: int) -> None:
        """Move the momentum encoder, and put the batch's keys, two a picture, in the place of the oldest."""
        assert self.config.target_momentum is not None
        move(self.target, self.model, self.config.target_momentum)
        n = len(self.queue)
        keys = self._keys[-n:]
        self.queue[(self.at + torch.arange(len(keys), device=keys.device)) % n] = keys.to(self.queue.dtype)
        self.at.copy_((self.at + len(keys)) % n)

    @torch.no_grad()
    def _key(self, view: Tensor, order: Tensor) -> Tensor:
        """Keys of one view of the global batch, (B, d)."""
        if not self.config.shuffle_keys:
            return distributed.gather(objective.unit(self.target.f(view)))
        mixed = distributed.gather(view)[order][distributed.share(self.config.batch_size)]
        return distributed.gather(objective.unit(self.target.f(mixed)))[order.argsort()]

    def _info_nce(self, queries: Tensor, keys: Tensor) -> Tensor:
        """Queries (b, d) and the key of each (b, d), of length 1 -> (b,)."""
        assert self.config.temperature is not None
        positive = (queries * keys).sum(1, keepdim=True)
        negative = objective.products(queries, self.queue.to(queries.dtype, copy=True))
        logits = torch.cat([positive, negative], 1) / self.config.temperature
        return logits.logsumexp(1) - logits[:, 0]
