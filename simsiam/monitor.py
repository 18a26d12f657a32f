"""What a representation looks like: std, effective rank, kNN; and what a run came to (Sec. 4.1, Fig. 2)."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from simsiam import distributed, randomness, views
from simsiam.loader import Chunk, Ids, Images, upload
from simsiam.model import SimSiam
from simsiam.protocols import Protocol

MEASURED = (
    "z_std",
    "effective_rank",
    "z_singular_values",
    "predictor_identity",
    "knn_top1",
    "knn_train_top1",
    "classifier_top1",
)
DRAWN = "neighbours", "plane"
FINISHED, COLLAPSED, DIVERGED = "finished", "collapsed", "diverged"
COLLAPSED_STD, COLLAPSED_RANK = 0.02, 3.0

# Pictures in one forward, and rows in one product of features. On a CPU the shape of a product decides how it is
# rounded, so workers share whole batches. A GPU wants more at once.
_BATCH = 256
_GPU_BATCH = 2048
_GPU_PRODUCT = 1 << 27  # cosines at once
_VOTE = 2**40  # a whole vote
_QUERIES = 10_000  # training pictures that are looked for among the others
_SINGULAR_VALUES = 64
_ASKED, _NEAR, _POINTS = 8, 5, 500  # test pictures whose neighbours are kept, how many those are; z kept in a plane


def outcome(
    loss: float | None,
    z_std: float | None,
    effective_rank: float | None,
    *,
    highest_rank: int | None,
    knn_top1: float | None = None,
) -> str:
    """The one place that says what a run came to, from its last epoch in eval mode on the test set.

    None is what there is not: a loss where nothing is trained, and without a projector a z that could collapse. A
    knn_top1 that is nan is of features that are no numbers.

    Args:
        highest_rank: that there can be, of d dimensions and n pictures. Where it is small, half of it counts as
            collapsed instead of COLLAPSED_RANK: in two dimensions, a rank below 3 tells nothing.
    """
    if not all(math.isfinite(value) for value in (loss, z_std, effective_rank, knn_top1) if value is not None):
        return DIVERGED
    if z_std is None or effective_rank is None or highest_rank is None:
        return FINISHED
    if z_std < COLLAPSED_STD or effective_rank < min(COLLAPSED_RANK, highest_rank / 2):
        return COLLAPSED
    return FINISHED


def z_std(z: Tensor) -> float:
    """Mean over channels of the std over samples of z/||z||, times sqrt(d): 1 for an isotropic Gaussian, 0 collapsed.

    z has shape (N, d).
    """
    z = F.normalize(z.double(), dim=1)
    return float(z.std(0, correction=0).mean() * math.sqrt(z.shape[1]))


def spectrum(z: Tensor) -> Tensor:
    """The eigenvalues, smallest first, of the centred covariance of z/||z||, z (N, d); nan if z is not finite."""
    z = F.normalize(z.double(), dim=1)
    z = z - z.mean(0)
    gram = z.T @ z if z.shape[0] >= z.shape[1] else z @ z.T
    if not gram.isfinite().all():
        return gram.new_full((1,), math.nan)
    return torch.linalg.eigvalsh(gram / len(z)).clamp(min=0)


def effective_rank(eigenvalues: Tensor) -> float:
    """exp of the entropy of a spectrum: 1 to d. Without any spread at all it is 1; of nan it is nan."""
    if eigenvalues.sum() < 1e-12:
        return 1.0
    p = eigenvalues / eigenvalues.sum()
    return float(torch.special.entr(p).sum().exp())


def singular_values(eigenvalues: Tensor) -> list[float] | None:
    """Of centred z/||z||, over sqrt(N): the roots of a spectrum, the 64 largest. None of nan."""
    return None if eigenvalues.isnan().any() else eigenvalues.flip(0)[:_SINGULAR_VALUES].sqrt().tolist()


def knn_top1(
    bank: Tensor,
    bank_labels: Tensor,
    features: Tensor,
    labels: Tensor,
    *,
    k: int,
    temperature: float,
    own: Tensor | None = None,
) -> float:
    """Per cent of samples (n, D), the same on all workers, whose k nearest of the bank vote for their label.

    Votes weigh exp(cosine / temperature) (Wu et al. 2018). Of features that are not finite it is nan.

    Args:
        bank: this worker's part (N_w, D) of it. Its rows are normalised in place: the embedding of ImageNet's training
            set takes 10 GB.
        bank_labels: those of this worker's part, (N_w,).
        own: the place in the bank of each sample that is in it, (n,): it is none of its own neighbours.
    """
    finite = bool(bank.isfinite().all() and features.isfinite().all())
    found = distributed.everyone((finite, len(bank), int(bank_labels.max()) if len(bank) else -1))
    if not all(finite for finite, _, _ in found):
        return math.nan
    longest, classes = max(length for _, length, _ in found), max(label for _, _, label in found) + 1
    columns, rows = (longest, max(_BATCH, _GPU_PRODUCT // longest)) if bank.is_cuda else (_BATCH, _BATCH)
    first = sum(length for _, length, _ in found[: distributed.rank()])
    blocks = [F.normalize(block, dim=1, out=block) for block in bank.split(columns)]
    correct = torch.zeros((), dtype=torch.int64, device=bank.device)
    places = [None] * len(features.split(rows)) if own is None else (own - first).split(rows)
    for part, wanted, place in zip(features.split(rows), labels.split(rows), places, strict=True):
        query = F.normalize(part, dim=1)
        cosine = torch.cat([query @ block.T for block in blocks], 1)
        if place is not None:
            mine = ((place >= 0) & (place < len(bank))).nonzero().flatten()
            cosine[mine, place[mine]] = -math.inf
        cosine, named = _nearest(cosine, bank_labels, k)
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


def measure(
    model: SimSiam,
    train: Images,
    test: Images,
    protocol: Protocol,
    *,
    classifier: nn.Module | None = None,
    last: int | None = None,
) -> dict[str, Any]:
    """The numbers of `MEASURED` of a model in eval mode, on the full test set.

    Args:
        classifier: that was trained on the backbone's output, for classifier_top1.
        last: the seed, after the last epoch: then there are also knn_train_top1, and what a drawing needs (`DRAWN`).
            The first is kNN of at most 10,000 training pictures, drawn by the seed, among all others: no test label
            is in it. It costs as many cosines as kNN of so many test pictures.
    """
    training = model.training
    model.eval()
    features, labels = map(distributed.gather, embed(model.features, test, protocol.crop))
    z = torch.cat([model.z(part) for part in features.split(_BATCH)])
    found: dict[str, Any] = dict.fromkeys(MEASURED)
    if model.has_projector:
        eigenvalues = spectrum(z)
        found["z_std"] = z_std(z)
        found["effective_rank"] = effective_rank(eigenvalues)
        found["z_singular_values"] = singular_values(eigenvalues)
    if model.has_predictor:
        similar = [F.cosine_similarity(model.p(part), part, dim=1).double() for part in z.split(_BATCH)]
        found["predictor_identity"] = 1 - float(torch.cat(similar).mean())
    if classifier is not None:
        named = torch.cat([model.evaluate(classifier, part).argmax(1) for part in features.split(_BATCH)])
        found["classifier_top1"] = 100 * float((named == labels).double().mean())
    bank, bank_labels = embed(model.features, train, protocol.crop)
    model.train(training)
    nearest = functools.partial(knn_top1, k=protocol.knn_k, temperature=protocol.knn_temperature)
    found["knn_top1"] = nearest(bank, bank_labels, features, labels)
    if last is not None:
        queries, wanted, own = _left_one_out(bank, bank_labels, last)
        found["knn_train_top1"] = nearest(bank, bank_labels, queries, wanted, own=own)
        shown = np.sort(randomness.permutation(len(features), "neighbours", last)[:_ASKED])
        near: list[list[int]] = []
        if not math.isnan(found["knn_top1"]):
            near = _neighbours(bank, labelled(train), features[torch.from_numpy(shown).to(features.device)]).tolist()
        found["neighbours"] = [[i, *each] for i, each in zip(shown.tolist(), near, strict=False)]
        found["plane"] = _plane(z, labels, randomness.permutation(len(z), "plane", last)[:_POINTS])
    return found


def _left_one_out(bank: Tensor, bank_labels: Tensor, seed: int) -> tuple[Tensor, Tensor, Tensor]:
    """Features, labels and places of some pictures of the bank, drawn by the seed."""
    lengths = distributed.everyone(len(bank))
    first = sum(lengths[: distributed.rank()])
    drawn = np.sort(randomness.permutation(sum(lengths), "leave one out", seed)[:_QUERIES])
    own = torch.from_numpy(drawn).to(bank.device)
    mine = own[(own >= first) & (own < first + len(bank))] - first
    return distributed.gather(bank[mine]), distributed.gather(bank_labels[mine]), own


def _neighbours(bank: Tensor, ids: Ids, features: Tensor) -> Tensor:
    """The numbers of the training pictures nearest to each sample (n, D), (n, 5) or fewer, nearest first.

    Args:
        bank: this worker's part (N_w, D), of length 1.
        ids: its pictures' numbers.
    """
    k = min(_NEAR, sum(distributed.everyone(len(bank))))
    cosine, numbers = _nearest(F.normalize(features, dim=1) @ bank.T, upload(ids, bank.device), k)
    cosine, numbers = (torch.cat([*distributed.stack(each)], 1) for each in (cosine, numbers))
    cosine, numbers = _nearest(cosine, numbers, k)
    return numbers.gather(1, cosine.argsort(stable=True, dim=1, descending=True))


def _plane(z: Tensor, labels: Tensor, chosen: Ids) -> list[list[float]]:
    """Some of z/||z|| by their two principal components, each with its label; of the features where there is no z."""
    unit = F.normalize(z.double(), dim=1)
    unit = unit - unit.mean(0)
    if not unit.isfinite().all():
        return []
    axes = torch.linalg.eigh(unit.T @ unit).eigenvectors[:, -2:].flip(1)
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()  # eigenvectors have no sign of their own
    points = torch.cat([unit @ axes, labels[:, None].double()], 1)
    found: list[list[float]] = points[torch.from_numpy(chosen).to(z.device)].tolist()
    return found


def roughness(losses: list[float]) -> float | None:
    """Mean absolute change of the loss from epoch to epoch over the second half of training: how much it oscillates
    (Table 3d). None for fewer than two epochs there.
    """
    half = losses[len(losses) // 2 :]
    changes = [abs(b - a) for a, b in itertools.pairwise(half)]
    return sum(changes) / len(changes) if changes else None
