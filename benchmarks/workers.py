"""The digits recipe with 1, 2 and 4 workers, in float64 and in float32: python -m benchmarks.workers

Two trials that sum in another order drift apart, whatever the reason for the order. The control is one worker with two
threads instead of one. Two changes of the recipe show what drives them apart: its learning rate, and the ReLU's corner.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import platform
import tempfile
from pathlib import Path
from typing import Any
from unittest import mock

import pandas as pd
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

import simsiam
from ablations import provenance, trial
from ablations.timing import Nowhere
from simsiam import data
from simsiam.config import Config, Runtime
from simsiam.loader import Decoded
from simsiam.recipes import RECIPES

RESULTS = Path(__file__).resolve().parent / "results"

RUNS = ((4, 1), (2, 1), (1, 1), (1, 2))  # workers, threads of each. Most first: who has no part in the next can go
BOUND = 1e-6
AS_IT_IS, PAPERS_LR, SMOOTH = "as it is", "base_lr 0.05, the paper's", "SiLU for ReLU"
TRIALS = ((AS_IT_IS, "float64"), (AS_IT_IS, "float32"), (PAPERS_LR, "float64"), (SMOOTH, "float32"))
KEY = ["recipe", "precision", "workers", "threads"]


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.workers", description=__doc__)
    parser.add_argument("--epochs", type=int, default=30, help="default: 30, half an hour; the recipe has 100")
    epochs = parser.parse_args().epochs
    lines = train(epochs)
    RESULTS.mkdir(exist_ok=True)
    lines.to_parquet(RESULTS / "workers.parquet", index=False)
    text = report(lines, epochs)
    (RESULTS / "workers.md").write_text(text)
    figure(lines, RESULTS / "workers.png")
    print(text)


def train(epochs: int) -> pd.DataFrame:
    """Every trial in every way -> one line an epoch, with its difference from one worker with one thread."""
    configs = {}
    for recipe, precision in TRIALS:
        fields = {**RECIPES["digits"], "epochs": epochs, "precision": precision}
        if recipe == PAPERS_LR:
            fields["base_lr"] = RECIPES["imagenet"]["base_lr"]
        configs[recipe, precision] = Config(data=data.locate(None).name, **fields)
    decoded = trial.shared(data.locate(None), configs.values())[None]
    with tempfile.TemporaryDirectory() as folder:
        mp.spawn(work, (folder, configs, decoded), nprocs=max(RUNS)[0])  # type: ignore[attr-defined]
        lines = pd.concat([pd.read_parquet(path) for path in Path(folder).glob("*.parquet")])
    single = lines[(lines.workers == 1) & (lines.threads == 1)].set_index(["recipe", "precision", "epoch"]).loss
    peer = single.loc[pd.MultiIndex.from_frame(lines[single.index.names])].to_numpy()
    lines["difference"] = (lines.loss - peer).abs() / abs(peer)
    places = {trial: place for place, trial in enumerate(TRIALS)}
    lines["place"] = [places[trial] for trial in zip(lines.recipe, lines.precision, strict=True)]
    return lines.sort_values(["place", "threads", "workers", "epoch"], ignore_index=True).drop(columns="place")


def work(rank: int, folder: str, configs: dict[tuple[str, str], Config], decoded: Decoded) -> None:
    """What each worker does."""
    for workers, threads in RUNS:
        if rank >= workers:
            return
        torch.set_num_threads(threads)
        if workers > 1:  # one worker has no process group
            store = f"file://{folder}/store{workers}"
            dist.init_process_group("gloo", init_method=store, rank=rank, world_size=workers)
        for number, ((recipe, precision), config) in enumerate(configs.items()):
            name = f"{recipe}, {precision}, {label(workers, threads)}"

            def on_epoch(line: dict[str, Any], name: str = name) -> None:
                if rank == 0:
                    print(f"{name}, epoch {line['epoch']}: loss {line['loss']:.6f}", flush=True)

            smooth = mock.patch("torch.nn.ReLU", torch.nn.SiLU) if recipe == SMOOTH else contextlib.nullcontext()
            with smooth:
                result, curve = trial.run(config, Runtime(), pictures=decoded, place=Nowhere(), on_epoch=on_epoch)
            key = dict(zip(KEY, (recipe, precision, workers, threads), strict=True))
            lines = pd.DataFrame([{**key, **line} for line in curve])[[*KEY, "epoch", "loss", "z_std", "knn_top1"]]
            lines["linear_top1"] = [*[None] * (len(curve) - 1), result["linear_top1"]]
            if rank == 0:
                lines.to_parquet(Path(folder) / f"{number}-{workers}-{threads}.parquet")
        if workers > 1:
            dist.destroy_process_group()


def label(workers: int, threads: int) -> str:
    return f"{workers} worker{'s' * (workers > 1)}" + (f", {threads} threads" if threads > 1 else "")


def report(lines: pd.DataFrame, epochs: int) -> str:
    """The numbers for a person, as Markdown."""
    rows = []
    runs: Any = lines.groupby(KEY, sort=False)
    for (recipe, precision, workers, threads), run in runs:
        first, last = run.iloc[0], run.iloc[-1]
        beyond = run.epoch[run.difference > BOUND]
        rows.append(
            f"| {recipe} | {precision} | {label(workers, threads)} "
            f"| {first.difference:.1e} | {run.difference.max():.1e} | {'never' if beyond.empty else beyond.iloc[0]} "
            f"| {last.loss:.4f} | {last.z_std:.3f} | {last.knn_top1:.1f} | {last.linear_top1:.1f} |"
        )
    return f"""# Workers

`python -m benchmarks.workers --epochs {epochs}`, {datetime.date.today()}: the digits recipe, seed 0, gloo.
simsiam {simsiam.__version__}, torch {torch.__version__}, Python {platform.python_version()}, {provenance.processor()}.

The difference is that of an epoch's loss from the run of one worker with one thread, relative: in the first epoch, the
largest of the whole run, and the first epoch in which it is above {BOUND:g}. The other numbers are of the last epoch.
One worker with two threads is the control: the workers have no part in its difference, only the order of sums has.

| recipe | precision | run | first epoch | whole run | above {BOUND:g} | loss | z_std | kNN top-1 | linear top-1 |
|--------|-----------|-----|-------------|-----------|-------------|------|-------|-----------|--------------|
{chr(10).join(rows)}

![Relative difference of the loss against the epoch](workers.png)
"""


def figure(lines: pd.DataFrame, path: Path) -> None:
    """How far a run is from that of one worker with one thread, over the epochs."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    fig, axes = pyplot.subplots(1, len(TRIALS), figsize=(14, 4), sharey=True, layout="constrained")
    styles = {(2, 1): "-", (4, 1): "--", (1, 2): ":"}
    for panel, (recipe, precision) in zip(axes, TRIALS, strict=True):
        trial = lines[(lines.recipe == recipe) & (lines.precision == precision)]
        for (workers, threads), style in styles.items():
            run = trial[(trial.workers == workers) & (trial.threads == threads)]
            shown = run.difference.clip(lower=1e-17)  # equal to the bit, at the foot of the figure
            panel.plot(run.epoch, shown, style, label=label(workers, threads))
        panel.axhline(BOUND, color="grey", linewidth=0.8)
        panel.set(yscale="log", xlabel="epoch", title=f"{precision}, {recipe}")
    axes[0].set_ylabel("relative difference of the loss")
    axes[0].legend(loc="lower right")
    fig.savefig(path, dpi=150)


if __name__ == "__main__":
    main()
