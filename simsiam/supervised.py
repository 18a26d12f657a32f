"""Training by labels, from scratch or from an encoder: what the pictures and the network allow."""

from __future__ import annotations

from typing import Any

import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simsiam.config import Config
from simsiam.method import Method
from simsiam.model import initialise


def classes(labels: Tensor) -> int:
    """How many there are: they count from 0."""
    return int(labels.max()) + 1


class Supervised(Method):
    """Cross-entropy of a linear layer on the backbone's output, the mean over a picture's views.

    A picture without a label adds nothing to the loss of its batch.
    """

    draws = True
    labels: Tensor

    def __init__(self, config: Config, labels: Tensor) -> None:
        super().__init__(config, labels)
        self.classifier = nn.Linear(self.model.backbone.features, classes(labels))
        initialise(nn.ModuleDict({"classifier": self.classifier}), config.seed)
        self.register_buffer("labels", labels, persistent=False)

    def draw(self, ids: npt.NDArray[Any], epoch: int, step: int) -> npt.NDArray[Any]:
        """Which pictures these are, (b,)."""
        return ids

    def forward(self, x: Tensor, drawn: Tensor | None = None) -> Tensor:
        """Views x (V, b, 3, H, W) and the pictures' numbers (b,) -> the loss of each picture, (b,)."""
        assert self.classifier is not None
        wanted = self.labels[drawn]
        scores = [self.classifier(self.model.f(view)) for view in x]
        return torch.stack([F.cross_entropy(each, wanted, ignore_index=-1, reduction="none") for each in scores]).mean(
            0
        )
