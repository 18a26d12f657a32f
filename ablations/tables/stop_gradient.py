"""Sec. 4.1 and Fig. 2: is the stop-gradient what keeps SimSiam from collapsing?

Expected: without it the loss reaches -1 at once, the std of z/||z|| is 0 and accuracy is chance. The paper's baseline
here decays the predictor's lr (67.7 +- 0.1 over 5 trials). Cost: 2 trainings a seed.
"""

from ablations.table import COLLAPSES, DOES_NOT_COLLAPSE, WORSE, Claim, Row, Table

TABLE = Table(
    name="stop_gradient",
    title="Stop-gradient",
    section="Sec. 4.1, Fig. 2",
    varies=("stop_gradient",),
    base={"predictor_lr": "cosine"},
    rows=(
        Row(name="with", changes={"stop_gradient": True}, paper=67.7),
        Row(name="without", changes={"stop_gradient": False}, paper=0.1, note="collapses"),
    ),
    claims=(
        Claim(DOES_NOT_COLLAPSE, ("with",), section="Sec. 4.1"),
        Claim(COLLAPSES, ("without",), section="Sec. 4.1"),
        Claim(WORSE, ("without", "with"), margin=10.0, section="Sec. 4.1"),
    ),
)
