"""Ours, not the paper's: what does BN over less than the global batch cost?

The paper synchronises BN over all devices (Sec. 3). Statistics over halves, quarters and eighths of the batch are what
per-device BN on 2, 4 and 8 devices would have had; one user of the released code measured 65.1 without and 68.0 with
synchronised BN on ImageNet. Cost: 4 trainings a seed.
"""

from ablations.table import Fields, Row, Table


def _part(name: str, part: int) -> Row:
    def changes(baseline: Fields) -> Fields:
        return {"bn_group": baseline["batch_size"] // part}

    return Row(name=name, changes=changes)


TABLE = Table(
    name="bn_group",
    title="BN statistics over parts of the batch",
    section="ours",
    varies=("bn_group",),
    rows=(Row(name="batch", changes={"bn_group": None}), _part("half", 2), _part("quarter", 4), _part("eighth", 8)),
)
