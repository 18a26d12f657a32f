"""The Config: its rules, its identity, and how it is written on a command line."""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
from conftest import digits
from hypothesis import given
from hypothesis import strategies as st

from simsiam import config as configs
from simsiam.config import Config, fingerprint
from simsiam.recipes import DIGITS


def make(**changes: Any) -> Config:
    return Config(**{"data": "digits@0", **DIGITS, **changes})


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"batch_size": 1}, "'batch_size' must be a whole number at least 2. Got 1"),
        ({"batch_size": 64.0}, "'batch_size' must be a whole number"),
        ({"epochs": True}, "'epochs' must be a whole number"),
        ({"base_lr": float("nan")}, "'base_lr' must be a number above 0"),
        ({"base_lr": 0.0}, "'base_lr' must be a number above 0"),
        ({"momentum": 1.0}, "'momentum'"),
        ({"similarity": "euclid"}, "one of cosine, cross_entropy"),
        ({"stop_gradient": 1}, "'stop_gradient' must be true or false"),
        ({"epochs": None}, "'epochs' must be a whole number at least 1. Got None"),
        ({"warmup_epochs": 100}, "warmup_epochs must be below epochs=100"),
        ({"bn_group": 128}, "bn_group must be below batch_size=128"),
        ({"bn_group": 48}, "bn_group must be below batch_size=128 and divide it"),
        ({"predictor_hidden": None}, "predictor=mlp needs predictor_hidden"),
        ({"predictor_lr": None}, "predictor=mlp needs predictor_lr"),
        ({"protocol": "best"}, "'protocol' must be one of imagenet"),
        ({"data": 3}, "'data' must be text"),
    ],
)
def test_a_value_that_breaks_a_rule_is_refused(changes: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint.replace("(", r"\(")):
        make(**changes)


def test_one_experiment_has_one_spelling() -> None:
    absent = make(predictor="none")
    assert absent.predictor_hidden is None
    assert absent.predictor_lr is None
    assert absent == make(predictor="none", predictor_hidden=64, predictor_lr="cosine", batch_norm="default")
    assert absent == make(predictor="none", batch_norm="all")
    mirrored = make(predictor="none", stop_gradient=False, symmetric=False)
    assert mirrored == make(predictor="none", stop_gradient=False)
    assert mirrored != make(predictor="none", stop_gradient=False, similarity="cross_entropy", symmetric=False)
    assert make(predictor="frozen", predictor_lr="cosine") == make(predictor="frozen", predictor_lr="constant")
    assert make(batch_norm="none", projector_affine=False) == make(batch_norm="none")
    assert make(jitter_p=0.0) == make(brightness=0, contrast=0, jitter_p=0.5)
    assert make(base_lr=1) == make(base_lr=1.0)
    assert fingerprint(make(weight_decay=-0.0)) == fingerprint(make(weight_decay=0.0))


def test_a_switch_that_acts_is_kept() -> None:
    assert make(batch_norm="all").batch_norm == "all"
    assert make(projector_affine=False).projector_affine is False
    assert make(predictor="frozen").predictor_hidden == DIGITS["predictor_hidden"]


def other_values(name: str) -> st.SearchStrategy[Any]:
    """Values of a field that its rule allows."""
    rule = configs.FIELDS[name].metadata
    kind, _ = configs._kind(name)
    if "choices" in rule:
        return st.sampled_from(rule["choices"])
    if kind is bool:
        return st.booleans()
    if kind is str:
        return st.text(min_size=1, max_size=8)
    high = min(rule["high"], 10_000)
    if kind is int:
        return st.integers(int(rule["low"]), int(high))
    return st.floats(rule["low"], high, exclude_min=rule["above"], allow_nan=False)


@st.composite
def some_configs(draw: st.DrawFn) -> Config:
    names = draw(st.sets(st.sampled_from([*configs.FIELDS]), max_size=6))
    try:
        return make(**{name: draw(other_values(name)) for name in names})
    except ValueError:
        return make(seed=draw(st.integers(0, 5)))


@given(some_configs(), some_configs())
def test_configs_that_differ_never_share_a_fingerprint(one: Config, other: Config) -> None:
    assert (fingerprint(one) == fingerprint(other)) == (one == other)
    assert (not configs.difference(dataclasses.asdict(one), dataclasses.asdict(other))) == (one == other)


@given(some_configs())
def test_a_config_survives_json(config: Config) -> None:
    again = Config(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    assert fingerprint(again) == fingerprint(config)


def test_the_fingerprint_of_a_known_config_never_changes() -> None:
    # Results are filed under it. If this fails, every stored result is orphaned: raise SCHEMA knowingly, or declare
    # what earlier results had.
    fields: dict[str, Any] = dict(
        data="digits@0", seed=3, image_size=8, backbone="resnet10", stem="cifar", dim=16, projector_layers=2,
        projector_hidden=16, predictor_hidden=4, epochs=1, batch_size=32, base_lr=0.5, weight_decay=1e-4,
        protocol="small",
    )  # fmt: skip
    assert fingerprint(Config(**fields)) == "22c9e2f5d208569996e5"


def test_a_field_added_later_does_not_answer_for_old_results() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Later(Config):
        declared: int = field(default=7, metadata={"earlier": 1})
        silent: int = 5

    @dataclass(frozen=True, kw_only=True)
    class Declared(Config):
        declared: int = field(default=7, metadata={"earlier": 1})

    for kind in (Later, Declared):  # their own fields have no rules to check
        kind.__post_init__ = lambda self: None  # type: ignore[method-assign]
    old = make()
    fields = dataclasses.asdict(old)
    assert fingerprint(Declared(**fields, declared=1)) == fingerprint(old)
    assert fingerprint(Declared(**fields)) != fingerprint(old)
    assert fingerprint(Later(**fields, declared=1)) != fingerprint(old)


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("epochs", "5", 5),
        ("base_lr", "1e-2", 0.01),
        ("base_lr", "1", 1.0),
        ("stop_gradient", "False", False),
        ("train_images", "none", None),
        ("similarity", "cross_entropy", "cross_entropy"),
    ],
)
def test_parse_reads_a_value_of_the_fields_type(name: str, text: str, value: Any) -> None:
    parsed = configs.parse(name, text)
    assert parsed == value
    assert type(parsed) is type(value)


@pytest.mark.parametrize(
    ("name", "text"),
    [("epochs", "5.5"), ("epochs", "none"), ("stop_gradient", "1"), ("base_lr", "inf"), ("similarity", "x")],
)
def test_parse_refuses_what_the_field_cannot_hold(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"'{name}'.*Got '{text}'"):
        configs.parse(name, text)


def test_parse_names_the_known_fields_and_the_nearest() -> None:
    with pytest.raises(ValueError, match=r"Unknown field 'epoch'. Did you mean 'epochs'\? Known: .*batch_size"):
        configs.parse("epoch", "5")


def test_overrides_read_the_same_in_any_order() -> None:
    assert configs.canonical({"width": 16, "epochs": 5}) == "epochs=5 width=16"
    assert configs.canonical({"similarity": "cosine", "stop_gradient": False, "train_images": None}) == (
        "similarity=cosine stop_gradient=false train_images=null"
    )
    assert configs.canonical({}) == ""


def test_evaluating_every_epoch_is_what_it_was_and_has_one_spelling() -> None:
    plain = digits()
    assert fingerprint(digits(eval_every=1)) == fingerprint(plain)
    assert digits(eval_every=1000) == digits(eval_every=plain.epochs)
    assert digits(eval_every=7, epochs=1) == digits(epochs=1)
    assert fingerprint(digits(eval_every=2)) != fingerprint(plain)
