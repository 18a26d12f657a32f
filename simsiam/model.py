"""f = backbone + projector, h = predictor (Sec. 3), built from a Config and initialised from its seed."""

from __future__ import annotations

import functools
import itertools
import math
from collections import OrderedDict
from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchvision.models.resnet import BasicBlock, Bottleneck, ResNet

from simsiam import randomness
from simsiam.batch_norm import BatchNorm
from simsiam.config import Config
from simsiam.precision import arithmetic

# Which fc layers of the heads are followed by BN: Table 3, its rows in its order.
#            f hidden  f output  h hidden  h output
BATCH_NORM = {
    "none":    (False,    False,    False,    False),  # (a)
    "hidden":  (True,     False,    True,     False),  # (b)
    "default": (True,     True,     True,     False),  # (c)
    "all":     (True,     True,     True,     True),   # (d)
}  # fmt: skip

BLOCKS: dict[str, tuple[type[BasicBlock | Bottleneck], list[int]]] = {
    "resnet10": (BasicBlock, [1, 1, 1, 1]),
    "resnet18": (BasicBlock, [2, 2, 2, 2]),
    "resnet50": (Bottleneck, [3, 4, 6, 3]),
}

_LANES = 16  # float32 in the longest vector of a CPU

Norm = Callable[..., nn.Module]


class SimSiam(nn.Module):
    """f and h. `backbone` gives the features that are evaluated, `f` gives z, `h` gives p."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.precision = config.precision
        norm = functools.partial(BatchNorm, batch_size=config.batch_size, group=config.bn_group)
        f_hidden, f_output, h_hidden, h_output = BATCH_NORM[config.batch_norm]
        self.backbone = backbone(config.backbone, width=config.width, stem=config.stem, norm=norm)
        self.projector: nn.Module = nn.Identity()
        if config.projector_layers and config.projector_hidden and config.dim:
            self.projector = head(
                [self.backbone.features, *[config.projector_hidden] * (config.projector_layers - 1), config.dim],
                hidden=norm if f_hidden else None,
                output=functools.partial(norm, affine=config.projector_affine) if f_output else None,
            )
        self.predictor: nn.Module = nn.Identity()
        if config.predictor_hidden and config.dim:
            self.predictor = head(
                [config.dim, config.predictor_hidden, config.dim],
                hidden=norm if h_hidden else None,
                output=norm if h_output else None,
            )
        self.predictor.requires_grad_(config.predictor != "frozen")
        initialise(self, config.seed)

    @torch.no_grad()
    def features(self, x: Tensor) -> Tensor:
        """Pictures (n, 3, H, W) -> the backbone's output (n, D), to evaluate: in the run's precision, float32 or wider.

        The caller has put the network in eval mode.
        """
        return self.evaluate(self.backbone, x)

    @torch.no_grad()
    def z(self, features: Tensor) -> Tensor:
        """The same of f's output: `features` (n, D) -> z (n, d)."""
        return self.evaluate(self.projector, features)

    @torch.no_grad()
    def p(self, z: Tensor) -> Tensor:
        """The same of h's output: z (n, d) -> p (n, d)."""
        return self.evaluate(self.predictor, z)

    @property
    def has_projector(self) -> bool:
        return not isinstance(self.projector, nn.Identity)

    @property
    def has_predictor(self) -> bool:
        return not isinstance(self.predictor, nn.Identity)

    @torch.no_grad()
    def evaluate(self, part: nn.Module, x: Tensor) -> Tensor:
        """The same of any part of the network, or of what is trained beside it."""
        dtype = next(self.backbone.parameters()).dtype
        with arithmetic(self.precision, x.device):
            return part(x.to(dtype)).to(dtype)

    def f(self, x: Tensor) -> Tensor:
        """Views (B, 3, H, W) -> z (B, d)."""
        return self.projector(self.backbone(x))

    def h(self, z: Tensor) -> Tensor:
        """z (B, d) -> p (B, d)."""
        return self.predictor(z)

    def forward(self, x: Tensor) -> tuple[list[Tensor], list[Tensor]]:
        """Views x of shape (V, B, 3, H, W) -> p and z, V tensors of shape (B, d) each.

        Each view is a forward of its own: BN statistics are per view. All are in one call, as DDP wants it.
        """
        z = [self.f(view) for view in x]
        return [self.h(each) for each in z], z


class _EverySecond(nn.Conv2d):
    """A 1 x 1 convolution at stride 2 that is given every second pixel, for narrow shortcuts.

    With the stride left to it, oneDNN writes past its buffer in the backward pass where there are fewer channels than
    a vector has lanes (uxlfoundation/oneDNN#6035): a crash, or wrong gradients without a word.
    """

    def __init__(self, fan_in: int, fan_out: int) -> None:
        super().__init__(fan_in, fan_out, kernel_size=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x[:, :, ::2, ::2])


class Backbone(ResNet):
    """torchvision's ResNet with any width and either stem; its output is the pooled features."""

    def __init__(
        self, block: type[BasicBlock | Bottleneck], layers: list[int], *, width: int, stem: str, norm: Norm
    ) -> None:
        super().__init__(block, layers, norm_layer=norm)
        self.features = 8 * width * block.expansion
        self.fc = nn.Identity()  # type: ignore[assignment]
        if width != 64:
            self._rebuild(block, layers, width, norm)
        if stem == "cifar":  # 3 x 3 at stride 1 and no pooling (App. D, as in MoCo's CIFAR demo)
            self.conv1 = nn.Conv2d(3, width, kernel_size=3, stride=1, padding=1, bias=False)
            self.maxpool = nn.Identity()  # type: ignore[assignment]
        for stage in (self.layer2, self.layer3, self.layer4):
            shortcut = stage[0].downsample
            if shortcut[0].in_channels < _LANES:
                shortcut[0] = _EverySecond(shortcut[0].in_channels, shortcut[0].out_channels)

    def _rebuild(self, block: type[BasicBlock | Bottleneck], layers: list[int], width: int, norm: Norm) -> None:
        """torchvision knows no other width for the first stage, so its stages are built again."""
        self.inplanes = width
        self.conv1 = nn.Conv2d(3, width, kernel_size=7, stride=2, padding=3, bias=False)
        self.bn1 = norm(width)
        self.layer1 = self._make_layer(block, width, layers[0])
        self.layer2 = self._make_layer(block, 2 * width, layers[1], stride=2)
        self.layer3 = self._make_layer(block, 4 * width, layers[2], stride=2)
        self.layer4 = self._make_layer(block, 8 * width, layers[3], stride=2)


def backbone(name: str, *, width: int, stem: str, norm: Norm) -> Backbone:
    """A ResNet by its name in BLOCKS, with `width` channels in its first stage."""
    block, layers = BLOCKS[name]
    return Backbone(block, layers, width=width, stem=stem, norm=norm)


def head(widths: list[int], *, hidden: Norm | None, output: Norm | None) -> nn.Sequential:
    """fc layers of the given widths; BN where given, ReLU after hidden layers only. No bias before a BN."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    last = len(widths) - 2
    for i, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
        norm = output if i == last else hidden
        # Named, not counted: an fc keeps its name, and so its start, whether a BN stands before it or not.
        modules[f"fc{i + 1}"] = nn.Linear(fan_in, fan_out, bias=norm is None)
        if norm is not None:
            modules[f"bn{i + 1}"] = norm(fan_out)
        if i != last:
            modules[f"relu{i + 1}"] = nn.ReLU(inplace=True)
    return nn.Sequential(modules)


@torch.no_grad()
def initialise(model: nn.Module, seed: int) -> None:
    """App. A: fc weights and biases U(-1/sqrt(in), 1/sqrt(in)), BN scale 1 and shift 0, and scale 0 for the last BN of
    each residual block. Convolutions as in the released code, which leaves them to torchvision (normal, fan-out); App.
    A gives them PyTorch's default.

    Each tensor depends on (seed, its name) alone, so a model without h starts from the same f.
    """
    for name, module in model.named_modules():
        if isinstance(module, nn.Conv2d):
            fan_out = module.out_channels * module.kernel_size[0] * module.kernel_size[1]
            module.weight.normal_(0, math.sqrt(2 / fan_out), generator=_generator(seed, name, "weight"))
        elif isinstance(module, nn.Linear):
            bound = 1 / math.sqrt(module.in_features)
            module.weight.uniform_(-bound, bound, generator=_generator(seed, name, "weight"))
            if module.bias is not None:
                module.bias.uniform_(-bound, bound, generator=_generator(seed, name, "bias"))
    for module in model.modules():
        if isinstance(module, BasicBlock | Bottleneck):
            last = module.bn2 if isinstance(module, BasicBlock) else module.bn3
            nn.init.zeros_(last.weight)  # type: ignore[arg-type]


def _generator(seed: int, *name: str) -> torch.Generator:
    word = int(randomness.bits("weights", seed, *name)[0])
    return torch.Generator().manual_seed(word >> 1)
