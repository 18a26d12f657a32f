"""Sec. 4.5: does the method hang on the cosine similarity?

Expected: with the cross-entropy form, nothing retuned, it still does not collapse, and is some 5 points worse.
Cost: 2 trainings a seed.
"""

from ablations.table import DOES_NOT_COLLAPSE, WORSE, Claim, Row, Table

TABLE = Table(
    name="similarity",
    title="Similarity function",
    section="Sec. 4.5",
    varies=("similarity",),
    rows=(
        Row(name="cosine", changes={"similarity": "cosine"}, paper=68.1),
        Row(name="cross_entropy", changes={"similarity": "cross_entropy"}, paper=63.2),
    ),
    claims=(
        Claim(DOES_NOT_COLLAPSE, ("cross_entropy",), section="Sec. 4.5"),
        Claim(WORSE, ("cross_entropy", "cosine"), margin=1.0, section="Sec. 4.5"),
    ),
)
