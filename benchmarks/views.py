"""Two views of a batch, ours beside torchvision v2's picture by picture; and kNN beside scikit-learn's.

python -m benchmarks.views
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from sklearn.neighbors import KNeighborsClassifier

from ablations import provenance
from benchmarks import peers
from simsiam import monitor, views
from simsiam.config import Config
from simsiam.loader import Chunk, InMemory
from simsiam.recipes import RECIPES

RESULTS = Path(__file__).resolve().parent / "results"
SIDES = {32: (32, 512), 224: (256, 32)}  # size of a view -> side of a picture, pictures
BANK, QUERIES, D, K = 20_000, 2_000, 512, 200


def ours(pixels: torch.Tensor, size: int) -> Callable[[], Any]:
    recipe = "cifar10" if size == 32 else "imagenet"
    config = Config(data="noise@0", **RECIPES[recipe])
    images = InMemory(pixels, torch.zeros(len(pixels), dtype=torch.int64), size)
    ids = np.arange(len(pixels))

    def both() -> None:
        crops = [views.RandomCrop(0, 0, view, config.crop_min_area) for view in range(2)]
        (fetched,) = images.stream([Chunk([ids], crops)])
        for view, cropped in enumerate(images.crops(fetched)):
            views.augment(cropped, torch.from_numpy(views.draw(config, 0, ids, view)), config)

    return both


def torchvisions(pixels: torch.Tensor, size: int) -> Callable[[], Any]:
    pictures = [Image.fromarray(each) for each in pixels.permute(0, 2, 3, 1).numpy()]
    transform = peers.transform("torchvision", size)
    return lambda: [transform(picture) for picture in pictures]


def knn() -> dict[str, Callable[[], Any]]:
    generator = torch.Generator().manual_seed(0)
    bank, query = (torch.randn(n, D, generator=generator) for n in (BANK, QUERIES))
    labels, truth = torch.arange(BANK) % 10, torch.arange(QUERIES) % 10
    theirs = KNeighborsClassifier(K, metric="cosine", algorithm="brute").fit(bank.numpy(), labels.numpy())
    return {
        "ours": lambda: monitor.knn_top1(bank, labels, query, truth, k=K, temperature=0.1),
        "other": lambda: theirs.score(query.numpy(), truth.numpy()),
    }


def in_turn(sides: dict[str, Callable[[], Any]], rounds: int) -> list[float]:
    """The other's time over ours, in each round."""
    ratios = []
    for number in range(rounds + 1):
        seconds = {}
        for name, call in sides.items():
            begun = time.perf_counter()
            call()
            seconds[name] = time.perf_counter() - begun
        if number:  # the first one warms up
            ratios.append(seconds["other"] / seconds["ours"])
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = {}
    for size, (side, n) in SIDES.items():
        pixels = torch.randint(0, 256, (n, 3, side, side), dtype=torch.uint8)
        sides = {"ours": ours(pixels, size), "other": torchvisions(pixels, size)}
        rows[f"two views, {side} to {size} px, {n} pictures; torchvision v2"] = in_turn(sides, args.rounds)
    rows[f"kNN, {BANK:,} x {QUERIES:,} of {D}, k = {K}; scikit-learn, brute force"] = in_turn(knn(), args.rounds)
    lines = [
        f"| {name} | {statistics.median(found):.1f} | {min(found):.1f} to {max(found):.1f} |"
        for name, found in rows.items()
    ]
    text = f"""# Views and kNN beside others'

    python -m benchmarks.views --rounds {args.rounds}

{datetime.date.today()}, torch {torch.__version__}, {provenance.processor()}, {os.cpu_count()} cores, one thread.
In turn; the other's time over ours, the median of {args.rounds} rounds and the range.

| what; the other | other / ours | range |
|---|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    (RESULTS / "views.md").write_text(text)


if __name__ == "__main__":
    main()
