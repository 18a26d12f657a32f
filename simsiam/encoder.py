"""A trained backbone as a file: its identity, what it must hold, and how other people's are read.

The names are torchvision's, so that a file loads into its ResNet. What is read is data, never code, and its names and
shapes are looked at before memory is taken for it.
"""

from __future__ import annotations

import hashlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck

from simsiam import views
from simsiam.model import BLOCKS, Backbone, SimSiam, backbone
from simsiam.text import printable

Weights = dict[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]

# What stands before a backbone's names: in our checkpoints, and those of a detector; in those of facebookresearch's
# simsiam and moco; in torchvision's.
_PREFIXES = "model.backbone.", "backbone.body.", "module.encoder.", "module.encoder_q.", ""
_STEMS = {7: "imagenet", 3: "cifar"}  # the side of the first convolution's kernel
_COUNTER = "num_batches_tracked"  # it decides nothing, and not every file has it
_MOST_BYTES = 8 << 30  # of a file


class EncoderError(ValueError):
    """A file holds no encoder that can be used. The message is one line."""


def digest(weights: Mapping[str, Tensor]) -> str:
    """The identity of an encoder, wherever it comes from: 16 hex digits of SHA-256 over its tensors, names sorted."""
    made = hashlib.sha256()
    for name in sorted(name for name in weights if not name.endswith(_COUNTER)):
        tensor = weights[name].detach().cpu().contiguous()
        made.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        made.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return made.hexdigest()[:16]


def network(shapes: Shapes) -> dict[str, Any]:
    """The Config's fields `backbone`, `stem` and `width` of a backbone. Raises EncoderError if it is none of ours."""
    first = shapes.get("conv1.weight", ())
    if len(first) != 4 or first[2] not in _STEMS:
        raise EncoderError(
            "it has no conv1.weight of 3 x 3 or 7 x 7, with which a ResNet of torchvision's names begins"
        )
    block = Bottleneck if "layer1.0.conv3.weight" in shapes else BasicBlock
    depth = [len({_block(name) for name in shapes if name.startswith(f"layer{n}.")}) for n in (1, 2, 3, 4)]
    name = next((name for name, known in BLOCKS.items() if known == (block, depth)), None)
    if name is None:
        raise EncoderError(f"it is a ResNet of {depth} blocks, and known are {', '.join(BLOCKS)}")
    width, stem = first[0], _STEMS[first[2]]
    with torch.device("meta"):
        wanted = backbone(name, width=width, stem=stem, norm=nn.BatchNorm2d).state_dict()
    _check(shapes, {name: tuple(tensor.shape) for name, tensor in wanted.items()})
    return {"backbone": name, "stem": stem, "width": width}


def _block(name: str) -> str:
    return ".".join(name.split(".")[:2])


def _check(shapes: Shapes, wanted: Shapes) -> None:
    """Raises EncoderError unless there are these tensors of these shapes, and no others."""
    needed = {name for name in wanted if not name.endswith(_COUNTER)}
    for what, names in (("lacks", needed - shapes.keys()), ("has the unknown", shapes.keys() - wanted.keys())):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise EncoderError(f"it {what} {printable(min(names))[:100]}{more}")
    for name in shapes:
        if shapes[name] != wanted[name]:
            raise EncoderError(f"its {name} must have the shape {wanted[name]}. Got {shapes[name]} instead")


def read(path: Path) -> Weights:
    """The backbone in a file: safetensors, or what torch.save wrote of tensors alone. Raises EncoderError."""
    try:
        if path.stat().st_size > _MOST_BYTES:
            raise EncoderError(f"it has more than {_MOST_BYTES >> 30} GiB")
        if not path.stat().st_size:
            raise EncoderError("it is empty")
        return _safetensors(path) if path.suffix == ".safetensors" else _torchs(path)
    except EncoderError as error:
        raise EncoderError(f"{printable(str(path))} holds no encoder that can be used: {error}.") from None
    except OSError as error:
        raise EncoderError(f"{printable(str(path))} cannot be read: {error.strerror or error}.") from None


def _safetensors(path: Path) -> Weights:
    import safetensors

    try:
        with safetensors.safe_open(path, framework="pt") as file:
            prefix, names = _backbone(file.keys())
            network({name: tuple(file.get_slice(prefix + name).get_shape()) for name in names})
            return _plain({name: file.get_tensor(prefix + name) for name in names})
    except safetensors.SafetensorError as error:
        raise EncoderError(f"it is no whole safetensors file ({printable(str(error))[:200]})") from None


def _torchs(path: Path) -> Weights:
    """Of a zip file, nothing is read but what is used; one of before torch 1.6 is read whole."""
    mapped = zipfile.is_zipfile(path)
    if mapped:
        with zipfile.ZipFile(path) as archive:
            if any(each.compress_type != zipfile.ZIP_STORED for each in archive.infolist()):
                raise EncoderError("it is a compressed archive, and torch writes none")
    return of_checkpoint(path, mmap=mapped)


def of_checkpoint(file: Any, **options: bool) -> Weights:
    """The backbone in what torch.save wrote. Raises EncoderError."""
    try:
        with warnings.catch_warnings():  # of pickles that are not torch's: they are refused anyway
            warnings.simplefilter("ignore", UserWarning)
            found = torch.load(file, map_location="cpu", weights_only=True, **options)
    except pickle.UnpicklingError:
        raise EncoderError(
            "it is no checkpoint of torch's, or has more than tensors, numbers and text in it, whose code is not run"
        ) from None
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, IndexError, AttributeError) as error:
        raise EncoderError(f"it is damaged ({printable(str(error)).splitlines()[0][:200]})") from None
    tensors = {name: value for name, value in _state(found).items() if isinstance(value, Tensor)}
    prefix, names = _backbone(tensors)
    network({name: tuple(tensors[prefix + name].shape) for name in names})
    return _plain({name: tensors[prefix + name] for name in names})


def _state(found: Any) -> Mapping[str, Any]:
    """The named tensors in a checkpoint, ours or another."""
    for inner in ("state_dict", "state", "method", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(inner), Mapping):
            found = found[inner]
    if not isinstance(found, Mapping) or not all(isinstance(name, str) for name in found):
        raise EncoderError(f"it is a {type(found).__name__} and no dict of named tensors")
    return found


def _backbone(names: Iterable[str]) -> tuple[str, list[str]]:
    """What stands before the names of a backbone, and these; heads and classifiers are left out."""
    names = list(names)
    prefix = next((prefix for prefix in _PREFIXES if f"{prefix}conv1.weight" in names), None)
    if prefix is None:
        known = ", ".join(f"{prefix}conv1.weight" for prefix in _PREFIXES)
        raise EncoderError(f"it has no tensor of the name {known}")
    inner = [name.removeprefix(prefix) for name in names if name.startswith(prefix)]
    return prefix, [name for name in inner if not re.match(r"fc\.", name)]


def _plain(weights: Weights) -> Weights:
    """Half precision as float32, which holds the same numbers. Raises EncoderError for what are no real numbers.

    Each tensor in the order of its dimensions: a network computes otherwise, to the last bit, with another one.
    """
    for name, tensor in weights.items():
        if not tensor.is_floating_point() and not name.endswith(_COUNTER):
            raise EncoderError(f"its {name} is of {tensor.dtype}, and must be of real numbers")
    return {
        name: (tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor).clone(
            memory_format=torch.contiguous_format
        )
        for name, tensor in weights.items()
    }


def built(weights: Weights) -> Backbone:
    """The backbone with these weights, in eval mode: pictures (n, 3, S, S) -> features (n, D). Raises EncoderError."""
    its = network({name: tuple(tensor.shape) for name, tensor in weights.items()})
    made = backbone(its["backbone"], width=its["width"], stem=its["stem"], norm=nn.BatchNorm2d)
    made.load_state_dict(weights, assign=True)
    return made.eval()


@dataclass(frozen=True)
class Transform:
    """A picture as an evaluation sees it: its central square, resized and normalised.

    Args:
        size: of the side that the network gets, pixels.
        crop: side of the central square over the picture's short side.
    """

    size: int
    crop: float

    def __call__(self, picture: Any) -> Tensor:
        """Float32 (3, S, S) of an RGB PIL image, resized as pictures are that are decoded while reading, or of a uint8
        array (H, W, 3), resized as those that are held in memory: the two differ by rounding."""
        if isinstance(picture, np.ndarray):
            pixels = torch.from_numpy(np.ascontiguousarray(picture)).permute(2, 0, 1)[None]
            box = views.CenterCrop(self.crop).boxes(np.zeros(1, np.int64), np.array([picture.shape[:2]]))
            square = views.resized_crop(pixels, torch.from_numpy(box), self.size)
        else:
            (box,) = views.CenterCrop(self.crop).boxes(np.zeros(1, np.int64), np.array([picture.size[::-1]]))
            top, left, height, width = box.tolist()
            piece = picture.crop((left, top, left + width, top + height))
            resized = np.array(piece.resize((self.size, self.size), Image.Resampling.BILINEAR))
            square = torch.from_numpy(resized).permute(2, 0, 1)[None]
        return views.normalise(square)[0]


def packed(weights: Weights, about: Mapping[str, str]) -> bytes:
    """A safetensors file of an encoder, with text in its metadata."""
    import safetensors.torch

    return safetensors.torch.save({name: weights[name].contiguous() for name in sorted(weights)}, dict(about))


def unpacked(content: bytes, wanted: str) -> Weights:
    """What `packed` gave. Raises EncoderError if it is not the encoder of that digest."""
    import safetensors.torch

    try:
        weights: Weights = safetensors.torch.load(content)
    except safetensors.SafetensorError as error:
        raise EncoderError(f"The file of encoder {wanted} is damaged ({printable(str(error))}). Remove it.") from None
    if digest(weights) != wanted:
        raise EncoderError(f"The file of encoder {wanted} holds the encoder {digest(weights)}. Remove it.")
    network({name: tuple(tensor.shape) for name, tensor in weights.items()})
    return weights


def put_into(method: nn.Module, weights: Weights) -> None:
    """Have the backbone, and that of a momentum encoder, start from these weights. Raises EncoderError."""
    for model in method.modules():
        if isinstance(model, SimSiam):
            try:
                model.backbone.load_state_dict(weights)
            except RuntimeError as error:
                raise EncoderError(f"The encoder is of another network than the Config: {error}") from None
