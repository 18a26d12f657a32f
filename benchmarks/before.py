"""The loader and a training on the digits, by the code of a commit and by the code that is here, in turn.

python -m benchmarks.before
"""

from __future__ import annotations

import argparse
import datetime
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
IMAGES, SIZE = 64, 224
DIGITS = {
    "image_size": 12,
    "backbone": "resnet10",
    "width": 8,
    "dim": 256,
    "projector_hidden": 256,
    "predictor_hidden": 64,
    "batch_size": 128,
    "epochs": 4,
}


def child(folder: str) -> None:
    """Print the seconds that the loader of the checkout in this folder takes a picture, decoded for two crops."""
    sys.path[0] = os.getcwd()
    import numpy as np
    import torch

    from simsiam import data, loader, views

    torch.set_num_threads(1)
    ids, crops = np.arange(IMAGES), [views.RandomCrop(0, 0, view, 0.2) for view in range(2)]
    source = data.locate(folder)
    if hasattr(loader, "Pool"):
        reader, request = loader._Reader(source, None, SIZE), ("train", ids, crops)
    else:  # before, a reader was of one split
        reader, request = loader._Reader(source, "train", None, SIZE), (ids, crops)  # type: ignore[arg-type, call-arg]
    times = []
    for _ in range(4):
        begun = time.perf_counter()
        reader[request]
        times.append(time.perf_counter() - begun)
    print(statistics.median(times[1:]) / IMAGES)


def pictures(folder: Path) -> None:
    """JPEG files of 500 x 375, smooth as photographs are."""
    import numpy as np
    from PIL import Image

    random = np.random.default_rng(0)
    for split, images in (("train", IMAGES), ("val", 8)):
        for number in range(images):
            place = folder / split / "ab"[number % 2]
            place.mkdir(parents=True, exist_ok=True)
            small = Image.fromarray(random.integers(0, 256, (24, 32, 3), dtype=np.uint8))
            small.resize((500, 375), Image.Resampling.BICUBIC).save(place / f"{number}.jpg", quality=90)


def measure(checkout: Path, folder: Path) -> tuple[float, float]:
    """The loader's seconds a picture, and a digits training's images a second."""
    import pandas as pd

    environment = {**os.environ, "OMP_NUM_THREADS": "1", "SIMSIAM_REPORT": "0", "SIMSIAM_TRACK": "none"}

    def run(*command: str) -> str:
        whole = [sys.executable, *command]
        return subprocess.run(
            whole, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True
        ).stdout

    loading = float(run(str(ROOT / "benchmarks" / "before.py"), "--child", str(folder)).splitlines()[-1])
    with tempfile.TemporaryDirectory(prefix="before-") as results:
        fields = [part for name, value in DIGITS.items() for part in ("--set", f"{name}={value}")]
        table = ["--table", "stop_gradient", "--rows", "with", "--launcher", "local", "--results", results]
        run("ablations/run.py", *table, *fields)
        (speed,) = pd.read_parquet(Path(results) / "stop_gradient.parquet").images_per_second
    return loading, float(speed)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.before")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child)
        return
    from benchmarks.overhead import BEFORE, RESULTS, checked_out  # not where the code is another checkout's

    loads, trains = [], []
    with checked_out(BEFORE) as before, tempfile.TemporaryDirectory(prefix="pictures-") as folder:
        pictures(Path(folder))
        for _ in range(args.rounds):
            (slow, old), (quick, new) = measure(before, Path(folder)), measure(ROOT, Path(folder))
            loads.append(slow / quick)
            trains.append(new / old)
            print(f"loader {loads[-1]:.2f}, digits {trains[-1]:.2f}", flush=True)
    found = {"loader, JPEG 500 x 375, two crops of 224": loads, "digits, images/s": trains}
    text = report(found, args.rounds, BEFORE)
    print(text)
    (RESULTS / "before.md").write_text(text)


def report(found: dict[str, list[float]], rounds: int, before: str) -> str:
    """The ratios for a person, as Markdown."""
    from ablations import provenance

    rows = [
        f"| {name} | {statistics.median(ratios):.2f} | {min(ratios):.2f} to {max(ratios):.2f} |"
        for name, ratios in found.items()
    ]
    return f"""# The code that is here beside that of before

    python -m benchmarks.before --rounds {rounds}

{datetime.date.today()}, torch {provenance.version("torch")}, {provenance.processor()}, {os.cpu_count()} cores, one
thread. Before is commit {before}. In turn; how many times faster, the median of {rounds} rounds and the range.

| what | here / before | range |
|---|---:|---:|
{chr(10).join(rows)}
"""


if __name__ == "__main__":
    main()
