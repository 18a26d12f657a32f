"""What is an encoder worth on other data? A finished one is evaluated there: frozen, and fine-tuned.

`--from TABLE/ROW` names kept checkpoints of ours, a seed each; `--weights FILE` a file. Frozen: kNN and linear
evaluation by the recipe's protocol. Fine-tuned: trained on by labels, SGD at base_lr 0.04 for a fifth of the recipe's
epochs, fixed before any was tried, so nothing is chosen on the test split. Beside them the same network as it starts
from the seed, and trained by labels from there for all of the epochs. The paper's Table 5 is of detection; these rows
are ours. Cost: 1.2 trainings by labels a seed.
"""

from ablations.table import GIVEN, NETWORK, Fields, Row, Table


def _a_fifth(baseline: Fields) -> Fields:
    return {"method": "supervised", "encoder": GIVEN, "base_lr": 0.04, "epochs": max(1, baseline["epochs"] // 5)}


TABLE = Table(
    name="transfer",
    title="Transfer to other data",
    section="ours, after Sec. 6 and Table 5",
    varies=("method", "encoder"),
    rows=(
        Row(name="frozen", changes={"method": "none", "encoder": GIVEN}),
        Row(name="fine_tuned", changes=_a_fifth),
        Row(name="random", changes={"method": "none", "encoder": NETWORK}, note="nothing is trained"),
        Row(name="scratch", changes={"method": "supervised", "encoder": NETWORK}),
    ),
)
