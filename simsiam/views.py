"""Two views of a batch as a pure function of (seed, epoch, sample, view): App. A's augmentations, batched.

Every parameter is drawn on the host from the hash in randomness.py; the pixels are computed where the batch is.
torchvision applies the four parts of its colour jitter in a random order; here the order is fixed: brightness,
contrast, saturation, hue. The rest is as in torchvision, image by image.
"""

from __future__ import annotations

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

MEAN = (0.485, 0.456, 0.406)  # of ImageNet, for every data set
STD = (0.229, 0.224, 0.225)
SIGMA = (0.1, 2.0)  # of the blur, pixels
_RADIUS = 6  # of its kernel: three times the largest sigma
_TRIES = 10  # of the random crop, as in torchvision


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
        area = (height * width)[:, None] * (self.min_area + (1 - self.min_area) * self._draw(ids, "area"))
        low, high = np.log(3 / 4), np.log(4 / 3)
        ratio = np.exp(low + (high - low) * self._draw(ids, "ratio"))
        w, h = np.rint(np.sqrt(area * ratio)), np.rint(np.sqrt(area / ratio))  # (B, tries)
        fits = (w > 0) & (w <= width[:, None]) & (h > 0) & (h <= height[:, None])
        first = fits.argmax(1)[:, None]
        w, h = (np.take_along_axis(side, first, 1)[:, 0] for side in (w, h))
        top, left = self._draw(ids, "top")[:, 0], self._draw(ids, "left")[:, 0]
        box = np.stack([np.floor(top * (height - h + 1)), np.floor(left * (width - w + 1)), h, w], 1)
        return np.where(fits.any(1)[:, None], box, _widest(height, width)).astype(np.int64)

    def _draw(self, ids: Ids, parameter: str) -> npt.NDArray[np.float64]:
        return randomness.uniform("crop", self.seed, self.epoch, ids[:, None], self.view, parameter, np.arange(_TRIES))


@dataclass(frozen=True)
class CenterCrop:
    """The central square, `fraction` of the short side."""

    fraction: float = 1.0

    def boxes(self, ids: Ids, sizes: npt.NDArray[np.integer]) -> Boxes:
        side = np.rint(sizes.min(1) * self.fraction).astype(np.int64)
        return np.stack([(sizes[:, 0] - side) // 2, (sizes[:, 1] - side) // 2, side, side], 1)


Crop = RandomCrop | CenterCrop


def resized_crop(pixels: Tensor, boxes: Boxes, size: int) -> Tensor:
    """Crops of uint8 pictures (B, 3, H, W), bilinear, antialiased as torchvision's -> uint8 (B, 3, size, size)."""
    box = torch.from_numpy(boxes).to(pixels.device, torch.float32)
    rows = _triangle(box[:, 0], box[:, 2], pixels.shape[2], size)[:, None]  # (B, 1, size, H)
    columns = _triangle(box[:, 1], box[:, 3], pixels.shape[3], size)[:, None]
    return (rows @ pixels.float() @ columns.transpose(2, 3)).round_().clamp_(0, 255).to(torch.uint8)


def augment(pixels: Tensor, config: Config, epoch: int, ids: Ids, view: int) -> Tensor:
    """Cropped uint8 pictures (B, 3, S, S) -> a view: float32, normalised.

    Jitter, grayscale, blur and flip, in the order of the released code (App. A).
    """
    draw = _Draw(("view", config.seed, epoch, ids, view), pixels.device)
    x = pixels.float() / 255
    x = torch.where(draw.chance("jitter", config.jitter_p), _jitter(x, config, draw), x)
    x = torch.where(draw.chance("grayscale", config.grayscale_p), _gray(x).expand_as(x), x)
    if config.blur_p:
        sigma = draw.between("sigma", *SIGMA)
        x = torch.where(draw.chance("blur", config.blur_p), blur(x, sigma.flatten()), x)
    x = torch.where(draw.chance("flip", config.flip_p), x.flip(-1), x)
    return normalise(x)


def normalise(x: Tensor) -> Tensor:
    """Pictures in [0, 1], or uint8, of shape (B, 3, H, W) -> float32 with the mean and std the network sees."""
    x = x.float() / 255 if x.dtype == torch.uint8 else x
    mean, std = (torch.tensor(value, device=x.device).view(1, 3, 1, 1) for value in (MEAN, STD))
    return (x - mean) / std


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
    hue = (sector + 6 * shift[:, 0]) % 6
    # Each channel of the hexagonal model is the same ramp at another angle.
    k = (torch.tensor([5.0, 3.0, 1.0], device=x.device).view(1, 3, 1, 1) + hue[:, None]) % 6
    return value[:, None] - chroma[:, None] * torch.minimum(k, 4 - k).clamp(0, 1)


def blur(x: Tensor, sigma: Tensor) -> Tensor:
    """Gaussian blur of pictures (B, 3, H, W) with a sigma each, (B,) pixels; the border is mirrored."""
    radius = min(_RADIUS, min(x.shape[2:]) - 1)
    offsets = torch.arange(-radius, radius + 1, device=x.device)
    kernel = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    kernel = (kernel / kernel.sum(1, keepdim=True)).view(len(x), -1, 1, 1, 1)
    x = F.pad(x, (radius,) * 4, mode="reflect")
    height, width = x.shape[2] - 2 * radius, x.shape[3] - 2 * radius
    x = sum(kernel[:, k] * x[:, :, k : k + height] for k in range(len(offsets)))  # type: ignore[assignment]
    return sum(kernel[:, k] * x[..., k : k + width] for k in range(len(offsets)))  # type: ignore[return-value]


@dataclass
class _Draw:
    """Parameters of shape (B, 1, 1, 1) on the device, each named."""

    words: tuple[randomness.Word, ...]
    device: torch.device

    def between(self, parameter: str, low: float, high: float) -> Tensor:
        values = low + (high - low) * randomness.uniform(*self.words, parameter)
        return torch.from_numpy(values).to(self.device, torch.float32).view(-1, 1, 1, 1)

    def chance(self, parameter: str, p: float) -> Tensor:
        happens = randomness.uniform(*self.words, parameter) < p  # before rounding, which could make a draw 1
        return torch.from_numpy(happens).to(self.device).view(-1, 1, 1, 1)


def _jitter(x: Tensor, config: Config, draw: _Draw) -> Tensor:
    if not config.jitter_p:
        return x
    for name, strength, adjust in (
        ("brightness", config.brightness, adjust_brightness),
        ("contrast", config.contrast, adjust_contrast),
        ("saturation", config.saturation, adjust_saturation),
    ):
        if strength:
            x = adjust(x, draw.between(name, 1 - strength, 1 + strength))
    return adjust_hue(x, draw.between("hue", -config.hue, config.hue)) if config.hue else x


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
