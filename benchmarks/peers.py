"""lightly's SimSiam as its own CIFAR-10 benchmark puts it together, to be timed: python -m benchmarks.peers [SECONDS]

ResNet-18 with a 3 x 3 stem, heads of 2048 with BN, its transform at 32 px without blur, its loss, SGD, batch 512, a
DataLoader over PIL pictures in memory. One line a precision and a number of loader processes, images/s with the data
path. Where lightly is not installed, its wheel unpacked into .peers/ does: pip download --no-deps lightly, then unzip.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset

sys.path.append(str(Path(__file__).resolve().parent.parent / ".peers"))

BATCH = 512


class _Pictures(Dataset[Any]):
    def __init__(self, transform: Any, n: int) -> None:
        self._pixels = np.random.default_rng(0).integers(0, 256, (n, 32, 32, 3), np.uint8)
        self._transform = transform

    def __len__(self) -> int:
        return len(self._pixels)

    def __getitem__(self, i: int) -> Any:
        return self._transform(Image.fromarray(self._pixels[i]))


class _Model(nn.Module):
    def __init__(self) -> None:
        from lightly.models.modules.heads import SimSiamPredictionHead, SimSiamProjectionHead

        super().__init__()
        resnet = torchvision.models.resnet18()
        resnet.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
        resnet.maxpool = nn.Identity()
        resnet.fc = nn.Identity()
        self.backbone = resnet
        self.projector = SimSiamProjectionHead(512, 2048, 2048)
        self.predictor = SimSiamPredictionHead(2048, 512, 2048)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        z = self.projector(self.backbone(x).flatten(1))
        return z.detach(), self.predictor(z)


def images_per_second(precision: str, processes: int, seconds: float) -> float:
    """Source images/s over `seconds`, after the loader has begun and five steps are done."""
    from lightly.loss import NegativeCosineSimilarity
    from lightly.transforms import SimSiamTransform

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    transform = SimSiamTransform(input_size=32, gaussian_blur=0.0)
    loader = DataLoader(
        _Pictures(transform, 50_000),
        batch_size=BATCH,
        shuffle=True,
        drop_last=True,
        num_workers=processes,
        pin_memory=device.type == "cuda",
    )
    model, criterion = _Model().to(device), NegativeCosineSimilarity()
    optimizer = torch.optim.SGD(model.parameters(), lr=6e-2, momentum=0.9, weight_decay=5e-4)
    kind = {"float16": torch.float16, "bfloat16": torch.bfloat16}.get(precision, torch.float32)
    scaler = torch.amp.GradScaler(device.type, enabled=precision == "float16")
    steps, begun = 0, 0.0
    for views in (batch for _ in range(1000) for batch in loader):
        x0, x1 = (view.to(device, non_blocking=True) for view in views[:2])
        with torch.autocast(device.type, kind, enabled=kind != torch.float32):
            (z0, p0), (z1, p1) = model(x0), model(x1)
            loss = 0.5 * (criterion(z0, p1) + criterion(z1, p0))
        optimizer.zero_grad()
        scaler.scale(loss).backward()
        scaler.step(optimizer)
        scaler.update()
        steps += 1
        if steps == 5:
            loss.item()
            begun = time.perf_counter()
        elif steps > 5 and time.perf_counter() - begun > seconds:
            loss.item()
            break
    return (steps - 5) * BATCH / (time.perf_counter() - begun)


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
