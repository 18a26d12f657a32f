"""Ours: which of the augmentations of App. A carries the result? The baseline without one of them at a time.

Where a recipe has none of an augmentation (the digits: flip, grayscale, blur), its row is the baseline's own trial.
Cost: 6 trainings a seed at most.
"""

from ablations.table import Row, Table

TABLE = Table(
    name="augmentation",
    title="Augmentation",
    section="ours",
    varies=("crop_min_area", "jitter_p", "grayscale_p", "blur_p", "flip_p"),
    rows=(
        Row(name="all", changes={}),
        Row(name="no_crop", changes={"crop_min_area": 1.0}),
        Row(name="no_jitter", changes={"jitter_p": 0.0}),
        Row(name="no_grayscale", changes={"grayscale_p": 0.0}),
        Row(name="no_blur", changes={"blur_p": 0.0}),
        Row(name="no_flip", changes={"flip_p": 0.0}),
    ),
)
