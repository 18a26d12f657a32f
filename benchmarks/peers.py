"""lightly's SimSiam as its own CIFAR-10 benchmark puts it together, to be timed: python -m benchmarks.peers [SECONDS]

ResNet-18 with a 3 x 3 stem, heads of 2048 with BN, its transform at 32 px without blur, its loss, SGD, batch 512, a
DataLoader over PIL pictures in memory. One line a precision and a number of loader processes, images/s with the data
path. Where lightly is not installed, its wheel unpacked into .peers/ does: pip download --no-deps lightly, then unzip.
"""

from __future__ import annotations

import itertools
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

sys.path.append(str(Path(__file__).resolve().parent.parent / ".peers"))

BATCH = 512


class _Pictures(Dataset[Any]):
    def __init__(self, transform: Any, n: int, side: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), np.uint8)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, i: int) -> Any:
        return self._transform(Image.fromarray(self._pixels[i]))


class _Model(nn.Module):
    """SimSiam of lightly's parts. App. D's stem and heads for a ResNet-18, Sec. 3's for a ResNet-50."""

    def __init__(self, backbone: str) -> None:
        from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__()
        resnet = getattr(torchvision.models, backbone)()
        features, hidden = resnet.fc.in_features, 2048
        if backbone == "resnet18":
            resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            resnet.maxpool = nn.Identity()
        resnet.fc = nn.Identity()
        self.backbone = resnet
        self.projector = SimSiamProjectionHead(features, hidden, 2048)
        self.predictor = SimSiamPredictionHead(2048, 512, 2048)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.projector(self.backbone(x).flatten(1))
        return z.detach(), self.predictor(z)


def transform(kind: str, size: int) -> Any:
    """Two views of a PIL picture: lightly's own, or the same augmentations of torchvision v2."""
    if kind == "lightly":
        from lightly.transforms import SimSiamTransform

        return SimSiamTransform(input_size=size, **({"gaussian_blur": 0.0} if size == 32 else {}))
    one = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.2, 1.0)),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.4, 0.4, 0.4, 0.1)], p=0.8),
            v2.RandomGrayscale(p=0.2),
            *([v2.RandomApply([v2.GaussianBlur(13, (0.1, 2.0))], p=0.5)] if size > 32 else []),
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ]
    )
    return lambda picture: (one(picture), one(picture))


def training(
    precision: str, processes: int, *, batch: int, backbone: str = "resnet18", size: int = 32, views: str = "lightly"
) -> Iterator[torch.Tensor]:
    """Steps for ever, the loss of each."""
    from lightly.loss import NegativeCosineSimilarity

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    stored = 32 if size == 32 else 256
    loader = DataLoader(
        _Pictures(transform(views, size), 50_000 if size == 32 else 2_000, stored),
        batch_size=batch,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        pin_memory=device.type == "cuda",
    )
    model, criterion = _Model(backbone).to(device), NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    for both in (batch for _ in itertools.count() for batch in loader):
        x0, x1 = (view.to(device, non_blocking=True) for view in both[:2])
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            (z0, p0), (z1, p1) = model(x0), model(x1)
            loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        yield loss.detach()


def images_per_second(precision: str, processes: int, seconds: float) -> float:
    """Source images/s over `seconds`, after the loader has begun and five steps are done."""
    steps = training(precision, processes, batch=BATCH)
    for _ in range(5):
        next(steps).item()
    begun, done = time.perf_counter(), 0
    while time.perf_counter() - begun < seconds:
        loss, done = next(steps), done + 1
    loss.item()
    return done * BATCH / (time.perf_counter() - begun)


def main() -> None:
    import lightly

    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    torch.backends.cudnn.benchmark = True
    found: dict[str, Any] = {"lightly": lightly.__version__, "torch": torch.__version__}
    for precision, processes in (("bfloat16", 16), ("bfloat16", 12), ("float16", 16), ("float32", 16)):
        try:
            found[f"{precision}, {processes} loader processes"] = images_per_second(precision, processes, seconds)
        except Exception as error:  # one that does not run is said beside the others
            found[f"{precision}, {processes} loader processes"] = f"{type(error).__name__}: {error}"
        print(json.dumps(found, indent=1), flush=True)


if __name__ == "__main__":
    main()
