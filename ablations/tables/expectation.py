"""Sec. 5.2: does the predictor stand for an expectation over augmentations? Then a moving average of z may replace it.

Neither row has a predictor. With: the target of a picture's view is m eta + (1 - m) z of its other view, and eta
becomes the mean of both targets. m is 0.8, as in the paper; z and eta are normalised to length 1 (`eta_normalised`),
which the paper says of the cosine in general (footnote 5). It says neither where eta starts here (at the picture's
first z, `eta_start`), nor the lr (the baseline's). Expected: it does not collapse, and is far from the baseline.
On recipe imagenet eta would be 10 GB in each checkpoint: the row needs --set dim=256 there. Cost: 2 trainings a seed.
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
