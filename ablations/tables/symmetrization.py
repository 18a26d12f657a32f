"""Sec. 4.6: does the method hang on the symmetrised loss?

Expected: the asymmetric loss works, some 3 points worse; sampling two pairs an image ("asym. 2x") makes up for most of
it. Cost: 3 trainings a seed, the last at twice the price.
"""

from ablations.table import DOES_NOT_COLLAPSE, ORDERING, WITHIN, WORSE, Claim, Row, Table

TABLE = Table(
    name="symmetrization",
    title="Symmetrisation",
    section="Sec. 4.6",
    varies=("symmetric", "pairs_per_image"),
    rows=(
        Row(name="sym", changes={"symmetric": True, "pairs_per_image": 1}, paper=68.1),
        Row(name="asym", changes={"symmetric": False, "pairs_per_image": 1}, paper=64.8),
        Row(name="asym_2x", changes={"symmetric": False, "pairs_per_image": 2}, paper=67.3),
    ),
    claims=(
        Claim(DOES_NOT_COLLAPSE, ("asym",), section="Sec. 4.6"),
        Claim(WORSE, ("asym", "sym"), margin=1.0, section="Sec. 4.6"),
        Claim(ORDERING, ("asym_2x", "asym"), section="Sec. 4.6"),
        Claim(WITHIN, ("asym_2x", "sym"), margin=2.0, section="Sec. 4.6"),
    ),
)
