"""Sec. 5.2: is SimSiam an alternation of two sub-problems? Then many steps on the first, with a fixed eta, work too.

Eta of a step is z by the weights of the cycle's start (`eta_steps` steps, or an epoch), of the same views; the paper
caches it, with one augmentation a picture. Where a cycle would be an epoch or longer, a row cannot be, but for the one
of an epoch: the digits have 11 steps an epoch, CIFAR-10 97, ImageNet 2,502. Architecture and hyper-parameters
are SimSiam's, as in the paper. Expected: all work; 10 and 100 steps are a little better than 1, an epoch a little
worse. Cost: 4 trainings a seed, of a quarter more time.
"""

from ablations.table import DOES_NOT_COLLAPSE, ORDERING, Claim, Row, Table

TABLE = Table(
    name="alternation",
    title="Multi-step alternation",
    section="Sec. 5.2",
    varies=("method", "eta_steps"),
    rows=(
        Row(name="1_step", changes={"method": "simsiam"}, paper=68.1, note="SimSiam"),
        Row(name="10_step", changes={"method": "alternation", "eta_steps": 10}, paper=68.7),
        Row(name="100_step", changes={"method": "alternation", "eta_steps": 100}, paper=68.9),
        Row(name="1_epoch", changes={"method": "alternation", "eta_steps": 0}, paper=67.0),
    ),
    claims=(
        Claim(DOES_NOT_COLLAPSE, ("10_step",), section="Sec. 5.2"),
        Claim(DOES_NOT_COLLAPSE, ("100_step",), section="Sec. 5.2"),
        Claim(DOES_NOT_COLLAPSE, ("1_epoch",), section="Sec. 5.2"),
        Claim(ORDERING, ("10_step", "1_step"), section="Sec. 5.2"),
        Claim(ORDERING, ("100_step", "1_step"), section="Sec. 5.2"),
        Claim(ORDERING, ("1_step", "1_epoch"), section="Sec. 5.2"),
    ),
)
