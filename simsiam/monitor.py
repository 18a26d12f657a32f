"""What a representation looks like: std, effective rank, kNN; and what a run came to (Sec. 4.1, Fig. 2)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam import distributed, views
from simsiam.loader import Images
from simsiam.model import SimSiam
from simsiam.protocols import Protocol

FINISHED, COLLAPSED, DIVERGED = "finished", "collapsed", "diverged"
COLLAPSED_STD, COLLAPSED_RANK = 0.02, 3.0

_BATCH = 256  # pictures in one forward of an evaluation
_CHUNK = 1024  # test pictures compared with the whole bank at once


def outcome(loss: float, z_std: float, effective_rank: float) -> str:
    """The one place that says what a run came to, from its last epoch in eval mode on the test set."""
    if not all(math.isfinite(value) for value in (loss, z_std, effective_rank)):
        return DIVERGED
    if z_std < COLLAPSED_STD or effective_rank < COLLAPSED_RANK:
        return COLLAPSED
    return FINISHED


def z_std(z: Tensor) -> float:
    """Mean over channels of the std over samples of z/||z||, times sqrt(d): 1 for an isotropic Gaussian, 0 collapsed.

    z has shape (N, d).
    """
    z = F.normalize(z.double(), dim=1)
    return float(z.std(0, correction=0).mean() * math.sqrt(z.shape[1]))


def effective_rank(z: Tensor) -> float:
    """exp of the entropy of the eigenvalues of the centred covariance of z/||z||, z of shape (N, d): 1 to d.

    Without any spread at all it is 1; of numbers that are not finite it is nan.
    """
    if not z.isfinite().all():
        return math.nan
    z = F.normalize(z.double(), dim=1)
    z = z - z.mean(0)
    gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
    eigenvalues = torch.linalg.eigvalsh(gram / len(z)).clamp(min=0)
    if eigenvalues.sum() < 1e-12:
        return 1.0
    p = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(p).sum().exp())


def knn_top1(
    bank: Tensor, bank_labels: Tensor, features: Tensor, labels: Tensor, *, k: int, temperature: float
) -> float:
    """Per cent of samples (n, D) whose k nearest of the bank (N, D) vote for their label.

    Votes weigh exp(cosine / temperature) (Wu et al. 2018). Of features that are not finite it is nan.
    """
    if not (bank.isfinite().all() and features.isfinite().all()):
        return math.nan
    bank = F.normalize(bank, dim=1)
    classes = int(bank_labels.max()) + 1
    correct = 0
    for part, wanted in zip(features.split(_CHUNK), labels.split(_CHUNK), strict=True):
        cosine, nearest = (F.normalize(part, dim=1) @ bank.T).topk(min(k, len(bank)), dim=1)
        weights = ((cosine - cosine[:, :1]) / temperature).exp()
        votes = weights.new_zeros(len(part), classes).scatter_add(1, bank_labels[nearest], weights)
        correct += int((votes.argmax(1) == wanted).sum())
    return 100 * correct / len(labels)


@torch.no_grad()
def embed(forward: Callable[[Tensor], Tensor], images: Images, crop: float) -> Tensor:
    """`forward` of the central crop of every picture, this worker's share of them computed here -> (N, D) float32 or
    wider, on all workers. The caller has put the network in eval mode."""
    part = distributed.share(len(images))
    ids = np.arange(part.start, part.stop)
    crops = [views.CenterCrop(crop)]
    requests = [(ids[i : i + _BATCH], crops) for i in range(0, len(ids), _BATCH)]
    out = [forward(views.normalise(pixels[0])) for pixels in images.stream(requests)]
    if not out:  # more workers than pictures: no rows, but as wide as the others'
        out = [forward(views.normalise(images.batch(np.array([0]), crops)[0]))[:0]]
    return distributed.gather(torch.cat(out))


def measure(model: SimSiam, train: Images, test: Images, protocol: Protocol) -> dict[str, float]:
    """z_std, effective_rank and knn_top1 of a model, on the full test set, in eval mode."""
    dtype = next(model.parameters()).dtype
    training = model.training
    model.eval()
    features = embed(lambda x: model.backbone(x.to(dtype)), test, protocol.crop)
    with torch.no_grad():
        z = torch.cat([model.projector(part) for part in features.split(_CHUNK)])
    bank, bank_labels = labelled(embed(lambda x: model.backbone(x.to(dtype)), train, protocol.crop), train)
    model.train(training)
    return {
        "z_std": z_std(z),
        "effective_rank": effective_rank(z),
        "knn_top1": knn_top1(
            bank, bank_labels, features, test.labels, k=protocol.knn_k, temperature=protocol.knn_temperature
        ),
    }


def roughness(losses: list[float]) -> float | None:
    """Mean absolute change of the loss from epoch to epoch over the second half of training: how much it oscillates
    (Table 3d). None for fewer than two epochs there.
    """
    half = losses[len(losses) // 2 :]
    changes = [abs(b - a) for a, b in itertools.pairwise(half)]
    return sum(changes) / len(changes) if changes else None


def labelled(features: Tensor, images: Images) -> tuple[Tensor, Tensor]:
    """The rows of features (N, D) that have a label, and the labels. STL-10's training set has both kinds."""
    known = images.labels >= 0
    return features[known], images.labels[known]
