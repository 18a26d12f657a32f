"""What follows the crop, against torchvision, picture by picture. The crop is in test_crops.py."""

from __future__ import annotations

import colorsys
from typing import Any

import numpy as np
import pytest
import torch
import torchvision.transforms.functional as F
from conftest import digits
from scipy import stats
from torch import Tensor

from simsiam import views
from simsiam.config import Config
from simsiam.randomness import uniform

MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
# Every part of the augmentation on, unlike in the digits' recipe.
ALL = dict(flip_p=0.5, jitter_p=0.8, brightness=0.4, contrast=0.4, saturation=0.4, hue=0.1, grayscale_p=0.2)
OFF = dict(flip_p=0.0, jitter_p=0.0, grayscale_p=0.0, blur_p=0.0)


def augment(pixels: Tensor, config: Config, epoch: int, ids: views.Ids, view: int) -> Tensor:
    return views.augment(pixels, torch.from_numpy(views.draw(config, epoch, ids, view)), config)


def noise(n: int, size: int = 12, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=generator)


def full(**changes: Any) -> Config:
    return digits(**{**ALL, "blur_p": 0.5, **changes})


def only(**changes: Any) -> Config:
    return digits(**{**OFF, **changes})


def colours(n: int) -> Tensor:
    """Float pictures in [0, 1] with plain corners: black, white, gray, and pure and half colours."""
    x = noise(n, seed=3).float() / 255
    plain = torch.cartesian_prod(*[torch.tensor([0.0, 0.5, 1.0])] * 3)
    x.flatten(2)[:, :, : len(plain)] = plain.T
    return x


def factors(n: int, low: float, high: float) -> Tensor:
    return torch.linspace(low, high, n).view(-1, 1, 1, 1)


@pytest.mark.parametrize(
    ("name", "low", "high"),
    [("brightness", 0.0, 2.0), ("contrast", 0.0, 2.0), ("saturation", 0.0, 2.0), ("hue", -0.5, 0.5)],
)
def test_each_part_of_the_jitter_is_torchvisions(name: str, low: float, high: float) -> None:
    x, factor = colours(21), factors(21, low, high)
    got = getattr(views, f"adjust_{name}")(x, factor)
    theirs = getattr(F, f"adjust_{name}")
    for i in range(21):
        torch.testing.assert_close(got[i], theirs(x[i], factor[i].item()), atol=1e-5, rtol=0)


def test_blur_is_torchvisions_with_a_sigma_each() -> None:
    x, sigma = colours(20), torch.linspace(0.1, 2.0, 20)
    got = views.blur(x, sigma)
    for i in range(20):
        theirs = F.gaussian_blur(x[i], kernel_size=[13, 13], sigma=[sigma[i].item()] * 2)
        torch.testing.assert_close(got[i], theirs, atol=1e-6, rtol=0)


def test_blur_of_a_picture_smaller_than_the_kernel_mirrors_what_there_is() -> None:
    x = torch.rand(3, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    got = views.blur(x, torch.tensor([0.3, 0.6, 1.0]))
    for i, sigma in enumerate((0.3, 0.6, 1.0)):
        theirs = F.gaussian_blur(x[i], kernel_size=[7, 7], sigma=[sigma] * 2)
        torch.testing.assert_close(got[i], theirs, atol=1e-6, rtol=0)


def test_normalise_is_torchvisions_for_bytes_and_floats() -> None:
    pixels = noise(3)
    expected = F.normalize(pixels.float() / 255, MEAN, STD)
    for given in (pixels, pixels.float() / 255):
        got = views.normalise(given)
        assert got.dtype == torch.float32
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


def composed(pixels: Tensor, config: Config, epoch: int, i: int, view: int) -> Tensor:
    """One view by torchvision's functions alone, from the numbers that this view is drawn with."""

    def draw(name: str) -> float:
        return float(uniform("view", config.seed, epoch, i, view, name)[0])

    x = pixels.float() / 255
    if draw("jitter") < config.jitter_p:
        x = F.adjust_brightness(x, 1 + config.brightness * (2 * draw("brightness") - 1))
        x = F.adjust_contrast(x, 1 + config.contrast * (2 * draw("contrast") - 1))
        x = F.adjust_saturation(x, 1 + config.saturation * (2 * draw("saturation") - 1))
        x = F.adjust_hue(x, config.hue * (2 * draw("hue") - 1))
    if draw("grayscale") < config.grayscale_p:
        x = F.rgb_to_grayscale(x, num_output_channels=3)
    if draw("blur") < config.blur_p:
        x = F.gaussian_blur(x, kernel_size=[13, 13], sigma=[0.1 + 1.9 * draw("sigma")] * 2)
    if draw("flip") < config.flip_p:
        x = F.hflip(x)
    return F.normalize(x, MEAN, STD)


@pytest.mark.parametrize("changes", [{}, {"saturation": 0.0, "hue": 0.0}, {"brightness": 1.0, "hue": 0.5}])
@pytest.mark.parametrize(("seed", "epoch", "view"), [(0, 0, 0), (3, 7, 1), (0, 1, 3)])
def test_a_view_is_torchvisions_functions_in_the_order_of_the_paper(
    changes: dict[str, float], seed: int, epoch: int, view: int
) -> None:
    config, ids, pixels = full(seed=seed, **changes), np.arange(100, 140), noise(40)
    got = augment(pixels, config, epoch, ids, view)
    assert got.dtype == torch.float32
    for row, i in enumerate(ids):
        expected = composed(pixels[row], config, epoch, int(i), view)
        torch.testing.assert_close(got[row], expected, atol=1e-4, rtol=0)


def test_probability_zero_is_never() -> None:
    pixels, ids = noise(300), np.arange(300)
    got = augment(pixels, only(), 0, ids, 0)
    torch.testing.assert_close(got, F.normalize(pixels.float() / 255, MEAN, STD), atol=1e-6, rtol=0)


def test_probability_one_is_always() -> None:
    pixels, ids = noise(300), np.arange(300)
    plain = F.normalize(pixels.float() / 255, MEAN, STD)

    def changed(**changes: float) -> Tensor:
        return augment(pixels, only(**changes), 0, ids, 0)

    torch.testing.assert_close(changed(flip_p=1.0), plain.flip(-1), atol=1e-6, rtol=0)
    gray = F.normalize(F.rgb_to_grayscale(pixels.float() / 255, 3), MEAN, STD)
    torch.testing.assert_close(changed(grayscale_p=1.0), gray, atol=1e-5, rtol=0)
    assert differs(changed(jitter_p=1.0, brightness=0.4), plain).all()
    # A sigma of 0.1 leaves a picture as it is: the narrowest kernels round to nothing.
    assert differs(changed(blur_p=1.0), plain).float().mean() > 0.95


def differs(one: Tensor, two: Tensor) -> Tensor:
    return (one - two).abs().flatten(1).amax(1) > 1e-5


EVENTS = {
    "flip": dict(flip_p=0.3),
    "jitter": dict(jitter_p=0.8, contrast=1.0),
    "grayscale": dict(grayscale_p=0.2),
    "blur": dict(blur_p=0.6),
}


@pytest.mark.parametrize("event", EVENTS)
def test_each_event_is_as_frequent_as_asked(event: str) -> None:
    n = 5000
    pixels, ids = noise(n, size=6), np.arange(n)
    plain = augment(pixels, only(), 0, ids, 0)
    for view in (0, 1):
        seen = int(differs(augment(pixels, only(**EVENTS[event]), 0, ids, view), plain).sum())
        p = EVENTS[event][f"{event}_p"]
        if event == "blur":
            p *= 1 - 0.1 / 1.9  # a sigma from 0.1 to about 0.2 changes nothing that is seen
        assert abs(seen - p * n) < 4 * np.sqrt(n * p * (1 - p))


def test_events_are_independent_of_each_other_and_of_the_other_view() -> None:
    n = 4000
    pixels, ids = noise(n, size=4), np.arange(n)
    plain = augment(pixels, only(), 0, ids, 0)
    seen = [
        differs(augment(pixels, only(**{f"{name}_p": 0.5}), 0, ids, view), plain).double()
        for name in ("flip", "grayscale")
        for view in (0, 1)
    ]
    correlation = torch.corrcoef(torch.stack(seen)) - torch.eye(4)
    assert correlation.abs().max() < 4 / np.sqrt(n)


def test_brightness_is_uniform_around_one() -> None:
    n = 3000
    pixels = torch.full((n, 3, 4, 4), 100, dtype=torch.uint8)
    view = augment(pixels, only(jitter_p=1.0, brightness=0.4), 0, np.arange(n), 0)
    factor = (view[:, 0, 0, 0] * STD[0] + MEAN[0]) / (100 / 255)
    assert stats.kstest(factor.numpy(), stats.uniform(0.6, 0.8).cdf).pvalue > 1e-3


def test_hue_is_uniform_around_zero() -> None:
    n = 1000
    pixels = torch.tensor([0, 255, 0], dtype=torch.uint8).view(1, 3, 1, 1).expand(n, 3, 4, 4)
    view = augment(pixels, only(jitter_p=1.0, hue=0.1), 0, np.arange(n), 0)
    rgb = view[:, :, 0, 0] * torch.tensor(STD) + torch.tensor(MEAN)
    turned = [colorsys.rgb_to_hsv(*colour)[0] - 1 / 3 for colour in rgb.tolist()]
    assert stats.kstest(turned, stats.uniform(-0.1, 0.2).cdf).pvalue > 1e-3


def test_sigma_of_the_blur_is_uniform() -> None:
    n = 2000
    pixels = torch.zeros(n, 3, 16, 16, dtype=torch.uint8)
    pixels[:, :, 8, 8] = 255
    view = augment(pixels, only(blur_p=1.0), 0, np.arange(n), 0)[:, 0].double() * STD[0] + MEAN[0]
    # A Gaussian falls by exp(-1 / (2 sigma^2)) from the middle to its neighbour.
    ratio = (view[:, 8, 9] / view[:, 8, 8]).clamp(min=1e-12)
    sigma = (-0.5 / ratio.log()).sqrt()
    wide = sigma[sigma > 0.4].numpy()
    assert abs(len(wide) - n * 1.6 / 1.9) < 4 * np.sqrt(n * 1.6 / 1.9 * 0.3 / 1.9)
    assert stats.kstest(wide, stats.uniform(0.4, 1.6).cdf).pvalue > 1e-3


def test_a_view_depends_on_seed_epoch_view_and_sample() -> None:
    pixels = noise(1).expand(50, -1, -1, -1)
    ids = np.arange(50)
    base = augment(pixels, full(seed=0), 0, ids, 0)
    others = [
        augment(pixels, full(seed=1), 0, ids, 0),
        augment(pixels, full(seed=0), 1, ids, 0),
        augment(pixels, full(seed=0), 0, ids, 1),
        augment(pixels, full(seed=0), 0, ids + 50, 0),
    ]
    for other in others:
        assert differs(other, base).float().mean() > 0.9
    assert differs(base[1:], base[:-1]).float().mean() > 0.9


def test_a_view_is_the_same_bits_in_any_batch() -> None:
    pixels, ids, config = noise(24, size=17), np.arange(1000, 1024), full(seed=2)
    whole = augment(pixels, config, 5, ids, 1)
    order = np.random.default_rng(0).permutation(24)
    chosen = torch.from_numpy(order)
    assert torch.equal(augment(pixels[chosen], config, 5, ids[order], 1), whole[chosen])
    for part in (slice(0, 1), slice(5, 6), slice(7, 12), slice(1, 24)):
        assert torch.equal(augment(pixels[part], config, 5, ids[part], 1), whole[part])


def test_pixels_given_are_left_alone() -> None:
    pixels = noise(8)
    before = pixels.clone()
    augment(pixels, full(), 0, np.arange(8), 0)
    assert torch.equal(pixels, before)


def test_probability_one_is_always_for_the_largest_draw_too() -> None:
    ids = np.array([32983521])  # its draw is 1 - 1e-8
    assert uniform("view", 0, 0, ids, 0, "flip") < 1
    pixels = noise(1)
    got = augment(pixels, only(flip_p=1.0), 0, ids, 0)
    torch.testing.assert_close(got, F.normalize(pixels.float() / 255, MEAN, STD).flip(-1))
