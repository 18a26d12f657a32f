"""How long trainings may take: what is known, what is timed, and what a person reads of it."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from typing import Any

import pytest
import tiny

from ablations import catalogue, estimate, planning, printed_plan, provenance, run, timing
from ablations.estimate import Times
from ablations.store import Store
from ablations.table import Trial, UserError
from simsiam import config as configs
from simsiam.config import Runtime
from simsiam.methods import METHODS
from simsiam.recipes import RECIPES

TINY = ["--table", "stop_gradient", *tiny.OVERRIDES, "--plan"]


def trials(table: str = "stop_gradient", recipe: str = "cifar10", **overrides: Any) -> list[Trial]:
    asked: dict[str, Any] = dict(recipe=recipe, data=f"{recipe}@0", train_images=50_000, overrides=overrides)
    return planning.plan(catalogue.get(table), **asked)


def test_an_epoch_is_its_steps_and_its_forwards() -> None:
    """Of 2 epochs of 500 pictures at 100 pictures/s, a forward of a view being a sixth of a picture's step."""
    config = tiny.config(
        train_images=None, batch_size=128, eval_every=1
    )  # the digits' probe: features are embedded once
    steps, looks, probe = 2 * 384 / 100, 3 * (500 + 60) / 600, (500 + 60) / 600
    assert 2 * estimate.an_epoch(config, 100.0, (500, 60)) == pytest.approx(steps + looks + probe)
    config = tiny.config(train_images=None, batch_size=128, eval_every=1, protocol="cifar")  # and 100 times on crops
    probe = (100 * 500 + 60) / 600
    assert 2 * estimate.an_epoch(config, 100.0, (500, 60)) == pytest.approx(steps + looks + probe)


def test_another_device_is_known_by_what_benchmarks_measured(tmp_path: Path) -> None:
    todo = trials(epochs=10)
    with estimate.SPEEDS.open(newline="") as file:
        (speed,) = (
            float(line["images_per_second"])
            for line in csv.DictReader(file)
            if (line["image_size"], line["width"], line["precision"]) == ("32", "64", "float32")
        )
    times = estimate.on("NVIDIA H200", todo, Store.at(tmp_path), (50_000, 10_000))
    each = 10 * estimate.an_epoch(todo[0].config, speed, (50_000, 10_000))
    assert times == Times(pytest.approx(2 * each), 0, " on NVIDIA H200")
    unmeasured = estimate.on("NVIDIA H200", trials(width=16), Store.at(tmp_path), (50_000, 10_000))
    assert (unmeasured.seconds, unmeasured.unknown) == (0, 2)
    with pytest.raises(UserError, match=r"--device: Unknown measured device 'NVIDIA H20'\. Did you mean 'NVIDIA H200'"):
        estimate.on("NVIDIA H20", todo, Store.at(tmp_path), (50_000, 10_000))


def test_measured_speeds_are_of_fields_as_they_are() -> None:
    with estimate.SPEEDS.open(newline="") as file:
        lines = list(csv.DictReader(file))
    of_recipes = [
        {"method": "simsiam", "pairs_per_image": "1", **{name: str(value) for name, value in fields.items()}}
        for fields in RECIPES.values()
    ]
    for line in lines:
        network = {name: line[name] for name in ("image_size", "backbone", "stem")}
        assert any(network.items() <= fields.items() for fields in of_recipes), line
        for name in ("width", "pairs_per_image", "precision", "method"):
            assert configs.parse(name, line[name]) is not None
        assert float(line["images_per_second"]) > 0


def test_trials_on_the_same_device_come_before_benchmarks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    todo = trials(epochs=10)
    of = {name: getattr(todo[0].config, name) for name in estimate._COST}
    done = {**of, "device": "NVIDIA H200", "outcome": "finished", "epochs": 5, "wall_seconds": 7.0}
    monkeypatch.setattr(estimate, "costs", lambda store: [{**done, "device_seconds": 10.0}])
    monkeypatch.setattr(estimate, "published", lambda recipe: [])
    assert estimate.on("NVIDIA H200", todo, Store.at(tmp_path), (50_000, 10_000)).seconds == 2 * 10 * 2.0


@pytest.mark.parametrize(
    ("times", "options", "says"),
    [
        (Times(7200.0, 0), {}, "Time: 2:00:00 if one follows the other."),
        (Times(7200.0, 0, " on a K"), {"at_once": 4}, "Time: 30:00 if one follows the other on a K."),
        (Times(7200.0, 1), {}, "Time: 2:00:00 if one follows the other, of 2; unknown of 1."),
        (
            Times(7200.0, 0),
            {"at_once": 4, "price": 3.0},
            "Time: 30:00 if one follows the other.\nPrice: 6.00, at 3 an hour of a CPU or GPU.",
        ),
        (Times(0.0, 3), {"price": 3.0}, "Time: unknown. A first training of each kind tells, or --plan --probe."),
    ],
)
def test_how_long_in_words(times: Times, options: dict[str, Any], says: str) -> None:
    assert printed_plan.how_long(times, 3, **options) == says


@pytest.mark.parametrize(
    ("overhead", "a_picture", "tried"),
    [
        (0.0, 0.1, [(16, 16)]),  # a step of 128 would take 12.8 s
        (0.0, 0.001, [(16, 16), (128, 8 * 128)]),  # one takes 0.128 s: 8 are a second
        (0.1, 0.0, [(16, 16), (128, 2 * 128)]),  # by the small batch one would take 0.8 s
        (0.0, 1e-6, [(16, 16), (128, 10 * 128)]),
    ],
)
def test_a_step_is_timed_that_takes_seconds_at_most(
    overhead: float, a_picture: float, tried: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    batches = []

    def pretend(config: Any, runtime: Any, train: Any, test: Any, *, on_epoch: Any, **_: Any) -> None:
        batches.append((config.batch_size, len(train)))
        on_epoch({"images_per_second": 1e-9})  # a first epoch has all that happens once
        on_epoch({"images_per_second": config.batch_size / (overhead + a_picture * config.batch_size)})

    monkeypatch.setattr(timing.pretrain, "pretrain", pretend)
    images = timing.loader.load(*_of_the_digits())[0]
    speed = timing.images_per_second(tiny.config(train_images=None), Runtime(), images)
    assert batches == [(batch, min(n, len(images))) for batch, n in tried]
    last = batches[-1][0]
    assert speed == pytest.approx(last / (overhead + a_picture * last))


def _of_the_digits() -> tuple[Any, Any, Any]:
    decoded = timing.loader.decode(timing.data.locate(None), None)
    assert decoded is not None
    return decoded, tiny.config(train_images=None), Runtime()


@pytest.mark.parametrize("table", ["stop_gradient", "methods", "batch_norm", "alternation"])
def test_every_kind_of_training_can_be_timed(table: str) -> None:
    overrides = tiny.FIELDS | ({"bn_group": 32} if table == "stop_gradient" else {})  # which no small batch can have
    asked: dict[str, Any] = dict(recipe="digits", data=tiny.config().data, train_images=1437, overrides=overrides)
    todo = planning.distinct(planning.plan(catalogue.get(table), **asked))
    found = timing.speeds(todo.values(), Runtime(), {})
    kinds = {estimate.kind(trial.config) for trial in todo.values() if METHODS[trial.config.method].views}
    assert found.keys() == kinds
    assert all(math.isfinite(seconds) and seconds > 0 for seconds in found.values())
    assert timing.speeds(todo.values(), Runtime(), found) == {}


def test_a_plan_that_probes_keeps_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*TINY, "--probe", "--price", "2", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Timing a step, 1 of 1: simsiam, resnet10 of width 4, 8 px, float32." in out
    assert "if one follows the other on this machine.\nPrice: " in out
    assert [*tmp_path.iterdir()] == []


def test_what_was_trained_here_is_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, "--results", str(tmp_path), "--launcher", "local"]
    assert run.main([*(each for each in command if each != "--plan"), "--rows", "with"]) == 0
    capsys.readouterr()
    assert run.main([*command, "--probe"]) == 0
    out = capsys.readouterr().out
    assert "Timing" not in out
    assert "if one follows the other on this machine." in out


def test_devices_are_kept_apart(tmp_path: Path) -> None:
    done = dict(outcome="finished", epochs=1, wall_seconds=1.0, device_seconds=1.0, **dict.fromkeys(estimate._COST))
    lines = [{**done, "device": "one"}, {**done, "device": "other", "device_seconds": 5.0}]
    lines.append({**done, "device": "one", "device_seconds": None})  # of a version without the column
    (key,) = estimate.speeds(lines, "one")
    assert (estimate.speeds(lines, "one")[key], estimate.speeds(lines, "other")[key]) == (1.0, 5.0)
    assert estimate.speeds(lines, provenance.machine()) == {}


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--probe"], "--probe is for --plan."),
        (["--device", "NVIDIA H200"], "--device is for --plan."),
        (["--fingerprints"], "--fingerprints is for --plan."),
        (["--plan", "--probe", "--device", "NVIDIA H200"], "--probe is of this machine, --device of another."),
        (["--plan", "--device", "NVIDIA"], "--device: Unknown measured device 'NVIDIA'."),
    ],
)
def test_it_is_said_what_does_not_go_together(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--table", "stop_gradient", "--results", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err
