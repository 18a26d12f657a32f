"""Sec. 5.2: does the predictor stand for an expectation over augmentations? Then a moving average of z may replace it.

Neither row has a predictor. With: the target of a picture's view is m eta + (1 - m) z of its other view, and eta
becomes the mean of both targets. m is 0.8, as in the paper, which says neither whether z is normalised (here z/||z||
is averaged, `eta_normalised`), nor where eta starts (at the picture's first z, `eta_start`), nor the lr (the
baseline's). Expected: it does not collapse, and is far from the baseline. Cost: 2 trainings a seed.
"""

from ablations.table import COLLAPSES, DOES_NOT_COLLAPSE, WORSE, Claim, Row, Table

TABLE = Table(
    name="expectation",
    title="Expectation over augmentation",
    section="Sec. 5.2",
    varies=("method", "predictor"),
    rows=(
        Row(name="without", changes={"predictor": "none"}, paper=0.1, note="collapses"),
        Row(name="with", changes={"method": "expectation"}, paper=55.0),
    ),
    claims=(
        Claim(COLLAPSES, ("without",), section="Sec. 5.2"),
        Claim(DOES_NOT_COLLAPSE, ("with",), section="Sec. 5.2"),
        Claim(WORSE, ("without", "with"), margin=10.0, section="Sec. 5.2"),
    ),
)
