"""Table 1, Sec. 4.2: what does the predictor h do, and must it be trained?

Expected: (a) collapses; (b) does not collapse, but the loss stays high; (c), h's lr not decayed, is a little better
than the baseline. Cost: 4 trainings a seed; the baseline is Sec. 4.1's.
"""

from ablations.table import COLLAPSES, DOES_NOT_COLLAPSE, ORDERING, WORSE, Claim, Row, Table

TABLE = Table(
    name="predictor",
    title="Predictor",
    section="Sec. 4.2, Table 1",
    varies=("predictor", "predictor_lr"),
    base={"predictor_lr": "cosine"},
    rows=(
        Row(name="baseline", changes={"predictor": "mlp", "predictor_lr": "cosine"}, paper=67.7),
        Row(name="none", changes={"predictor": "none"}, paper=0.1, note="(a) collapses"),
        Row(name="frozen", changes={"predictor": "frozen"}, paper=1.5, note="(b) loss stays high"),
        Row(name="constant_lr", changes={"predictor": "mlp", "predictor_lr": "constant"}, paper=68.1, note="(c)"),
    ),
    claims=(
        Claim(COLLAPSES, ("none",), section="Sec. 4.2, Table 1a"),
        Claim(DOES_NOT_COLLAPSE, ("frozen",), section="Sec. 4.2, Table 1b"),
        Claim(WORSE, ("frozen", "baseline"), margin=10.0, section="Sec. 4.2, Table 1b"),
        Claim(ORDERING, ("constant_lr", "baseline"), section="Sec. 4.2, Table 1c"),
    ),
)
