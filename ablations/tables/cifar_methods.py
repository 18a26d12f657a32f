"""App. D: SimSiam against SimCLR on CIFAR-10, their kNN along the way (Fig. D.1) and at the end.

Meant for recipe cifar10. Expected there: linear 91.8 against 91.1; SimSiam starts slower and passes SimCLR between
epochs 150 and 200 of 800. The paper says no more of its SimCLR than "the same setting", which is row simclr_same: on
the small recipes all but the loss, whose temperature of 0.5 is ours, and h. Row simclr is SimCLR as public benchmarks
have it (simsiam/methods.py): base_lr 0.12 against 0.03, and a projector of 3 layers, 512 wide to d = 128, against 2,
2048 wide to 2048. Cost: 3 trainings a seed.
"""

from ablations.table import ORDERING, Claim, Fields, Row, Table

_SAME = ("base_lr", "weight_decay", "projector_layers", "projector_hidden", "dim")


def _in_simsiams_setting(baseline: Fields) -> Fields:
    return {"method": "simclr", **{name: baseline[name] for name in _SAME}}


TABLE = Table(
    name="cifar_methods",
    title="SimSiam and SimCLR on CIFAR-10",
    section="App. D",
    varies=("method",),
    rows=(
        Row(name="simsiam", changes={"method": "simsiam"}, note="91.8 on CIFAR-10"),
        Row(name="simclr_same", changes=_in_simsiams_setting, note="91.1 on CIFAR-10"),
        Row(name="simclr", changes={"method": "simclr"}),
    ),
    claims=(Claim(ORDERING, ("simsiam", "simclr_same"), section="App. D"),),
)
