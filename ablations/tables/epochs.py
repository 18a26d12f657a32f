"""Table 4, the SimSiam columns: what does longer training give? Each is a run of its own with its own cosine.

Table 4 has batch 256, half of the ablations' 512; so has every recipe here. Expected: 68.1, 70.0, 70.8, 71.3.
Cost: 15 times a training a seed.
"""

from ablations.table import ORDERING, WORSE, Claim, Fields, Row, Table


def _times(factor: int, paper: float) -> Row:
    def changes(baseline: Fields) -> Fields:
        return {"epochs": factor * baseline["epochs"]}

    return Row(name=f"{factor}x", changes=changes, paper=paper)


def _half_batch(recipe: Fields) -> Fields:
    return {"batch_size": recipe["batch_size"] // 2}


TABLE = Table(
    name="epochs",
    title="Schedule length",
    section="Sec. 6.1, Table 4",
    varies=("epochs",),
    base=_half_batch,
    rows=(_times(1, 68.1), _times(2, 70.0), _times(4, 70.8), _times(8, 71.3)),
    claims=(
        Claim(ORDERING, ("8x", "4x", "2x", "1x"), section="Table 4"),
        Claim(WORSE, ("1x", "8x"), margin=1.0, section="Table 4"),
    ),
)
