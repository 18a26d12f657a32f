"""Other people's weights, evaluated as they are: kNN and linear evaluation by the recipe's protocol.

`--weights FILE` takes the checkpoints that facebookresearch's simsiam and moco release, torchvision's own, and files
that `python -m ablations.results export` writes; `--from TABLE/ROW` ours. Cost: one linear evaluation.
"""

from ablations.table import GIVEN, Row, Table

TABLE = Table(
    name="imported",
    title="Imported weights",
    section="ours",
    varies=("method", "encoder"),
    rows=(
        Row(
            name="frozen", changes={"method": "none", "encoder": GIVEN}, note="68.1 is the paper's SimSiam, 100 epochs"
        ),
    ),
)
