"""What each method is by itself: SimSiam's relatives, Sec. 5's experiments, labels, and none; one literal each.

Choosing a method takes all of its fields; `--set` may then change each. Numbers of recipe imagenet are those of each
method's paper and code, augmentation included but for BYOL's blur and solarisation, in the form that the SimSiam
paper's App. C gives it (3-layer projectors in SimCLR and SwAV, a symmetrised loss in MoCo v2), those of the small
recipes in the range of the public benchmarks on small data; those of the digits are ours. Imports the standard library
alone: a Config is checked with it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

Fields = Mapping[str, Any]

SIMSIAM, SUPERVISED, DETECTION, NONE = "simsiam", "supervised", "detection", "none"


@dataclass(frozen=True, kw_only=True)
class Method:
    """Where a method is, which fields act in it, and the values with which it is known.

    A value may be a function of the other fields.

    Args:
        code: `module:class`.
        acts: of SWITCHES, those that act besides the fields of training and of the heads.
        views: whether it trains on views of pictures, and so whether the fields of training act.
        heads: whether it has a projector, and may have a predictor.
        common: field -> value, of every recipe.
        recipes: recipe -> field -> value; `small` stands for all that are not named.
    """

    code: str
    acts: tuple[str, ...] = ()
    views: bool = True
    heads: bool = True
    common: Fields = field(default_factory=dict)
    recipes: Mapping[str, Fields] = field(default_factory=dict)

    @property
    def module(self) -> str:
        return self.code.partition(":")[0]

    @property
    def acting(self) -> tuple[str, ...]:
        """Of SWITCHES, those that act; the others have their neutral value."""
        return (*self.acts, *(_TRAINING if self.views else ()), *(_HEADS if self.heads else ()))

    def fields(self, recipe: str, baseline: Fields, chosen: Fields) -> dict[str, Any]:
        """Field -> value on a recipe.

        Args:
            baseline: the recipe's fields, with what a table changes of them.
            chosen: what a row or `--set` changes besides: it stands over the method's.
        """
        values = {**self.common, **self.recipes.get(recipe, self.recipes.get("small", {}))}
        known = {**baseline, **{name: value for name, value in values.items() if not callable(value)}, **chosen}
        return {name: value(known) if callable(value) else value for name, value in values.items()}


# Fields of training, and of f's and h's heads -> the value they have where they do not act.
_TRAINING: dict[str, Any] = {
    "crop_min_area": 1.0,
    **dict.fromkeys(
        ("flip_p", "jitter_p", "brightness", "contrast", "saturation", "hue", "grayscale_p", "blur_p"), 0.0
    ),
    "epochs": 0,
    "batch_size": 0,
    "optimizer": "sgd",
    **dict.fromkeys(("base_lr", "momentum", "weight_decay", "warmup_epochs"), 0.0),
}
_HEADS: dict[str, Any] = {
    **dict.fromkeys(("dim", "projector_layers", "projector_hidden")),
    "batch_norm": "default",
    "projector_affine": True,
}

# Fields that do not act in every method -> the value they have where they do not.
SWITCHES: dict[str, Any] = {
    **_TRAINING,
    **_HEADS,
    "stop_gradient": True,
    "predictor": "none",
    "similarity": "cosine",
    "symmetric": True,
    "pairs_per_image": 1,
    "temperature": None,
    "queue": None,
    "shuffle_keys": True,
    "prototypes": None,
    "target_momentum": None,
    "eta_steps": None,
    "eta_momentum": None,
    "eta_normalised": True,
    "eta_start": "first",
}

_SIMSIAM = ("stop_gradient", "predictor", "similarity", "symmetric", "pairs_per_image")


def _by_length(short: Any, middle: Any, long: Any) -> Callable[[Fields], Any]:
    """BYOL's recipes of 100, 200 or 400, and 800 epochs: its own of 100, 300 and 1000 (footnote 6)."""
    return lambda fields: short if fields["epochs"] <= 100 else middle if fields["epochs"] <= 400 else long


def _warmup(fields: Fields) -> float:
    """10 epochs at every length, as in the code of SimCLR, BYOL and SwAV; ours: of fewer than 100 epochs, a tenth."""
    return min(10.0, float(fields["epochs"]) / 10)


def _eighth(fields: Fields) -> int:
    return int(fields["batch_size"]) // 8


_NARROW = dict(projector_hidden=512, dim=128)
_DIGITS = dict(projector_hidden=256, dim=128)
_LARGE_BATCH = dict(optimizer="lars", batch_size=4096, warmup_epochs=_warmup, predictor_lr="cosine")
# Colour jitter of strength 1.0 and crops from 0.08 of the area on, in SimCLR's code and SwAV's (its script of 2 x 224).
_STRONG = dict(crop_min_area=0.08, brightness=0.8, contrast=0.8, saturation=0.8, hue=0.2)
_SMALL_SGD = dict(base_lr=0.12, weight_decay=5e-4)
_SMALL = dict(**_NARROW, **_SMALL_SGD)
_SMALL_MOCO = dict(**_SMALL, temperature=0.1, target_momentum=0.99)
_CIFAR_SWAV = dict(**_SMALL, temperature=0.1, prototypes=512)

METHODS: dict[str, Method] = {
    SIMSIAM: Method(code="simsiam.method:Method", acts=_SIMSIAM),
    # Chen et al. 2020: NT-Xent, a positive and 2 (B - 1) negatives an anchor.
    "simclr": Method(
        code="simsiam.relatives.simclr:SimCLR",
        acts=("stop_gradient", "predictor", "temperature"),
        common=dict(stop_gradient=False, predictor="none", projector_layers=3, batch_norm="default"),
        recipes={
            "imagenet": dict(
                **_LARGE_BATCH,
                **_STRONG,
                base_lr=0.3,
                weight_decay=1e-6,
                temperature=0.1,
                projector_hidden=2048,
                dim=128,
            ),
            "small": dict(**_SMALL, temperature=0.5),
            "digits": dict(**_DIGITS, temperature=0.5),
        },
    ),
    # Chen et al. 2020: keys of a momentum encoder, the last ones kept in a queue; no BN in the head, BN of the batch in
    # eight groups, and keys in another order than queries (its Shuffling BN). Its augmentation is SimSiam's.
    "moco": Method(
        code="simsiam.relatives.moco:MoCo",
        acts=("temperature", "queue", "target_momentum", "shuffle_keys"),
        common=dict(projector_layers=2, batch_norm="none", bn_group=_eighth),
        recipes={
            "imagenet": dict(
                batch_size=256,
                base_lr=0.03,
                weight_decay=1e-4,
                temperature=0.2,
                queue=65_536,
                target_momentum=0.999,
                projector_hidden=2048,
                dim=128,
            ),
            "small": dict(**_SMALL_MOCO, queue=2048),
            "cifar10": dict(**_SMALL_MOCO, queue=4096),
            "cifar10_short": dict(**_SMALL_MOCO, queue=4096),
            "flowers": dict(**_SMALL_MOCO, queue=512),
            "digits": dict(**_DIGITS, temperature=0.1, queue=256, target_momentum=0.99),
        },
    ),
    # Grill et al. 2020: a momentum encoder and a predictor. Its code treats the two views apart: one is always blurred,
    # the other in 0.1 of all cases, and solarised in 0.2. No field says so: both are blurred in 0.5, none is solarised.
    "byol": Method(
        code="simsiam.relatives.byol:BYOL",
        acts=("predictor", "target_momentum"),
        common=dict(predictor="mlp", predictor_lr="cosine", projector_layers=2, batch_norm="hidden"),
        recipes={
            "imagenet": dict(
                **_LARGE_BATCH,
                crop_min_area=0.08,
                saturation=0.2,
                base_lr=_by_length(0.45, 0.3, 0.2),
                weight_decay=_by_length(1e-6, 1e-6, 1.5e-6),
                target_momentum=_by_length(0.99, 0.99, 0.996),
                projector_hidden=4096,
                predictor_hidden=4096,
                dim=256,
            ),
            "small": dict(**_SMALL_SGD, projector_hidden=1024, predictor_hidden=1024, dim=256, target_momentum=0.99),
            "digits": dict(projector_hidden=256, predictor_hidden=256, dim=128, target_momentum=0.99),
        },
    ),
    # Caron et al. 2020: which prototype a view has is predicted from the other view.
    "swav": Method(
        code="simsiam.relatives.swav:SwAV",
        acts=("stop_gradient", "predictor", "temperature", "prototypes"),
        common=dict(stop_gradient=True, predictor="none", projector_layers=3, batch_norm="hidden"),
        recipes={
            "imagenet": dict(
                **_LARGE_BATCH,
                **_STRONG,
                base_lr=0.3,
                weight_decay=1e-6,
                temperature=0.1,
                prototypes=3000,
                projector_hidden=2048,
                dim=128,
            ),
            "small": dict(**_SMALL, temperature=0.1, prototypes=128),
            "cifar10": _CIFAR_SWAV,
            "cifar10_short": _CIFAR_SWAV,
            "digits": dict(**_DIGITS, temperature=0.2, prototypes=32),
        },
    ),
    # Sec. 5.2: eta is made by weights of some steps ago, as in an alternation of k-step SGD, and so has no gradient.
    "alternation": Method(code="simsiam.alternation:Alternation", acts=(*_SIMSIAM[1:], "eta_steps")),
    # Sec. 5.2: no predictor, eta a moving average over the augmentations of a picture.
    "expectation": Method(
        code="simsiam.expectation:Expectation",
        acts=("similarity", "symmetric", "eta_momentum", "eta_normalised", "eta_start"),
        common=dict(eta_momentum=0.8),
    ),
    # Cross-entropy of the labels, by a linear layer on the backbone, of the recipe's two views: what can be reached.
    SUPERVISED: Method(
        code="simsiam.supervised:Supervised",
        heads=False,
        recipes={
            "imagenet": dict(base_lr=0.1),
            "small": dict(base_lr=0.1, weight_decay=5e-4),
            "digits": {},
        },
    ),
    # Nothing is trained: the backbone as it starts, random or an encoder that was trained elsewhere, is evaluated.
    NONE: Method(code="simsiam.method:Method", views=False, heads=False),
    # Table 5: a detector on the backbone. The lr is 0.02 at batch 16.
    DETECTION: Method(
        code="simsiam.detection:run",
        acts=("flip_p", "epochs", "batch_size", "base_lr", "momentum", "weight_decay"),
        views=False,
        heads=False,
        common=dict(
            image_size=800, flip_p=0.5, epochs=23, batch_size=16, base_lr=0.32, momentum=0.9, weight_decay=1e-4
        ),
    ),
}
