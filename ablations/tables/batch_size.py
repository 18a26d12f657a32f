"""Table 2, Sec. 4.3: how small and how large may the batch be, with SGD and lr = base_lr B / 256 throughout?

Expected: 256 to 2048 differ by no more than chance; 128 and 64 perform "decently", 0.8 and 2.0 points lower; 4096 is
worse, which the paper puts down to SGD. It has seen no evidence that collapse depends on it (Sec. 4.7). 2048 has a
claim of its own: it is more than the digits have. From 1024 on the encoder's lr warms up over the first tenth of the
epochs (10 of 100 in the paper). Cost: 7 trainings a seed of the same number of images.
"""

from ablations.table import DOES_NOT_COLLAPSE, WITHIN, WORSE, Claim, Fields, Row, Table


def _batch(size: int, paper: float) -> Row:
    def changes(baseline: Fields) -> Fields:
        return {"batch_size": size, "warmup_epochs": baseline["epochs"] / 10 if size >= 1024 else 0.0}

    return Row(name=str(size), changes=changes, paper=paper)


TABLE = Table(
    name="batch_size",
    title="Batch size",
    section="Sec. 4.3, Table 2",
    varies=("batch_size", "warmup_epochs"),
    rows=(
        _batch(64, 66.1),
        _batch(128, 67.3),
        _batch(256, 68.1),
        _batch(512, 68.1),
        _batch(1024, 68.0),
        _batch(2048, 67.9),
        _batch(4096, 64.0),
    ),
    claims=(
        Claim(WITHIN, ("256", "512", "1024"), margin=2.0, section="Sec. 4.3"),
        Claim(WITHIN, ("256", "2048"), margin=2.0, section="Sec. 4.3"),
        Claim(DOES_NOT_COLLAPSE, ("64",), section="Sec. 4.3, Sec. 4.7"),
        Claim(WORSE, ("64", "256"), margin=0.5, section="Sec. 4.3, Table 2"),
        Claim(WORSE, ("4096", "256"), margin=1.0, section="Sec. 4.3, Table 2"),
    ),
)
