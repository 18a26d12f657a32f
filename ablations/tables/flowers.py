"""The workflow of SimSiam-TF on TF Flowers: pre-train on a few thousand pictures, and compare with labels.

Two recipes: `flowers_tf` is theirs (ResNet-50 at 224 px, batch 64, lr 0.01, momentum 0.6, a projector of two layers
without BN at its end, 85 % for training), `flowers` ours. Theirs reported linear 45.64 % after 50 epochs and 44.91 %
after 75, 48.36 % on ImageNet-supervised features, and 63.64 % trained by labels from scratch. Not repeated are their
ReLU before each BN, and their best epoch on the test split: here it is the last. `imagenet_supervised` starts from
torchvision's weights, where they can be had and have the recipe's network. Cost: 3.5 trainings a seed.
"""

from ablations.table import TORCHVISION, Fields, Row, Table


def _half_longer(baseline: Fields) -> Fields:
    return {"epochs": round(1.5 * baseline["epochs"])}


TABLE = Table(
    name="flowers",
    title="The Flowers workflow",
    section="ours, after SimSiam-TF",
    varies=("method", "epochs", "encoder"),
    rows=(
        Row(name="simsiam_1x", changes={}, note="theirs: linear 45.64, 50 epochs"),
        Row(name="simsiam_1.5x", changes=_half_longer, note="theirs: linear 44.91, 75 epochs"),
        Row(
            name="imagenet_supervised",
            changes={"method": "none", "encoder": TORCHVISION},
            note="theirs: linear 48.36",
        ),
        Row(name="supervised", changes={"method": "supervised"}, note="theirs: 63.64, from scratch"),
        Row(name="random", changes={"method": "none"}, note="nothing is trained"),
    ),
)
