"""Table 2, Sec. 4.3: how small and how large may the batch be, with SGD and lr = base_lr B / 256 throughout?

Expected: flat from 128 to 2048, a little worse at 64, worse at 4096. From 1024 on the encoder's lr warms up over the
first tenth of the epochs (10 of 100 in the paper). Cost: 7 trainings a seed of the same number of images.
"""

from ablations.table import WITHIN, WORSE, Claim, Fields, Row, Table


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
        Claim(WITHIN, ("128", "256", "512"), margin=2.0, section="Sec. 4.3"),
        Claim(WITHIN, ("512", "1024", "2048"), margin=2.0, section="Sec. 4.3"),
        Claim(WORSE, ("64", "256"), margin=0.5, section="Sec. 4.3, Table 2"),
        Claim(WORSE, ("4096", "256"), margin=1.0, section="Sec. 4.3, Table 2"),
    ),
)
