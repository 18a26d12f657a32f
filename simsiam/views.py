"""Two views of a batch as a pure function of (seed, epoch, sample, view): App. A's augmentations, batched.

Every parameter is drawn on the host from the hash in randomness.py, for many pictures at once; the pixels are computed
where the batch is, without another word from the host.
torchvision applies the four parts of its colour jitter in a random order; here the order is fixed: brightness,
contrast, saturation, hue. The rest is as in torchvision, image by image.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from simsiam import randomness
from simsiam.config import Config

Ids = npt.NDArray[np.integer]  # (B,) sample ids: rows of the training set
Boxes = npt.NDArray[np.int64]  # (B, 4) top, left, height, width in pixels

# The columns of what `draw` draws for each picture of a view. An event is 1 or 0, whether it happens.
DRAWN = ("jitter", "brightness", "contrast", "saturation", "hue", "grayscale", "blur", "sigma", "flip")

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for every data set
STD = (0.229, 0.224, 0.225)
SIGMA = (0.1, 2.0)  # of the blur, pixels
_RADIUS = 6  # of its kernel: three times the largest sigma
_TRIES = 10  # of the random crop, as in torchvision
_CACHED = 1 << 19  # numbers of pictures that a CPU works on at once: with what is made of them, they fit in its cache


@dataclass(frozen=True)
class RandomCrop:
    """torchvision's RandomResizedCrop with ratio 3/4 to 4/3. Each of its ten tries has an index of its own."""

    seed: int
    epoch: int
    view: int
    min_area: float

    def boxes(self, ids: Ids, sizes: npt.NDArray[np.integer]) -> Boxes:
        """Pictures of `sizes` (B, 2), height and width in pixels -> their crop boxes."""
        height, width = sizes[:, 0].astype(np.float64), sizes[:, 1].astype(np.float64)
        picture = randomness.bits("crop", self.seed, self.epoch, ids, self.view)  # (B,)
        chosen = _widest(height, width)  # (B, 4) as floats
        left = np.arange(len(ids))  # the rows that no try has fitted yet
        for number in range(_TRIES):
            w, h = self._sides(picture[left], number, height[left] * width[left])
            fits = (w > 0) & (w <= width[left]) & (h > 0) & (h <= height[left])
            chosen[left[fits], 2:] = np.stack([h, w], 1)[fits]
            left = left[~fits]
            if not len(left):
                break
        placed = np.ones(len(ids), bool)
        placed[left] = False
        top, side = (randomness.uniform(name, 0, after=picture) for name in ("top", "left"))
        h, w = chosen[:, 2], chosen[:, 3]
        corner = np.stack([np.floor(top * (height - h + 1)), np.floor(side * (width - w + 1))], 1)
        chosen[placed, :2] = corner[placed]
        return chosen.astype(np.int64)

    def _sides(
        self, picture: npt.NDArray[np.uint64], number: int, area: npt.NDArray[np.float64]
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Width and height that try `number` gives, for pictures of `area` pixels."""
        area = area * (self.min_area + (1 - self.min_area) * randomness.uniform("area", number, after=picture))
        low, high = np.log(3 / 4), np.log(4 / 3)
        ratio = np.exp(low + (high - low) * randomness.uniform("ratio", number, after=picture))
        return np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))


@dataclass(frozen=True)
class CenterCrop:
    """The central square, `fraction` of the short side."""

    fraction: float = 1.0

    def boxes(self, ids: Ids, sizes: npt.NDArray[np.integer]) -> Boxes:
        side = np.rint(sizes.min(1) * self.fraction).astype(np.int64)
        return np.stack([(sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side], 1)


Crop = RandomCrop | CenterCrop


def draw(config: Config, epoch: int, ids: Ids, view: int) -> npt.NDArray[np.float32]:
    """The numbers behind a view of each picture, (B, len(DRAWN)); 0 where the Config has no use for one."""
    picture = randomness.bits("view", config.seed, epoch, ids, view)
    ranges = {
        "brightness": (1 - config.brightness, 1 + config.brightness) if config.brightness else None,
        "contrast": (1 - config.contrast, 1 + config.contrast) if config.contrast else None,
        "saturation": (1 - config.saturation, 1 + config.saturation) if config.saturation else None,
        "hue": (-config.hue, config.hue) if config.hue else None,
        "sigma": SIGMA if config.blur_p else None,
    }
    chances = {name: getattr(config, f"{name}_p") for name in ("jitter", "grayscale", "blur", "flip")}
    drawn = np.zeros((len(ids), len(DRAWN)), np.float32)
    for column, name in enumerate(DRAWN):
        if p := chances.get(name):
            drawn[:, column] = randomness.uniform(name, after=picture) < p  # before rounding, which could make it 1
        elif bounds := ranges.get(name):
            low, high = bounds
            drawn[:, column] = low + (high - low) * randomness.uniform(name, after=picture)
    return drawn


def resized_crop(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    """Crops of uint8 pictures (B, 3, H, W), bilinear, antialiased as torchvision's -> uint8 (B, 3, size, size).

    `boxes` (B, 4) lie where the pictures lie. A product of matrices: not for an autocast or TF32 region.
    """
    return _in_pieces(functools.partial(_resized_crop, size=size), pixels, boxes)


def _resized_crop(pixels: Tensor, boxes: Tensor, size: int) -> Tensor:
    box = boxes.float()
    rows = _triangle(box[:, 0], box[:, 2], pixels.shape[2], size)[:, None]  # (B, 1, size, H)
    columns = _triangle(box[:, 1], box[:, 3], pixels.shape[3], size)[:, None]
    return (rows @ pixels.float() @ columns.transpose(2, 3)).round_().clamp_(0, 255).to(torch.uint8)


def augment(pixels: Tensor, drawn: Tensor, config: Config) -> Tensor:
    """Cropped uint8 pictures (B, 3, S, S) and what was drawn for them (B, len(DRAWN)) -> a view: float32, normalised.

    Jitter, grayscale, blur and flip, in the order of the released code (App. A).
    """
    return _in_pieces(functools.partial(_augment, config=config), pixels, drawn)


def _in_pieces(function: Callable[[Tensor, Tensor], Tensor], pixels: Tensor, given: Tensor) -> Tensor:
    """A function of pictures and of what is given for each. On a CPU of few at a time, which halves its time."""
    rows = max(1, _CACHED // max(1, pixels[0].numel()))
    if pixels.device.type != "cpu" or len(pixels) <= rows:
        return function(pixels, given)
    return torch.cat([function(*each) for each in zip(pixels.split(rows), given.split(rows), strict=True)])


def _augment(pixels: Tensor, drawn: Tensor, config: Config) -> Tensor:
    number = dict(zip(DRAWN, drawn.view(len(pixels), -1, 1, 1, 1).unbind(1), strict=True))  # (B, 1, 1, 1) each
    happens = {name: number[name] > 0 for name in ("jitter", "grayscale", "blur", "flip")}
    x = pixels.float() / 255
    if config.jitter_p:
        x = torch.where(happens["jitter"], _jitter(x, config, number), x)
    if config.grayscale_p:
        x = torch.where(happens["grayscale"], _gray(x).expand_as(x), x)
    if config.blur_p:
        x = torch.where(happens["blur"], blur(x, number["sigma"].flatten()), x)
    if config.flip_p:
        x = torch.where(happens["flip"], x.flip(-1), x)
    return normalise(x)


def normalise(x: Tensor) -> Tensor:
    """Pictures in [0, 1], or uint8, of shape (B, 3, H, W) -> float32 with the mean and std the network sees."""
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    return (x - constant(MEAN, x.device)) / constant(STD, x.device)


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """One number a channel, (1, 3, 1, 1): on the device since it was asked for first."""
    return torch.tensor(values, device=device).view(1, 3, 1, 1)


def adjust_brightness(x: Tensor, factor: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1] with a factor each, (B, 1, 1, 1). So for the next two."""
    return (x * factor).clamp(0, 1)


def adjust_contrast(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, _gray(x).mean((1, 2, 3), keepdim=True), factor)


def adjust_saturation(x: Tensor, factor: Tensor) -> Tensor:
    return _blend(x, _gray(x), factor)


def adjust_hue(x: Tensor, shift: Tensor) -> Tensor:
    """Pictures (B, 3, H, W) in [0, 1], their hue turned by `shift` (B, 1, 1, 1), in turns."""
    r, g, b = x.unbind(1)
    value, low = x.amax(1), x.amin(1)
    chroma = value - low
    safe = torch.where(chroma > 0, chroma, 1)
    sector = torch.where(value == r, (g - b) / safe, torch.where(value == g, (b - r) / safe + 2, (r - g) / safe + 4))
    # Each channel of the hexagonal model is the same ramp at another angle.
    k = constant((5.0, 3.0, 1.0), x.device) + (sector + 6 * shift[:, 0])[:, None]
    k = k - 6 * (k / 6).floor()
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of pictures (B, 3, H, W) with a sigma each, (B,) pixels; the border is mirrored."""
    radius = min(_RADIUS, min(x.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).repeat_interleave(3, 0)[:, None]  # (3 B, 1, 2 r + 1)
    padded = F.pad(x, (radius,) * 4, mode="reflect").flatten(0, 1)[None]  # a picture's channel is a group of its own
    rows = F.conv2d(padded, kernel[..., None], groups=len(kernel))
    return F.conv2d(rows, kernel[:, :, None], groups=len(kernel)).view_as(x)


def _jitter(x: Tensor, config: Config, number: Mapping[str, Tensor]) -> Tensor:
    for name, adjust in (
        ("brightness", adjust_brightness),
        ("contrast", adjust_contrast),
        ("saturation", adjust_saturation),
        ("hue", adjust_hue),
    ):
        if getattr(config, name):
            x = adjust(x, number[name])
    return x


def _gray(x: Tensor) -> Tensor:
    return 0.2989 * x[:, :1] + 0.587 * x[:, 1:2] + 0.114 * x[:, 2:]


def _blend(x: Tensor, other: Tensor, factor: Tensor) -> Tensor:
    return (factor * x + (1 - factor) * other).clamp(0, 1)


def _triangle(start: Tensor, length: Tensor, pixels: int, size: int) -> Tensor:
    """Weights (B, size, pixels) that resample start .. start + length (B,) of a line of pixels to `size` pixels."""
    scale = (length / size).view(-1, 1, 1)
    center = start.view(-1, 1, 1) + (torch.arange(size, device=start.device).view(1, -1, 1) + 0.5) * scale
    j = torch.arange(pixels, device=start.device).view(1, 1, -1)
    weights = (1 - (j + 0.5 - center).abs() / scale.clamp(min=1)).clamp(min=0)
    inside = (j >= start.view(-1, 1, 1)) & (j < (start + length).view(-1, 1, 1))
    weights = weights * inside
    return weights / weights.sum(2, keepdim=True)


def _widest(height: npt.NDArray[np.float64], width: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """The largest central box of an allowed ratio: what torchvision takes when no try fits."""
    w = np.minimum(width, np.rint(height * 4 / 3))
    h = np.minimum(height, np.rint(width / (3 / 4)))
    return np.stack([(height - h) // 2, (width - w) // 2, h, w], 1)
