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
from simsiam.loader import Chunk, Ids, Images, upload
from simsiam.model import SimSiam
from simsiam.protocols import Protocol

FINISHED, COLLAPSED, DIVERGED = "finished", "collapsed", "diverged"
COLLAPSED_STD, COLLAPSED_RANK = 0.02, 3.0

# Pictures in one forward, and rows in one product of features. On a CPU the shape of a product decides how it is
# rounded, so workers share whole batches. A GPU wants more at once.
_BATCH = 256
_GPU_BATCH = 2048
_GPU_PRODUCT = 1 << 27  # cosines at once
_VOTE = 2**40  # a whole vote


def outcome(loss: float, z_std: float, effective_rank: float, *, highest_rank: int) -> str:
    """The one place that says what a run came to, from its last epoch in eval mode on the test set.

    Args:
        highest_rank: that there can be, of d dimensions and n pictures. Where it is small, half of it counts as
            collapsed instead of COLLAPSED_RANK: in two dimensions, a rank below 3 tells nothing.
    """
    if not all(math.isfinite(value) for value in (loss, z_std, effective_rank)):
        return DIVERGED
    if z_std < COLLAPSED_STD or effective_rank < min(COLLAPSED_RANK, highest_rank / 2):
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
    """Per cent of samples (n, D), the same on all workers, whose k nearest of the bank vote for their label.

    Votes weigh exp(cosine / temperature) (Wu et al. 2018). Of features that are not finite it is nan.

    Args:
        bank: this worker's part (N_w, D) of it. Its rows are normalised in place: the embedding of ImageNet's training
            set takes 10 GB.
        bank_labels: those of this worker's part, (N_w,).
    """
    finite = bool(bank.isfinite().all() and features.isfinite().all())
    found = distributed.everyone((finite, len(bank), int(bank_labels.max()) if len(bank) else -1))
    if not all(finite for finite, _, _ in found):
        return math.nan
    longest, classes = max(length for _, length, _ in found), max(label for _, _, label in found) + 1
    columns, rows = (longest, max(_BATCH, _GPU_PRODUCT // longest)) if bank.is_cuda else (_BATCH, _BATCH)
    blocks = [F.normalize(block, dim=1, out=block) for block in bank.split(columns)]
    correct = torch.zeros((), dtype=torch.int64, device=bank.device)
    for part, wanted in zip(features.split(rows), labels.split(rows), strict=True):
        query = F.normalize(part, dim=1)
        cosine, named = _nearest(torch.cat([query @ block.T for block in blocks], 1), bank_labels, k)
        cosine, named = (torch.cat([*distributed.stack(each)], 1) for each in (cosine, named))
        cosine, named = _nearest(cosine, named, k)
        weights = ((cosine - cosine.amax(1, keepdim=True)) / temperature).exp()
        # Whole numbers: their sum is the same in whatever order a GPU adds them up.
        whole = (weights.double() * _VOTE).round().long()
        votes = whole.new_zeros(len(part), classes).scatter_add(1, named, whole)
        correct += (votes.argmax(1) == wanted).sum()
    return 100 * int(correct) / len(labels)


def _nearest(cosine: Tensor, labels: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k largest of each row, in the order of the columns, and their labels, (N,) or (n, N); of equals the first.

    So the k largest of what parts of the columns give are those of all, to the bit. Where there are fewer than k,
    cosines of -inf, which have no vote, fill up.
    """
    if missing := max(0, k - cosine.shape[1]):
        cosine = F.pad(cosine, (0, missing), value=-math.inf)
        labels = F.pad(labels, (0, missing))
    least = cosine.topk(k, dim=1).values[:, -1:]
    more, equal = cosine > least, cosine == least
    room = k - more.sum(1, keepdim=True)
    chosen = (more | equal & (equal.cumsum(1, dtype=torch.int32) <= room)).nonzero()[:, 1].view(-1, k)
    return cosine.gather(1, chosen), labels.expand_as(cosine).gather(1, chosen)


def labelled(images: Images) -> Ids:
    """This worker's share of the pictures that have a label, in whole batches. Of STL-10's training set, most have
    none."""
    known = torch.nonzero(images.labels >= 0).flatten().cpu().numpy()
    part = distributed.share(math.ceil(len(known) / _BATCH))
    return known[part.start * _BATCH : part.stop * _BATCH]


@torch.no_grad()
def embed(forward: Callable[[Tensor], Tensor], images: Images, crop: float) -> tuple[Tensor, Tensor]:
    """`forward` of the central crop of this worker's share of the pictures that have a label -> (N_w, D), and their
    labels (N_w,). The caller has put the network in eval mode."""
    ids, at_once = labelled(images), _GPU_BATCH if images.labels.is_cuda else _BATCH
    # One picture says how wide the rows are where a worker has none.
    batches = [ids[i : i + at_once] for i in range(0, len(ids), at_once)] or [np.array([0])]
    rows: Tensor | None = None  # filled as they come: to join parts takes twice the memory
    for start, fetched in enumerate(images.stream([Chunk(batches, [views.CenterCrop(crop)])])):
        part = forward(views.normalise(images.crops(fetched)[0]))
        rows = part.new_empty(len(ids), part.shape[1]) if rows is None else rows
        rows[start * at_once : (start + 1) * at_once] = part[: len(ids)]
    assert rows is not None
    return rows, images.labels[upload(ids, images.labels.device)]


def measure(model: SimSiam, train: Images, test: Images, protocol: Protocol) -> dict[str, float]:
    """z_std, effective_rank and knn_top1 of a model, on the full test set, in eval mode."""
    training = model.training
    model.eval()
    features, labels = map(distributed.gather, embed(model.features, test, protocol.crop))
    z = torch.cat([model.z(part) for part in features.split(_BATCH)])
    bank, bank_labels = embed(model.features, train, protocol.crop)
    model.train(training)
    return {
        "z_std": z_std(z),
        "effective_rank": effective_rank(z),
        "knn_top1": knn_top1(
            bank, bank_labels, features, labels, k=protocol.knn_k, temperature=protocol.knn_temperature
        ),
    }


def roughness(losses: list[float]) -> float | None:
    """Mean absolute change of the loss from epoch to epoch over the second half of training: how much it oscillates
    (Table 3d). None for fewer than two epochs there.
    """
    half = losses[len(losses) // 2 :]
    changes = [abs(b - a) for a, b in itertools.pairwise(half)]
    return sum(changes) / len(changes) if changes else None
