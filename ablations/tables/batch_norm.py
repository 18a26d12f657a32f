"""Table 3, Sec. 4.4: where must batch normalisation stand in the heads? The backbone's is untouched.

Expected: (a) none is hard to train but does not collapse; (b) BN in the hidden layers raises it to 67.4; (c), BN on f's
output too, is the default and gives 68.1; (d), BN on h's output too, does not train stably: its loss oscillates, which
is "not about collapsing". The text adds (c) without the output BN's affine, 68.2. Only (a) warms up, over a tenth of
the epochs. Cost: 5 trainings a seed.
"""

from ablations.table import DOES_NOT_COLLAPSE, ORDERING, UNSTABLE, WITHIN, WORSE, Claim, Fields, Row, Table


def _none(baseline: Fields) -> Fields:
    return {"batch_norm": "none", "warmup_epochs": baseline["epochs"] / 10}


TABLE = Table(
    name="batch_norm",
    title="Batch normalisation in the heads",
    section="Sec. 4.4, Table 3",
    varies=("batch_norm", "projector_affine", "warmup_epochs"),
    rows=(
        Row(name="none", changes=_none, paper=34.6, note="(a) does not collapse"),
        Row(name="hidden", changes={"batch_norm": "hidden"}, paper=67.4, note="(b)"),
        Row(name="default", changes={"batch_norm": "default", "projector_affine": True}, paper=68.1, note="(c)"),
        Row(
            name="all",
            changes={"batch_norm": "all", "projector_affine": True},
            note="(d) unstable: the loss oscillates",
        ),
        Row(
            name="not_affine",
            changes={"batch_norm": "default", "projector_affine": False},
            paper=68.2,
            note="text: (c), output not affine",
        ),
    ),
    claims=(
        Claim(DOES_NOT_COLLAPSE, ("none",), section="Sec. 4.4, Table 3a"),
        Claim(WORSE, ("none", "default"), margin=10.0, section="Sec. 4.4, Table 3a"),
        Claim(ORDERING, ("hidden", "none"), section="Sec. 4.4, Table 3b"),
        Claim(ORDERING, ("default", "hidden"), section="Sec. 4.4, Table 3c"),
        Claim(UNSTABLE, ("all", "default"), section="Sec. 4.4, Table 3d"),
        Claim(DOES_NOT_COLLAPSE, ("all",), section="Sec. 4.4, Table 3d"),
        Claim(WITHIN, ("not_affine", "default"), margin=2.0, section="Sec. 4.4, text"),
    ),
)
