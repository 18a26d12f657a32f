"""The digits recipe with 1, 2 and 4 workers, in float64 and in float32: python -m benchmarks.workers

In float64 the losses stay together; in float32 rounding is larger, and a ReLU that it flips sets two runs apart.
"""

from __future__ import annotations

import argparse
import datetime
import platform
import tempfile
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import simsiam
from ablations import provenance, trial
from simsiam import data
from simsiam.config import Config, Runtime
from simsiam.loader import Decoded
from simsiam.recipes import RECIPES

RESULTS = Path(__file__).resolve().parent / "results"

WORLDS = (4, 2, 1)  # the most first: who has no part in the next run can go
PRECISIONS = ("float64", "float32")


class Nowhere:
    """The place of a checkpoint that nobody needs."""

    def read(self) -> bytes | None:
        return None

    def write(self, content: bytes) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--epochs", type=int, default=RECIPES["digits"]["epochs"], help="default: the recipe's own")
    epochs = parser.parse_args().epochs
    lines = train(epochs)
    RESULTS.mkdir(exist_ok=True)
    lines.to_parquet(RESULTS / "workers.parquet", index=False)
    text = report(lines, epochs)
    (RESULTS / "workers.md").write_text(text)
    figure(lines, RESULTS / "workers.png")
    print(text)


def train(epochs: int) -> pd.DataFrame:
    """One trial for each precision and number of workers -> one line an epoch, with its difference from one worker."""
    configs = [
        Config(data=data.locate(None).name, **{**RECIPES["digits"], "epochs": epochs, "precision": precision})
        for precision in PRECISIONS
    ]
    decoded = trial.shared(Runtime(), configs)[None]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, configs, decoded), nprocs=max(WORLDS))  # type: ignore[no-untyped-call]
        lines = pd.concat([pd.read_parquet(path) for path in Path(folder).glob("*.parquet")])
    single = lines[lines.workers == 1].set_index(["precision", "epoch"]).loss
    peer = single.loc[pd.MultiIndex.from_frame(lines[["precision", "epoch"]])].to_numpy()
    lines["difference"] = (lines.loss - peer).abs() / abs(peer)
    return lines.sort_values(["precision", "workers", "epoch"], ascending=[False, True, True], ignore_index=True)


def work(rank: int, folder: str, configs: list[Config], decoded: Decoded) -> None:
    """What each worker does."""
    torch.set_num_threads(1)
    for world in WORLDS:
        if rank >= world:
            return
        if world > 1:  # one worker has no process group
            dist.init_process_group("gloo", init_method=f"file://{folder}/store{world}", rank=rank, world_size=world)
        for config in configs:

            def on_epoch(line: dict[str, Any], precision: str = config.precision, world: int = world) -> None:
                if rank == 0:
                    print(f"{precision}, {world} workers, epoch {line['epoch']}: loss {line['loss']:.6f}", flush=True)

            result, curve = trial.run(config, Runtime(), decoded=decoded, place=Nowhere(), on_epoch=on_epoch)
            lines = pd.DataFrame(curve)[["epoch", "loss", "z_std", "knn_top1"]]
            lines.insert(0, "workers", world)
            lines.insert(0, "precision", config.precision)
            lines["linear_top1"] = [*[None] * (len(curve) - 1), result["linear_top1"]]
            if rank == 0:
                lines.to_parquet(Path(folder) / f"{world}-{config.precision}.parquet")
        if world > 1:
            dist.destroy_process_group()


def report(lines: pd.DataFrame, epochs: int) -> str:
    """The numbers for a person, as Markdown."""
    command = "python -m benchmarks.workers"
    if epochs != RECIPES["digits"]["epochs"]:
        command += f" --epochs {epochs}"
    rows = []
    for (precision, workers), run in lines.groupby(["precision", "workers"], sort=False):
        first, last = run.iloc[0], run.iloc[-1]
        rows.append(
            f"| {precision} | {workers} | {first.difference:.1e} | {run.difference.max():.1e} "
            f"| {last.z_std:.4f} | {last.knn_top1:.1f} | {last.linear_top1:.1f} |"
        )
    return f"""# Workers

`{command}`, {datetime.date.today()}: the digits recipe, {epochs} epochs, seed 0, gloo processes of one thread each.
simsiam {simsiam.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {provenance.processor()}.

The difference is that of an epoch's loss from the run of one worker, relative: in the first epoch, and the largest of
the whole run. The rest is of the last epoch: std of z, kNN and linear top-1 in per cent.

| precision | workers | first epoch | whole run | z_std | kNN top-1 | linear top-1 |
|-----------|---------|-------------|-----------|-------|-----------|--------------|
{chr(10).join(rows)}

![Relative difference of the loss against the epoch](workers.png)
"""


def figure(lines: pd.DataFrame, path: Path) -> None:
    """The difference from one worker against the epoch."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(figsize=(7, 4), layout="constrained")
    colours, styles = {"float64": "tab:blue", "float32": "tab:orange"}, {2: "-", 4: "--"}
    for (precision, workers), run in lines[lines.workers > 1].groupby(["precision", "workers"], sort=False):
        shown = run.difference.clip(lower=1e-17)  # equal to the bit, at the foot of the figure
        label = f"{precision}, {workers} workers"
        axes.plot(run.epoch, shown, styles[workers], color=colours[precision], label=label)
    axes.axhline(1e-6, color="grey", linewidth=0.8, linestyle=":")
    axes.annotate("the bound for float64", (1, 1e-6), textcoords="offset points", xytext=(0, 3), color="grey")
    axes.set(yscale="log", xlabel="epoch", ylabel="relative difference of the loss", title="Digits, against one worker")
    axes.legend()
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
