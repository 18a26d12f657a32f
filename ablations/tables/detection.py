"""Table 5: what is an encoder worth for detection on Pascal VOC? For `--data VOCdevkit` with `--from` or `--weights`.

torchvision's Faster R-CNN with a feature pyramid, the whole network fine-tuned (simsiam/detection.py): 23 epochs are
about the 24,000 steps of VOC 07+12, batch 16, lr 0.02. The paper's is of the C4 kind, and its lr was searched for each
method, so its numbers, in the notes, are other ones: of VOC 07+12 after 200 epochs of pre-training; its "optimal"
SimSiam, pre-trained at lr 0.5 and weight decay 1e-5, has AP 57.0. VOC 07 alone, COCO, and the other methods are not
here. Cost: 3 trainings a seed.
"""

from ablations.table import GIVEN, NETWORK, TORCHVISION, Row, Table

TABLE = Table(
    name="detection",
    title="Detection",
    section="Sec. 6, Table 5",
    varies=("encoder",),
    base={"method": "detection"},
    rows=(
        Row(name="scratch", changes={"encoder": NETWORK}, note="AP 33.8, AP50 60.2, AP75 33.1"),
        Row(name="imagenet_supervised", changes={"encoder": TORCHVISION}, note="AP 53.5, AP50 81.3, AP75 58.8"),
        Row(name="given", changes={"encoder": GIVEN}, note="SimSiam, base: AP 56.4, AP50 82.0, AP75 62.8"),
    ),
)
