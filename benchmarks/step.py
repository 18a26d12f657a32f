"""Images/s of a training step with its data path, ours beside lightly's and torchvision's: python -m benchmarks.step

Each side trains its own way on noise of one size: lightly as its CIFAR-10 benchmark composes it, and the same with the
augmentations of torchvision v2, both with a DataLoader in this process. They take turns, a few steps at a time.
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

import torch

from ablations import provenance
from ablations.timing import Nowhere
from benchmarks import peers
from simsiam import pretrain
from simsiam.checkpoint import Checkpointer
from simsiam.config import COMPILED, EAGER, GRAPH, Config, Runtime
from simsiam.loader import InMemory
from simsiam.recipes import RECIPES

RESULTS = Path(__file__).resolve().parent / "results"

# Size of a view -> our recipe, the backbone, pictures of a batch on a CPU and on a GPU.
SIZES = {32: ("cifar10", "resnet18", 128, 512), 224: ("imagenet", "resnet50", 16, 256)}


def ours(size: int, batch: int, precision: str, step: str) -> Iterator[torch.Tensor]:
    """Steps of `simsiam.pretrain` for ever, the loss of each."""
    recipe, *_ = SIZES[size]
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = Config(
        data="noise@0", **{**RECIPES[recipe], "batch_size": batch, "precision": precision, "epochs": 10_000}
    )
    images = _noise(32 if size == 32 else 256, 50_000 if size == 32 else 2_000, config.image_size, device)
    runtime = Runtime(device=device, threads=torch.get_num_threads(), step=step)
    checkpointer = Checkpointer(config, Nowhere(), seconds=1e9)
    run = pretrain._Run(config, runtime, images, images, checkpointer)
    run.method.train()
    for drawn in run.batches():
        yield run.train_on(*drawn)


def _noise(side: int, n: int, size: int, device: str) -> InMemory:
    pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
    return InMemory(pixels.to(device), torch.zeros(n, dtype=torch.int64, device=device), size)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--size", type=int, choices=SIZES, default=32)
    parser.add_argument("--precision", choices=("float32", "bfloat16"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=3, help="of a side in a round")
    args = parser.parse_args()
    cuda = torch.cuda.is_available()
    _, backbone, on_cpu, on_gpu = SIZES[args.size]
    batch, precision = (on_gpu if cuda else on_cpu), args.precision or ("bfloat16" if cuda else "float32")
    like = {"batch": batch, "backbone": backbone, "size": args.size}
    sides = {
        f"ours, {step}": ours(args.size, batch, precision, step) for step in ((GRAPH, COMPILED) if cuda else (EAGER,))
    }
    sides["lightly"] = peers.training(precision, 0, **like)
    sides["torchvision v2"] = peers.training(precision, 0, views="torchvision", **like)
    for steps in sides.values():
        for _ in range(3 if cuda else 1):
            next(steps).item()
    speeds: dict[str, list[float]] = {name: [] for name in sides}
    for _ in range(args.rounds):
        for name, steps in sides.items():
            begun = time.perf_counter()
            for _ in range(args.steps):
                loss = next(steps)
            loss.item()
            speeds[name].append(args.steps * batch / (time.perf_counter() - begun))
    text = _report(args, speeds, f"{backbone}, {args.size} px, batch {batch}, {precision}")
    print(text)
    (RESULTS / f"step_{args.size}_{'cuda' if cuda else 'cpu'}.md").write_text(text)


def _report(args: argparse.Namespace, speeds: dict[str, list[float]], what: str) -> str:
    import lightly

    cuda = torch.cuda.is_available()
    where = torch.cuda.get_device_name() if cuda else f"{provenance.processor()}, {os.cpu_count()} cores"
    mine = next(iter(speeds.values()))
    lines = []
    for name, values in speeds.items():
        ratios = [a / b for a, b in zip(mine, values, strict=True)]
        absolute = f"{statistics.median(values):,.0f}" if cuda else "-"
        lines.append(
            f"| {name} | {absolute} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        )
    return f"""# A training step with its data path

    python -m benchmarks.step --size {args.size} --rounds {args.rounds} --steps {args.steps}

{datetime.date.today()}, torch {torch.__version__}, lightly {lightly.__version__}, {where}.
{what}; {args.rounds} rounds in turn of {args.steps} steps each. The ratio is that of ours to it in the same round, the
median and the range.

| side | images/s | ours / it | range |
|------|---------:|----------:|-------|
{chr(10).join(lines)}
"""


if __name__ == "__main__":
    main()
