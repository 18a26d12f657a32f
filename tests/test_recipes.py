"""Recipes against the paper, field by field."""

from __future__ import annotations

import dataclasses

import pytest

from simsiam.config import FIELDS, Config
from simsiam.protocols import PROTOCOLS
from simsiam.recipes import RECIPES

# Sec. 3 and App. A, with the switches at the paper's default. `unstated` are the fields the paper leaves open.
PAPER_IMAGENET = dict(
    train_images=None, image_size=224, crop_min_area=0.2, flip_p=0.5, jitter_p=0.8, brightness=0.4, contrast=0.4,
    saturation=0.4, hue=0.1, grayscale_p=0.2, backbone="resnet50", stem="imagenet", width=64, dim=2048,
    projector_layers=3, projector_hidden=2048, predictor_hidden=512, epochs=100, batch_size=512, optimizer="sgd",
    base_lr=0.05, momentum=0.9, weight_decay=1e-4, warmup_epochs=0.0, precision="float32", stop_gradient=True,
    predictor="mlp", predictor_lr="constant", batch_norm="default", projector_affine=True, similarity="cosine",
    symmetric=True, pairs_per_image=1, bn_group=None, eval_every=None, method="simsiam", temperature=None,
    queue=None, shuffle_keys=True, prototypes=None, target_momentum=None, eta_steps=None, eta_momentum=None,
    eta_normalised=True, eta_start="first", encoder=None,
)  # fmt: skip
# App. D: what it changes, and nothing else.
PAPER_CIFAR10 = PAPER_IMAGENET | dict(
    image_size=32, backbone="resnet18", stem="cifar", projector_layers=2, epochs=800, base_lr=0.03, weight_decay=5e-4,
    blur_p=0.0,
)  # fmt: skip
UNSTATED = {"data", "seed", "protocol", "blur_p"}


@pytest.mark.parametrize(("recipe", "paper"), [("imagenet", PAPER_IMAGENET), ("cifar10", PAPER_CIFAR10)])
def test_a_recipe_of_the_paper_is_the_papers_in_every_field(recipe: str, paper: dict[str, object]) -> None:
    config = dataclasses.asdict(Config(data="x@0", **RECIPES[recipe]))
    assert FIELDS.keys() == paper.keys() | UNSTATED
    assert {name: config[name] for name in paper} == paper


def test_the_learning_rates_of_the_paper() -> None:
    assert Config(data="x@0", **RECIPES["imagenet"]).lr == pytest.approx(0.1)  # B 512
    assert Config(data="x@0", **RECIPES["cifar10"]).lr == pytest.approx(0.06)


def test_the_paper_s_evaluation_on_imagenet() -> None:
    protocol = PROTOCOLS[str(RECIPES["imagenet"]["protocol"])]
    assert (protocol.knn_k, protocol.knn_temperature) == (200, 0.2)
    assert (protocol.probe_optimizer, protocol.probe_lr, protocol.probe_batch, protocol.probe_epochs) == (
        "lars", 0.02, 4096, 90,
    )  # fmt: skip
    assert protocol.crop == pytest.approx(224 / 256)


@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_is_a_config_with_a_known_protocol(recipe: str) -> None:
    assert Config(data="x@0", **RECIPES[recipe]).protocol in PROTOCOLS
