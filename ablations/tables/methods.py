"""Table 4: SimSiam beside SimCLR, MoCo v2, BYOL and SwAV, each for 1, 2, 4 and 8 times the epochs.

Each run has its own cosine. What a method is by itself stands in simsiam/methods.py; on recipe imagenet its batch, too
(256 for SimSiam and MoCo v2, 4096 for the others), on the small recipes the table's, half of the recipe's. Expected on
ImageNet: SimSiam is ahead after 100 epochs, and of SimCLR at every length; BYOL is ahead from 200 on. BYOL's lr,
weight decay and momentum are those of its recipes for 100, 200 or 400, and 800 epochs. SwAV has no multi-crop, as in
the paper. Cost: 75 times a training a seed.

Ours alone: LARS and weight decay act on BN's parameters and biases, too (in SwAV's code they do as well). The last BN
of each residual block starts at 0 in all methods (in SwAV's and MoCo's code at 1). MoCo v2's loss is the mean over both
directions, where their sum would double its lr. h's lr never
warms up in BYOL, nor where Sec. 6.2 adds h to SimCLR and SwAV; the author says so of SimSiam alone. SwAV trains its
prototypes from the start; its lr starts and ends at 0 (originally 0.3 and 0.0048); its BN is over one view of the whole
batch (originally both of 512 pictures). The paper has each method's own augmentation. So have crops and colour on
recipe imagenet; the blur is SimSiam's there, for both of BYOL's views, of which none is solarised. On the other recipes
all of it is SimSiam's.
"""

from ablations.table import ORDERING, Claim, Fields, Row, Table

_LENGTHS = (1, 2, 4, 8)

# Method -> the paper's accuracies, and what Table 4 says of it besides.
_PAPER = {
    "simclr": ((66.5, 68.3, 69.8, 70.4), "negative pairs, no momentum encoder"),
    "moco": ((67.4, 69.9, 71.0, 72.2), "negative pairs, momentum encoder"),
    "byol": ((66.5, 70.6, 73.2, 74.3), "no negative pairs, momentum encoder"),
    "swav": ((66.5, 69.1, 70.7, 71.8), "no negative pairs, no momentum encoder"),
    "simsiam": ((68.1, 70.0, 70.8, 71.3), "no negative pairs, no momentum encoder"),
}


def _row(method: str, factor: int, paper: float, note: str) -> Row:
    def changes(baseline: Fields) -> Fields:
        return {"method": method, "epochs": factor * baseline["epochs"]}

    return Row(name=f"{method}_{factor}x", changes=changes, paper=paper, note=note)


def _half_batch(recipe: Fields) -> Fields:
    return {"batch_size": recipe["batch_size"] // 2}


TABLE = Table(
    name="methods",
    title="Methods",
    section="Sec. 6.1, Table 4",
    varies=("method", "epochs"),
    base=_half_batch,
    rows=tuple(
        _row(method, factor, paper, note)
        for method, (papers, note) in _PAPER.items()
        for factor, paper in zip(_LENGTHS, papers, strict=True)
    ),
    claims=(
        *(Claim(ORDERING, ("simsiam_1x", f"{other}_1x"), section="Sec. 6.1") for other in ("moco", "byol", "swav")),
        *(Claim(ORDERING, (f"simsiam_{n}x", f"simclr_{n}x"), section="Sec. 6.1") for n in _LENGTHS),
    ),
)
