"""How long trainings may take: what is known, what is timed, and what a person reads of it."""

from __future__ import annotations

import csv
import dataclasses
import math
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import tiny
from made import ONE, OTHER, finish, plan, published

from ablations import catalogue, estimate, planning, printed_plan, provenance, report, run, timing
from ablations.estimate import Times
from ablations.lines import FAILED, unfinished
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


def test_a_training_is_its_steps_and_its_forwards() -> None:
    """Of 500 pictures at 100 pictures/s, a forward of a view being a sixth of a picture's step."""
    config = tiny.config(train_images=None, batch_size=128, eval_every=1)
    epoch, look = 384 / 100 + 560 / 600, 560 / 600
    assert estimate.by_steps(config, 100.0, (500, 60)) == pytest.approx((2 * look, epoch))  # features embedded once
    config = tiny.config(train_images=None, batch_size=128, eval_every=1, protocol="cifar")
    on_crops = (100 * 500 + 60) / 600
    assert estimate.by_steps(config, 100.0, (500, 60)) == pytest.approx((look + on_crops, epoch))


def finished(**numbers: Any) -> dict[str, Any]:
    """What is known of a training of 4 epochs and 100 s on device K."""
    nothing = dict.fromkeys((*estimate._COST, *estimate._TOOK))
    return nothing | {"device": "K", "outcome": "finished", "epochs": 4, "device_seconds": 100.0} | numbers


def test_what_a_training_takes_once_is_no_part_of_its_epochs() -> None:
    """100 s: 4 epochs of 300 of 310 pictures at 30/s, evaluations of 20 s in all, and 40 s once."""
    done = finished(batch_size=100, train_pictures=310, images_per_second=30.0, eval_seconds=20.0, wall_seconds=100.0)
    (speed,) = estimate.speeds([done], "K", 1).values()
    assert speed == pytest.approx((40.0, 15.0))
    (speed,) = estimate.speeds([{**done, "device_seconds": 200.0}], "K", 1).values()  # two workers
    assert speed == pytest.approx((80.0, 30.0))
    (speed,) = estimate.speeds([{**done, "train_pictures": None}], "K", 1).values()  # of an earlier version
    assert speed == (0.0, 25.0)
    (speed,) = estimate.speeds([{**done, "epochs": 0, "images_per_second": None}], "K", 1).values()  # nothing trained
    assert speed == (100.0, 0.0)
    assert estimate.speeds([{**done, "gpu_fraction": 0.5}], "K", 1) == {}


def test_how_fast_trainings_with_other_threads_were_says_nothing() -> None:
    done = finished(threads=2)
    assert estimate.speeds([done], "K", 1) == {}
    (speed,) = estimate.speeds([done], "K", 2).values()
    assert speed == (0.0, 25.0)
    (speed,) = estimate.speeds([{**done, "threads": None}], "K", 1).values()  # of an earlier version
    assert speed == (0.0, 25.0)


def test_another_device_is_known_by_what_benchmarks_measured(tmp_path: Path) -> None:
    todo = trials(epochs=10)
    with estimate.SPEEDS.open(newline="") as file:
        (speed,) = (
            float(line["images_per_second"])
            for line in csv.DictReader(file)
            if (line["image_size"], line["width"], line["precision"]) == ("32", "64", "float32")
        )
    times = estimate.on("NVIDIA H200", todo, Store.at(tmp_path), 1, (50_000, 10_000))
    once, epoch = estimate.by_steps(todo[0].config, speed, (50_000, 10_000))
    assert (times.seconds, times.unknown) == (pytest.approx(2 * (once + 10 * epoch)), 0)
    assert times.by == " on NVIDIA H200, measured with pictures in its memory, batch 512"
    unmeasured = estimate.on("NVIDIA H200", trials(width=16), Store.at(tmp_path), 1, (50_000, 10_000))
    assert (unmeasured.seconds, unmeasured.unknown) == (0, 2)
    with pytest.raises(UserError, match=r"--device: Unknown measured device 'NVIDIA H20'\. Did you mean 'NVIDIA H200'"):
        estimate.on("NVIDIA H20", todo, Store.at(tmp_path), 1, (50_000, 10_000))


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
    done = {**dict.fromkeys(estimate._TOOK), **of, "device": "NVIDIA H200", "outcome": "finished", "epochs": 5}
    monkeypatch.setattr(estimate, "costs", lambda store: [{**done, "wall_seconds": 7.0, "device_seconds": 10.0}])
    monkeypatch.setattr(estimate, "published", lambda recipe: [])
    assert estimate.on("NVIDIA H200", todo, Store.at(tmp_path), 1, (50_000, 10_000)).seconds == 2 * 10 * 2.0


@pytest.mark.parametrize(
    ("times", "options", "says"),
    [
        (Times((3000.0, 4200.0), 0), {}, "Time: 2:00:00 if one follows the other."),
        (
            Times((3000.0, 4200.0), 0),
            {"workers": 4},
            "Time: 30:00 if one follows the other, if 4 workers are 4 times as fast as one.",
        ),
        (Times((3000.0, 4200.0), 1), {}, "Time: 2:00:00 if one follows the other, of 2; unknown of 1."),
        (
            Times((3000.0, 4200.0), 0),
            {"price": 3.0},
            "Time: 2:00:00 if one follows the other.\nPrice: 6.00, at 3 an hour of a CPU or GPU.",
        ),
        (
            Times((3000.0, 4200.0), 1),
            {"price": 3.0},
            "Time: 2:00:00 if one follows the other, of 2; unknown of 1.\n"
            "Price of these 2: 6.00, at 3 an hour of a CPU or GPU.",
        ),
        (Times((), 3, " on a K"), {}, "Time: unknown on a K. A first training of each kind tells."),
        (Times((), 3, " on a K"), {"here": False}, "Time: unknown on a K. --plan --probe on such a machine tells."),
        (Times((), 3), {"price": 3.0}, "Time: unknown. A first training of each kind tells, or --plan --probe."),
    ],
)
def test_how_long_in_words(times: Times, options: dict[str, Any], says: str) -> None:
    assert printed_plan.how_long(times, **options) == says


@pytest.mark.parametrize(
    ("at_once", "workers", "last"),
    [(1, 1, 115), (2, 1, 75), (2, 2, 37.5), (3, 1, 45), (9, 1, 40)],  # of two: 30 after 10, 35 after either
)
def test_on_a_cluster_the_next_training_starts_where_one_ends(at_once: int, workers: int, last: float) -> None:
    assert Times((10.0, 40.0, 30.0, 35.0), 1).spread(at_once, workers) == last


def test_on_a_cluster_of_which_not_all_is_known() -> None:
    says = printed_plan.how_long(Times((3600.0, 3600.0), 1), price=2, at_once=(1, "my.yaml"))
    assert says.splitlines()[1:] == [
        "On my.yaml of these 2: 2:00:00, at most 1 at once, if its machines are as fast and all there from the start.",
        "Price of these 2: 4.00, at 2 an hour of a CPU or GPU.",
    ]


@pytest.mark.parametrize(
    ("overhead", "a_picture", "tried"),
    [
        (0.0, 0.1, [(16, 16)]),  # a step of 64 would take 6.4 s
        (0.0, 0.04, [(16, 16), (64, 64)]),  # one of 128, 5.1 s
        (0.0, 0.001, [(16, 16), (64, 64), (128, 128), (128, 8 * 128)]),  # one takes 0.128 s: 8 are a second
        (0.9, 0.0, [(16, 16), (64, 64), (128, 128), (128, 2 * 128)]),  # by the smallest one would take 7.2 s
        (0.0, 1e-6, [(16, 16), (64, 64), (128, 128), (128, 10 * 128)]),
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
    config = tiny.config(train_images=None)
    speed = timing.images_per_second(config, Runtime(), images)
    assert batches == [(batch, min(n, len(images))) for batch, n in tried]
    last = batches[-1][0]
    assert speed == pytest.approx(last / (overhead + a_picture * last))
    batches.clear()
    timing.images_per_second(config, Runtime(workers=8), images)
    assert {batch for batch, _ in batches} == {16}  # one worker's share


def test_what_does_not_fit_is_said_and_costs_no_other_kind(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def out_of_memory(config: Any, *_: Any) -> float:
        if config.width == 4:
            raise MemoryError
        return 100.0

    monkeypatch.setattr(timing, "images_per_second", out_of_memory)
    asked: dict[str, Any] = dict(recipe="digits", data=tiny.config().data, train_images=1437, rows=["with"])
    todo = [
        planning.plan(catalogue.get("stop_gradient"), **asked, overrides={**tiny.FIELDS, "width": width})[0]
        for width in (4, 8)
    ]
    assert timing.speeds(todo, Runtime(), {}).keys() == {estimate.kind(todo[1].config)}
    assert "It does not fit into this machine's memory." in capsys.readouterr().out


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
    assert all(math.isfinite(seconds) and seconds > 0 for speed in found.values() for seconds in speed)
    assert timing.speeds(todo.values(), Runtime(), found) == {}


def test_a_plan_that_probes_keeps_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*TINY, "--probe", "--price", "2", "--results", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "Timing a step, 1 of 1: simsiam, resnet10 of width 4, 8 px, float32, batch 128." in out
    assert f"if one follows the other on this machine's {provenance.machine()}.\nPrice: " in out
    assert [*tmp_path.iterdir()] == []


def test_what_was_trained_here_is_not_timed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [*TINY, "--results", str(tmp_path), "--launcher", "local"]
    assert run.main([*(each for each in command if each != "--plan"), "--rows", "with"]) == 0
    capsys.readouterr()
    assert run.main([*command, "--probe"]) == 0
    out = capsys.readouterr().out
    assert "Timing" not in out
    assert f"if one follows the other on this machine's {provenance.machine()}." in out


def test_a_file_without_the_newer_columns_is_planned_with(tmp_path: Path) -> None:
    published(tmp_path, {"with": list(ONE), "without": list(OTHER)})
    file = tmp_path / "stop_gradient.parquet"
    before = pq.read_table(file).drop_columns(["device_seconds", "train_pictures", "gpu_fraction", "optimizer"])
    pq.write_table(before.replace_schema_metadata(), file)
    assert run.main(["--table", "stop_gradient", "--plan", "--results", str(tmp_path)]) == 0
    assert report.words(Store.at(tmp_path), "latex")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--probe"], "--probe is for --plan."),
        (["--device", "NVIDIA H200"], "--device is for --plan."),
        (["--fingerprints"], "--fingerprints is for --plan."),
        (["--plan", "--probe", "--device", "NVIDIA H200"], "--probe is of this machine, --device of another."),
        (["--plan", "--device", "NVIDIA"], "--device: Unknown measured device 'NVIDIA'."),
        (["--cluster", "x.yaml"], "--cluster is for --plan."),
        (["--plan", "--cluster", "x.yaml"], "--cluster says how many machines there are, not how fast."),
        (["--plan", "--probe", "--launcher", "local", "--cluster", "x.yaml"], "--cluster is of --launcher ray."),
        (["--plan", "--probe", "--gpus-per-trial", "0.5", "--cluster", "x.yaml"], "--cluster: how fast trials are"),
        (["--plan", "--probe", "--seeds-until-decided", "9", "--cluster", "x"], "--cluster: how many seeds"),
        (["--plan", "--device", "AMD EPYC", "--cluster", ""], "--cluster  cannot be read:"),
    ],
)
def test_it_is_said_what_does_not_go_together(
    options: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--table", "stop_gradient", "--results", str(tmp_path), *options]) == 2
    assert says in capsys.readouterr().err


def test_an_estimate_is_from_trials_of_the_same_cost(tmp_path: Path) -> None:
    store, trials = Store.at(tmp_path), plan()
    config = trials[1].config

    def estimated(**changes: Any) -> float | None:
        speeds = estimate.speeds(estimate.costs(store), provenance.machine(), 1)
        return estimate.seconds(dataclasses.replace(config, **changes), speeds)

    def done(**numbers: Any) -> None:
        finish(store, trials[:1], device=provenance.machine(), **numbers)
        store.write_failure(unfinished(config, FAILED, "as the test asked"))
        store.rebuild(trials)

    assert estimated() is None
    done(wall_seconds=50.0, device_seconds=50.0)
    assert estimated(epochs=200) == pytest.approx(100.0)
    assert estimated(width=64) is None
    done(wall_seconds=0.5, device_seconds=0.5, outcome="diverged")
    assert estimated(epochs=200) is None
