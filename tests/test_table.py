"""Tables and plans."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from ablations import catalogue, planning
from ablations.table import TORCHVISION, UNKNOWN, Encoder, Row, Table, Trial, UserError
from simsiam import config as configs
from simsiam.methods import METHODS, SWITCHES
from simsiam.recipes import IMAGENET


def plan(table: Table | str, **changes: Any) -> list[Trial]:
    asked: dict[str, Any] = dict(recipe="digits", data="digits@0", train_images=1437, overrides={}, seeds=range(1))
    asked["encoders"] = an_encoder
    return planning.plan(catalogue.get(table) if isinstance(table, str) else table, **(asked | changes))


def a_table(*rows: Row, varies: tuple[str, ...] = ("batch_size",)) -> Table:
    return Table(name="t", title="T", section="Sec. 0", varies=varies, rows=rows)


@pytest.mark.parametrize("name", catalogue.names())
def test_rows_differ_only_in_what_the_table_declares(name: str) -> None:
    table = catalogue.get(name)
    data = "voc@0" if table.detects else "images@0"
    trials = plan(name, recipe="imagenet", data=data, train_images=1_281_167)
    assert [trial.row.name for trial in trials] == [row.name for row in table.rows]
    for trial in trials[1:]:
        differing = configs.difference(*(dataclasses.asdict(each.config) for each in (trials[0], trial)))
        # Where h is gone, the fields of h are set to None with it; and a method is many fields.
        besides = {"predictor_hidden", "predictor_lr"} if "predictor" in table.varies else set()
        if "jitter_p" in table.varies:
            besides |= {"brightness", "contrast", "saturation", "hue"}
        if "encoder" in table.varies:
            besides |= {"encoder", "backbone", "stem", "width", "base_lr"}
        if "method" in table.varies:
            of_methods = [METHODS[each.config.method] for each in (trials[0], trial)]
            besides |= set(SWITCHES) | {"predictor_hidden", "predictor_lr"}
            besides |= {field for method in of_methods for field in method.fields("imagenet", IMAGENET, {})}
        assert set(differing) <= set(table.varies) | besides
        assert differing


def an_encoder(kind: str, fields: Any) -> Encoder:
    """What a command may give: a narrow encoder a seed; torchvision's is not at hand."""
    network = {"backbone": "resnet18", "stem": "cifar", "width": 8}
    if kind == TORCHVISION:
        network = {name: fields.get(name, 64) for name in network}
        return Encoder(digest=UNKNOWN, network=network, origin="torchvision", missing="no network")
    return Encoder(digest=f"{fields['seed']:016x}", network=network, origin="stop_gradient/with")


def test_rows_change_the_predictor_and_its_lr() -> None:
    first = plan("predictor")
    assert [(t.config.predictor, t.config.predictor_lr) for t in first] == [
        ("mlp", "cosine"), ("none", None), ("frozen", None), ("mlp", "constant"),
    ]  # fmt: skip


def test_tables_share_the_training_of_the_same_config() -> None:
    trials = [*plan("stop_gradient"), *plan("predictor")]
    assert trials[0].fingerprint == trials[2].fingerprint
    assert [trial.name for trial in planning.distinct(trials).values()] == [
        "stop_gradient/with seed 0", "stop_gradient/without seed 0",
        "predictor/none seed 0", "predictor/frozen seed 0", "predictor/constant_lr seed 0",
    ]  # fmt: skip


def test_seeds_are_trials_of_their_own() -> None:
    trials = plan("stop_gradient", seeds=range(3))
    assert [(trial.row.name, trial.config.seed) for trial in trials] == [
        (row, seed) for row in ("with", "without") for seed in (0, 1, 2)
    ]
    assert len({trial.fingerprint for trial in trials}) == 6


def test_overrides_lie_over_the_recipe_and_the_tables_base_but_under_the_row() -> None:
    trials = plan("stop_gradient", overrides={"epochs": 7, "predictor_lr": "constant"})
    assert all(trial.config.epochs == 7 and trial.config.predictor_lr == "constant" for trial in trials)
    assert trials[0].overrides == "epochs=7 predictor_lr=constant"


@pytest.mark.parametrize(
    ("table", "overrides"),
    [
        ("stop_gradient", {"stop_gradient": False}),
        ("batch_size", {"batch_size": 96}),
        ("predictor", {"predictor_lr": "constant"}),
        ("stop_gradient", {"stop_gradient": True}),
    ],
)
def test_an_override_that_every_row_overwrites_is_refused(table: str, overrides: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="varies this field itself"):
        plan(table, overrides=overrides)


def test_an_override_that_no_method_of_the_table_uses_is_refused() -> None:
    with pytest.raises(UserError, match="--set temperature: no row of table stop_gradient has a method that uses it"):
        plan("stop_gradient", overrides={"temperature": 0.3})
    for table, overrides in (
        ("relations", {"temperature": 0.3}),
        ("stop_gradient", {"similarity": "cosine"}),  # as it is anyway
        ("similarity", {"method": "alternation", "eta_steps": 3}),
    ):
        plan(table, overrides=overrides)


def test_an_override_that_the_rows_build_on_is_taken() -> None:
    assert [trial.config.epochs for trial in plan("epochs", overrides={"epochs": 3})] == [3, 6, 12, 24]
    assert [trial.config.dim for trial in plan("output_dim", overrides={"dim": 64})] == [8, 16, 32, 64]


def test_a_row_may_be_a_function_of_the_baseline() -> None:
    table = a_table(Row(name="tenth", changes=lambda base: {"warmup_epochs": base["epochs"] / 10}))
    assert plan(table, overrides={"epochs": 50})[0].config.warmup_epochs == 5.0


def test_a_row_too_large_for_the_data_is_infeasible_and_the_others_are_not() -> None:
    table = a_table(Row(name="fits", changes={"batch_size": 1437}), Row(name="too_large", changes={"batch_size": 1438}))
    fits, too_large = plan(table)
    assert fits.infeasible is None
    assert too_large.infeasible == "batch_size must be at most the 1437 training images. Got 1438 instead."


@pytest.mark.parametrize(
    ("asked", "complaint"),
    [
        ({"rows": ["wiht"]}, r"Unknown row of table stop_gradient 'wiht'. Did you mean 'with'\? Known: with, without."),
        ({"recipe": "digit"}, r"Unknown recipe 'digit'. Did you mean 'digits'\?"),
        ({"overrides": {"batch_size": 2000}}, "batch_size must be at most the 1437 training images. Got 2000"),
        (
            {"overrides": {"train_images": 100}},
            r"batch_size must be at most the 100 training images. Got 128 instead\. Use --set batch_size=50\.$",
        ),
        ({"overrides": {"train_images": 3}}, r"Got 128 instead\. Use --set batch_size=2\.$"),
        ({"train_images": 1}, r"at most the 1 training images. Got 128 instead\.$"),
        ({"overrides": {"train_images": 1437}}, "train_images must be below the 1437 pictures there are"),
        ({"overrides": {"warmup_epochs": 500.0}}, "Recipe digits with --set: warmup_epochs must be below epochs"),
    ],
)
def test_a_wrong_plan_is_refused(asked: dict[str, Any], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        plan("stop_gradient", **asked)


def test_a_batch_that_the_table_would_refuse_is_no_remedy() -> None:
    for table, images in (("batch_size", 100), ("relations", 100)):  # one varies it, one needs a multiple of eight
        with pytest.raises(UserError, match=rf"at most the {images} training images. Got \d+ instead\.$"):
            plan(table, train_images=images)


def test_an_unknown_table_names_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"Unknown table 'stop_gradeint'. Did you mean 'stop_gradient'\? Known: stop_g"):
        catalogue.get("stop_gradeint")
