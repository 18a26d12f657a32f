"""Detection: Pascal VOC's folders, the detector, and average precision."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import tiny
import torch
import voc
from torchvision.models.detection import fasterrcnn_resnet50_fpn

from ablations import catalogue, encoders, options, planning, report, request, results, run
from ablations import table as tables
from ablations import trial as trials
from ablations.store import Store
from ablations.table import UserError
from simsiam import checkpoint, data, detection, encoder
from simsiam.config import Config, Runtime
from simsiam.data import TRAIN, DataError, Pictures, Source
from simsiam.data.pictures import Objects

SMALL = dict(backbone="resnet10", stem="imagenet", width=8, image_size=64, batch_size=4, epochs=2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return voc.write(tmp_path_factory.mktemp("voc"), {"trainval": range(12), "test": range(12, 20)})


def config(source: Source, **changes: Any) -> Config:
    return planning.recipe("imagenet", source.name, {"method": "detection", **SMALL, **changes})


# Its folders.


def test_boxes_are_of_pixels_from_zero(folder: Path) -> None:
    source = data.locate(folder)
    assert (source.layout, source.train_images, source.test_images) == ("voc", 12, 8)
    pictures = data.read(source, TRAIN)
    assert pictures.objects
    assert list(pictures.classes) == ["blue", "red"]
    for i in range(12):
        objects, pixels = pictures.objects(i), np.asarray(pictures.decode(i)).astype(int)
        assert len(objects.boxes) == 1 + i % 2
        assert objects.difficult.tolist() == [False, True][: 1 + i % 2]
        for box, label in zip(objects.boxes.astype(int), objects.labels, strict=True):
            left, top, right, bottom = box
            inside = pixels[top:bottom, left:right]
            assert np.abs(inside - voc.COLOURS[pictures.classes[label]]).mean() < 30
            for row, column in ((top - 1, left), (bottom, left), (top, left - 1), (top, right)):
                if 0 <= row < voc.SIZE[1] and 0 <= column < voc.SIZE[0]:
                    assert np.abs(pixels[row, column] - 128).max() < 90  # noise, and the colour that JPEG spreads


def test_several_years_are_one_and_without_a_test_list_val_is_tested(tmp_path: Path) -> None:
    voc.write(tmp_path / "VOCdevkit" / "VOC2007", {"trainval": range(4), "test": range(4, 7)})
    voc.write(tmp_path / "VOCdevkit" / "VOC2012", {"trainval": range(7, 12), "train": range(7, 9), "val": range(9, 12)})
    both = data.locate(tmp_path)
    assert (both.train_images, both.test_images) == (9, 3)
    alone = data.locate(tmp_path / "VOCdevkit" / "VOC2012")
    assert (alone.train_images, alone.test_images) == (2, 3)
    assert both.digest != alone.digest
    data.check(both)


@pytest.mark.parametrize(
    ("what", "complaint"),
    [
        ("<annotation><object><name>red</name></object></annotation>", "is no annotation of Pascal VOC"),
        ("<annotation>", "is no annotation of Pascal VOC: no element found"),
        ('<!DOCTYPE x [<!ENTITY a "b">]><annotation/>', "declares entities"),
        (
            "<annotation><object><name>red</name><bndbox><xmin>9</xmin><ymin>1</ymin><xmax>9</xmax><ymax>4</ymax>"
            "</bndbox></object></annotation>",
            "the box 9 1 9 4 is none",
        ),
    ],
)
def test_a_wrong_annotation_is_named(what: str, complaint: str, tmp_path: Path) -> None:
    voc.write(tmp_path, {"trainval": range(3), "test": range(3, 5)})
    (tmp_path / "Annotations" / "000001.xml").write_text(what)
    with pytest.raises(DataError, match=f"000001.xml.*{complaint}"):
        data.check(data.locate(tmp_path))


def test_a_list_that_leads_elsewhere_is_refused(tmp_path: Path) -> None:
    voc.write(tmp_path, {"trainval": range(3), "test": range(3, 5)})
    (tmp_path / "ImageSets" / "Main" / "test.txt").write_text("../../secret\n")
    with pytest.raises(DataError, match=r"names ../../secret, which is no name of a picture"):
        data.locate(tmp_path)


def test_a_picture_or_list_that_is_not_there_is_named(tmp_path: Path) -> None:
    voc.write(tmp_path, {"trainval": range(3), "test": range(3, 5)})
    (tmp_path / "JPEGImages" / "000004.jpg").unlink()
    with pytest.raises(DataError, match=r"000004.jpg cannot be read"):
        data.locate(tmp_path)
    (tmp_path / "ImageSets" / "Main" / "trainval.txt").unlink()
    with pytest.raises(DataError, match=r"has no ImageSets/Main/trainval\|train.txt"):
        data.locate(tmp_path)


# Average precision.


def by_hand(truth: list[Objects], found: list[detection.Target], classes: int) -> dict[str, float]:
    """COCO's definition: of each class and threshold, precision at 101 recalls, greedy matches by score."""

    def iou(a: Any, b: Any) -> float:
        wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
        both = max(0.0, wide) * max(0.0, high)
        return both / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both)

    table = np.full((10, classes), np.nan)
    for t, threshold in enumerate(np.linspace(0.5, 0.95, 10)):
        for label in range(classes):
            scored, positives = [], 0
            for its, each in zip(truth, found, strict=True):
                boxes = its.boxes[its.labels == label]
                positives += len(boxes)
                taken = [False] * len(boxes)
                mine = each["labels"] == label
                order = np.argsort(-each["scores"][mine].numpy(), kind="stable")
                for box, score in zip(
                    each["boxes"][mine].numpy()[order], each["scores"][mine].numpy()[order], strict=True
                ):
                    best = max(
                        ((iou(box, other), j) for j, other in enumerate(boxes) if not taken[j]), default=(0.0, -1)
                    )
                    if hit := best[0] >= threshold - 1e-12:
                        taken[best[1]] = True
                    scored.append((score, hit))
            if positives:
                hits = np.array([hit for _, hit in sorted(scored, key=lambda pair: -pair[0])], float)
                recall = hits.cumsum() / positives
                precision = hits.cumsum() / np.arange(1, len(hits) + 1)
                at = [precision[recall >= r].max(initial=0.0) for r in np.linspace(0, 1, 101)]
                table[t, label] = np.mean(at)
    return {"ap": 100 * np.nanmean(table), "ap50": 100 * np.nanmean(table[0]), "ap75": 100 * np.nanmean(table[5])}


def made_up(seed: int) -> tuple[list[Objects], list[detection.Target]]:
    """Objects in twelve pictures, and detections some of which are near one."""
    rng = np.random.default_rng(seed)
    truth, found = [], []
    for _ in range(12):
        n = int(rng.integers(0, 5))
        corner = rng.uniform(0, 200, (n, 2))
        boxes = np.concatenate([corner, corner + rng.uniform(20, 60, (n, 2))], 1).astype(np.float32)
        labels = rng.integers(0, 3, n)
        truth.append(Objects(boxes, labels, np.zeros(n, bool)))
        near = boxes + rng.normal(0, 4, boxes.shape).astype(np.float32)
        stray = np.concatenate([rng.uniform(0, 100, (3, 2)), rng.uniform(120, 200, (3, 2))], 1).astype(np.float32)
        found.append({
            "boxes": torch.from_numpy(np.concatenate([near, stray])),
            "labels": torch.from_numpy(np.append(np.where(rng.random(n) < 0.8, labels, 0), rng.integers(0, 3, 3))),
            "scores": torch.from_numpy(rng.permutation(1000)[: n + 3] / 1000),
        })  # fmt: skip
    return truth, found


def pictures_of(truth: list[Objects]) -> Pictures:
    zeros = np.zeros(len(truth), np.int64)
    return Pictures(labels=zeros, where=str, classes=["a", "b", "c"], objects=lambda i: truth[i])


@pytest.mark.parametrize("seed", range(4))
def test_average_precision_is_coco_s_by_hand(seed: int) -> None:
    truth, found = made_up(seed)
    expected = by_hand(truth, found, classes=3)
    assert 1 < expected["ap"] < expected["ap50"] < 99
    assert detection.average_precision(pictures_of(truth), found) == pytest.approx(expected, abs=1e-6)


def test_a_difficult_object_is_neither_missed_nor_wrong() -> None:
    box = np.array([[0, 0, 10, 10], [20, 20, 40, 40]], np.float32)
    truth = [Objects(box, np.array([0, 0]), np.array([False, True]))]
    one = {"boxes": torch.from_numpy(box[:1]), "labels": torch.tensor([0]), "scores": torch.tensor([0.9])}
    both = {"boxes": torch.from_numpy(box), "labels": torch.tensor([0, 0]), "scores": torch.tensor([0.5, 0.9])}
    for found in (one, both):
        assert detection.average_precision(pictures_of(truth), [found])["ap"] == pytest.approx(100)
    none = {name: value[:0] for name, value in both.items()}
    assert detection.average_precision(pictures_of(truth), [none]) == {"ap": 0.0, "ap50": 0.0, "ap75": 0.0}


# The detector.


def trained(of: Config, source: Source, place: tiny.Memory | None = None, **options: Any) -> Any:
    result, curve = trials.run(
        of, Runtime(checkpoint_seconds=0), pictures=source, place=place or tiny.Memory(), on_epoch=lambda line: None,
        **options,
    )  # fmt: skip
    return result["ap"], result["ap50"], [line["loss"] for line in curve]


@pytest.mark.slow
def test_it_learns_to_find_the_squares(tmp_path: Path) -> None:
    voc.write(tmp_path, {"trainval": range(40), "test": range(40, 56)})
    source = data.locate(tmp_path)
    _, ap50, losses = trained(config(source, epochs=20, width=16, base_lr=1.28), source)
    assert losses[-1] < losses[0] / 2
    assert ap50 > 50


@pytest.mark.slow
def test_killed_and_resumed_it_is_bit_for_bit_the_same(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.locate(folder)
    of = config(source)
    undisturbed = trained(of, source)
    monkeypatch.setattr(checkpoint, "EVERY", 1)
    for die_at in (2, 4):
        place = tiny.Memory(die_at=die_at)
        with pytest.raises(KeyboardInterrupt):
            trained(of, source, place)
        assert trained(of, source, place) == undisturbed


def test_at_width_64_it_is_torchvisions_faster_rcnn_in_every_size(folder: Path) -> None:
    of = config(data.locate(folder), backbone="resnet50", width=64, image_size=800)
    ours = detection.detector(of, 20, None)
    theirs = fasterrcnn_resnet50_fpn(weights=None, weights_backbone=None, num_classes=21)
    sizes = [sorted(tuple(p.shape) for p in each.parameters()) for each in (ours, theirs)]
    assert sizes[0] == sizes[1]
    assert ours.rpn.anchor_generator.sizes == theirs.rpn.anchor_generator.sizes
    assert (ours.transform.min_size[-1], ours.transform.max_size) == (theirs.transform.min_size[0], 1333)


def test_it_starts_from_the_encoder(folder: Path) -> None:
    source = data.locate(folder)
    body = detection.detector(config(source, seed=3), 2, None).backbone.body
    weights = {name: value + 1 for name, value in body.state_dict().items()}
    found = detection.detector(config(source), 2, weights).backbone.body.state_dict()
    assert all(torch.equal(found[name], value) for name, value in weights.items())
    assert encoder.network({name: tuple(value.shape) for name, value in weights.items()})["backbone"] == "resnet10"


def test_the_learning_rate_is_warmed_up_and_falls_twice(folder: Path) -> None:
    source = data.locate(folder)
    of = config(source, epochs=400)
    run = detection._Run(
        of, detection.detector(of, 2, None), data.read(source, TRAIN), torch.device("cpu"), tiny.checkpointer(of)
    )
    every = 400 * 3
    lrs = [run._lr(step) / of.lr for step in (0, 49, 99, every * 3 // 4 - 1, every * 3 // 4, every * 11 // 12)]
    assert lrs == pytest.approx([0.01, 0.5, 1, 1, 0.1, 0.01])


# By a command.


@pytest.mark.slow
def test_the_table_of_detection_on_a_tiny_folder(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", *tiny.OVERRIDES, "--keep-checkpoints"]
    assert run.main([*kept, "--results", str(tmp_path)]) == 0
    command = [
        "--table",
        "detection",
        "--from",
        "stop_gradient/with",
        "--data",
        str(folder),
        "--results",
        str(tmp_path),
    ]
    small = [part for of in ("image_size=32", "batch_size=6", "epochs=1") for part in ("--set", of)]
    trained_before = results.load("stop_gradient", root=tmp_path).fingerprint[0]
    capsys.readouterr()
    assert run.main([*command, *small, "--plan"]) == 0
    told = capsys.readouterr().out
    assert "  detection/imagenet_supervised seed 0: infeasible\n" in told
    assert "Infeasible: detection/imagenet_supervised: torchvision's weights cannot be had" in told
    assert run.main([*command, *small, "--launcher", "local"]) == 0
    assert "| AP50 |" in capsys.readouterr().out
    first = results.load("detection", root=tmp_path)
    assert list(first.outcome) == ["finished", "infeasible", "finished"]
    assert first.ap[[0, 2]].between(0, 100).all()
    assert first.encoder[2] == encoder.digest(encoders.weights(trained_before, Store.at(tmp_path)))
    assert first.knn_top1.isna().all()

    monkeypatch.setenv("RAY_ADDRESS", "local")
    for name in first.fingerprint[[0, 2]]:
        (tmp_path / "trials" / f"{name}.parquet").unlink()
    assert run.main([*command, *small, "--launcher", "ray"]) == 0
    again = results.load("detection", root=tmp_path)
    for name in ("ap", "ap50", "ap75", "loss"):
        pd.testing.assert_series_equal(again[name], first[name])
    assert again.ray.notna().any()

    assert run.main([*command, *[part.replace("epochs=1", "epochs=2") for part in small], "--launcher", "local"]) == 0
    (tmp_path / "report.html").unlink(missing_ok=True)
    assert report.main(["--results", str(tmp_path), "--format", "markdown"]) == 0
    text = capsys.readouterr().out
    assert "We fine-tune all of torchvision's Faster R-CNN with a feature pyramid" in text
    assert "not recorded" not in text
    assert report.main(["--results", str(tmp_path)]) == 0  # two lengths, which no kNN ranks


def test_detection_and_other_methods_need_their_own_data(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def plan(table: str, data_name: str, **changes: Any) -> None:
        starts = dict(digest="0" * 16, network=dict(backbone="resnet10", stem="cifar", width=4), origin="x")
        asked = dict(batch_size=4, **changes)
        planning.plan(
            catalogue.get(table), recipe="digits", data=data_name, train_images=100, overrides=asked,
            encoders=lambda kind, fields: tables.Encoder(**starts),
        )  # fmt: skip

    plan("detection", "voc@0")
    for table, name in (("detection", "digits@0"), ("stop_gradient", "voc@0")):
        with pytest.raises(UserError, match="boxes, "):
            plan(table, name)
    with pytest.raises(UserError, match=r"trains on all pictures: train_images must be none\. Got 50 instead\."):
        plan("detection", "voc@0", train_images=50)
    monkeypatch.setattr(planning.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r'pip install -e "\.\[detection\]"'):
        plan("detection", "voc@0")


def test_several_workers_are_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = data.locate(folder)
    monkeypatch.setattr(detection.distributed, "world_size", lambda: 2)
    with pytest.raises(ValueError, match=r"method=detection has one worker. Got 2"):
        trained(config(source), source)


def test_several_workers_are_refused_before_anything_starts(folder: Path) -> None:
    command = ["--table", "detection", "--data", str(folder), "--weights", "x", "--set", "batch_size=4"]
    starts = tables.Encoder(digest="0" * 16, network=dict(backbone="resnet10", stem="cifar", width=4), origin="x")
    for workers, infeasible in (
        ("1", None),
        ("2", "method=detection has one worker. Got --workers 2: use --workers 1."),
    ):
        asked = options.parser().parse_args([*command, "--workers", workers])
        trials = request.read(asked, lambda kind, fields: starts).trials((0,))
        assert [trial.infeasible for trial in trials] == [infeasible] * 3


def test_a_box_outside_of_its_picture_is_named(tmp_path: Path) -> None:
    voc.write(tmp_path, {"trainval": range(4), "test": range(4, 6)})
    file = tmp_path / "Annotations" / "000000.xml"
    file.write_text(file.read_text().replace("<xmax>", "<xmax>9", 1))
    source = data.locate(tmp_path)
    with pytest.raises(DataError, match=r"A box lies outside of .*000000.jpg"):
        trained(config(source, epochs=1), source)
