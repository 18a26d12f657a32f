"""Crop boxes against torchvision's RandomResizedCrop, and their pixels against torchvision and PIL."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from conftest import batch, digits
from PIL import Image
from scipy import stats
from torchvision.transforms import InterpolationMode, RandomResizedCrop
from torchvision.transforms.v2 import functional as F

from simsiam import views
from simsiam.loader import InMemory
from simsiam.randomness import uniform

RATIO = [3 / 4, 4 / 3]


def crop(min_area: float = 0.2, *, seed: int = 0, epoch: int = 0, view: int = 0) -> views.RandomCrop:
    return views.RandomCrop(seed, epoch, view, min_area)


def sizes(n: int, height: int, width: int) -> views.Boxes:
    return np.tile([[height, width]], (n, 1))


def features(boxes: views.Boxes, height: int, width: int) -> dict[str, np.ndarray]:
    top, left, h, w = boxes.T.astype(np.float64)
    with np.errstate(invalid="ignore"):
        at = {"top": top / (height - h), "left": left / (width - w)}
    return {"area": h * w, "ratio": w / h, **{name: x[np.isfinite(x)] for name, x in at.items()}}


@pytest.mark.parametrize(
    ("height", "width", "min_area"), [(40, 60, 0.2), (32, 32, 0.08), (500, 375, 0.4), (90, 30, 0.2)]
)
def test_boxes_are_distributed_as_torchvisions(height: int, width: int, min_area: float) -> None:
    n = 2500
    picture = torch.empty(3, height, width)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = [RandomResizedCrop.get_params(picture, [min_area, 1.0], RATIO) for _ in range(n)]
    ours = crop(min_area).boxes(np.arange(n), sizes(n, height, width))
    expected = features(np.array(theirs), height, width)
    for name, got in features(ours, height, width).items():
        assert stats.ks_2samp(got, expected[name]).pvalue > 1e-3, name


@pytest.mark.parametrize(("height", "width"), [(40, 60), (33, 31), (9, 8), (1, 1), (300, 20), (2, 900)])
@pytest.mark.parametrize("min_area", [0.05, 0.2, 1.0])
def test_boxes_keep_their_limits(height: int, width: int, min_area: float) -> None:
    n = 3000
    top, left, h, w = crop(min_area).boxes(np.arange(n), sizes(n, height, width)).T
    assert min(top.min(), left.min()) >= 0
    assert min(h.min(), w.min()) >= 1
    assert (top + h).max() <= height
    assert (left + w).max() <= width
    # Each side is rounded by at most a half.
    assert ((w + 0.5) * 4 >= (h - 0.5) * 3).all()
    assert ((h + 0.5) * 4 >= (w - 0.5) * 3).all()
    if 3 / 4 <= width / height <= 4 / 3:
        assert ((h + 0.5) * (w + 0.5) >= min_area * height * width).all()


def test_boxes_reach_every_edge() -> None:
    n = 3000
    top, left, h, w = crop().boxes(np.arange(n), sizes(n, 12, 12)).T
    for start, length in ((top, h), (left, w)):
        assert ((start == 0) & (length < 9)).any()
        assert ((start + length == 12) & (length < 9)).any()


def by_hand(i: int, height: int, width: int, box: views.RandomCrop) -> tuple[int, int, int, int] | None:
    """torchvision's loop over ten tries for one picture, with the numbers that the crop is drawn with."""

    def draw(name: str, k: int) -> float:
        return float(uniform("crop", box.seed, box.epoch, i, box.view, name, k)[0])

    for k in range(10):
        area = height * width * (box.min_area + (1 - box.min_area) * draw("area", k))
        ratio = math.exp(math.log(3 / 4) + (math.log(4 / 3) - math.log(3 / 4)) * draw("ratio", k))
        w, h = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < w <= width and 0 < h <= height:
            return int(draw("top", 0) * (height - h + 1)), int(draw("left", 0) * (width - w + 1)), h, w
    return None


@pytest.mark.parametrize(("height", "width"), [(40, 60), (32, 32), (30, 75), (200, 90)])
def test_the_first_try_that_fits_is_taken(height: int, width: int) -> None:
    box, n = crop(seed=3, epoch=9, view=1), 150
    got = box.boxes(np.arange(n), sizes(n, height, width))
    expected = [by_hand(i, height, width, box) for i in range(n)]
    assert got.tolist() == [list(one or fallback(height, width)) for one in expected]
    assert len({one for one in expected if one is not None}) > n / 2


def fallback(height: int, width: int) -> tuple[int, int, int, int]:
    # A crop of fifty times the area never fits.
    return RandomResizedCrop.get_params(torch.empty(3, height, width), [50.0, 50.0], RATIO)


@pytest.mark.parametrize(
    ("height", "width"), [(10, 400), (400, 10), (7, 333), (333, 7), (1, 50), (50, 1), (11, 44), (45, 11)]
)
def test_pictures_that_no_try_fits_give_torchvisions_central_box(height: int, width: int) -> None:
    got = crop(0.9).boxes(np.arange(30), sizes(30, height, width))
    assert got.tolist() == [list(fallback(height, width))] * 30


def test_a_picture_of_allowed_ratio_that_no_try_fits_is_taken_whole() -> None:
    # A min_area of 1 fits a square only at a ratio of nearly 1, so most samples use up their tries.
    got = crop(1.0).boxes(np.arange(200), sizes(200, 224, 224))
    assert ((got == [0, 0, 224, 224]).all(1)).mean() > 0.9


def test_a_box_depends_on_its_own_picture_alone() -> None:
    box, ids = crop(seed=5), np.arange(1000, 1060)
    shapes = np.random.default_rng(0).integers(5, 90, (60, 2))
    together = box.boxes(ids, shapes)
    order = np.random.default_rng(1).permutation(60)
    assert (box.boxes(ids[order], shapes[order]) == together[order]).all()
    for k in range(60):
        assert (box.boxes(ids[k : k + 1], shapes[k : k + 1]) == together[k]).all()


@pytest.mark.parametrize("changes", [{"seed": 1}, {"epoch": 1}, {"view": 1}])
def test_seed_epoch_and_view_each_give_other_boxes(changes: dict[str, int]) -> None:
    ids, shape = np.arange(200), sizes(200, 100, 100)
    same = (crop().boxes(ids, shape) == crop(**changes).boxes(ids, shape)).all(1)
    assert same.mean() < 0.05


def test_neighbouring_samples_have_other_boxes() -> None:
    boxes = crop().boxes(np.arange(200), sizes(200, 100, 100))
    assert len({tuple(box) for box in boxes.tolist()}) > 190


@pytest.mark.parametrize(("height", "width", "box"), [(40, 60, [0, 10, 40, 40]), (61, 40, [10, 0, 40, 40])])
def test_center_crop_is_the_central_square(height: int, width: int, box: list[int]) -> None:
    assert views.CenterCrop().boxes(np.arange(2), sizes(2, height, width)).tolist() == [box] * 2


def test_center_crop_takes_a_fraction_of_the_short_side() -> None:
    got = views.CenterCrop(224 / 256).boxes(np.arange(1), sizes(1, 256, 320))
    assert got.tolist() == [[16, 48, 224, 224]]


def pictures(n: int, height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * width)
    return torch.randint(0, 256, (n, 3, height, width), dtype=torch.uint8, generator=generator)


SHAPES = [(37, 53, 16), (8, 8, 16), (60, 45, 96), (20, 20, 20), (9, 120, 5), (224, 224, 32)]


def some_boxes(n: int, height: int, width: int) -> views.Boxes:
    """Random boxes of any shape, and the whole, a pixel in a corner, and lines of pixels."""
    rng = np.random.default_rng(0)
    h, w = rng.integers(1, height + 1, n), rng.integers(1, width + 1, n)
    boxes = np.stack([rng.integers(0, height - h + 1), rng.integers(0, width - w + 1), h, w], 1)
    plain = [(0, 0, height, width), (height - 1, width - 1, 1, 1), (0, 2, height, 1), (3, 0, 1, width)]
    boxes[:4] = plain
    return boxes


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_resized_crop_is_torchvisions(height: int, width: int, size: int) -> None:
    n = 16
    pixels, boxes = pictures(n, height, width), some_boxes(n, height, width)
    got = views.resized_crop(pixels, torch.from_numpy(boxes), size)
    assert got.dtype == torch.uint8
    assert got.shape == (n, 3, size, size)
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        box = (top, left, h, w, [size, size], InterpolationMode.BILINEAR)
        theirs = F.resized_crop(pixels[i], *box, antialias=True)
        # torchvision computes bytes with integer weights.
        assert (got[i].int() - theirs.int()).abs().max() <= 1
        exact = F.resized_crop(pixels[i].double(), *box, antialias=True)
        assert (got[i] - exact).abs().max() <= 0.5 + 1e-3


@pytest.mark.parametrize(("height", "width", "size"), SHAPES)
def test_resized_crop_is_pils(height: int, width: int, size: int) -> None:
    n = 16
    pixels, boxes = pictures(n, height, width), some_boxes(n, height, width)
    got = views.resized_crop(pixels, torch.from_numpy(boxes), size)
    for i, (top, left, h, w) in enumerate(boxes.tolist()):
        piece = Image.fromarray(pixels[i].permute(1, 2, 0).numpy()).crop((left, top, left + w, top + h))
        theirs = torch.from_numpy(np.array(piece.resize((size, size), Image.Resampling.BILINEAR)))
        # PIL rounds to bytes between its two passes.
        assert (got[i].permute(1, 2, 0).int() - theirs.int()).abs().max() <= 2


def test_whole_picture_at_its_own_size_is_itself() -> None:
    pixels = pictures(4, 24, 24)
    assert torch.equal(views.resized_crop(pixels, torch.tensor([[0, 0, 24, 24]] * 4), 24), pixels)


def test_crops_are_the_same_bits_in_any_batch() -> None:
    ids, config = np.arange(40), digits()
    for height, width, size in ((8, 8, 16), (96, 96, 64), (33, 47, 24)):
        images = InMemory(pictures(40, height, width), torch.zeros(40, dtype=torch.int64), size)
        crops = [crop(config.crop_min_area, view=view) for view in (0, 1)]
        whole = batch(images, ids, crops)
        order = np.random.default_rng(0).permutation(40)
        assert torch.equal(batch(images, ids[order], crops), whole[:, torch.from_numpy(order)])
        for part in (slice(0, 1), slice(17, 18), slice(3, 8)):
            assert torch.equal(batch(images, ids[part], crops), whole[:, part])
