"""What run.py takes for plans of 1 to 10,000 trainings, none or all of them done: python -m benchmarks.scale

Nothing is trained: results are written as trials write them. Each measurement is a process of its own.
"""

from __future__ import annotations

import datetime
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ablations import encoders, options, planning, provenance, request
from ablations import table as tables
from ablations.columns import TRIAL
from ablations.rebuild import Rebuild
from ablations.store import Store, unfinished

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
ALL = ("--table", "all", "--seeds")
SEEDS = (1, 10, 50, 160)  # of all tables; 160 give some 10,000 trainings


def trials(seeds: int) -> list[tables.Trial]:
    """Those of the command that is measured."""
    asked = options.parser().parse_args([*ALL, str(seeds)])
    return request.read(asked, encoders.Encoders({})).trials(range(seeds))


def finish(store: Store, seeds: int) -> None:
    """A result for each training of the plan."""
    for trial in planning.distinct(trials(seeds)).values():
        numbers = {"knn_top1": 90.0, "knn_top1_init": 50.0, "wall_seconds": 60.0, "test_images": 360}
        result = {**dict.fromkeys(TRIAL), **unfinished(trial.config, "finished", ""), **numbers}
        store.write(result, [{"epoch": 1, "loss": -0.9}])


def rebuild(store: Store, seeds: int) -> tuple[float, float]:
    """Seconds of the first rebuild of all tables, and of one after a single trial has ended."""
    made, every = Rebuild(store, trials(seeds)), []
    for _ in range(2):
        begun = time.monotonic()
        made.at_once()
        every.append(time.monotonic() - begun)
        last = store.trial(trials(1)[0].fingerprint)
        assert last is not None
        store.write({**last, "knn_top1": 91.0}, [{"epoch": 1, "loss": -0.9}])
    return every[0], every[1]


def planned(results: str, seeds: int) -> tuple[float, float]:
    """Wall-clock seconds and MB at most of `run.py --plan`."""
    command = [sys.executable, str(ROOT / "ablations" / "run.py"), *ALL, str(seeds), "--plan"]
    begun = time.monotonic()
    subprocess.run([*command, "--results", results], stdout=subprocess.DEVNULL, check=True)
    return time.monotonic() - begun, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024


def main() -> None:
    lines = []
    for seeds in SEEDS:
        with tempfile.TemporaryDirectory() as folder:
            plan, store = trials(seeds), Store.at(folder)
            empty, _ = planned(folder, seeds)
            finish(store, seeds)
            first, one = rebuild(store, seeds)
            full, megabytes = planned(folder, seeds)
            numbers = f"{empty:.2f} | {full:.2f} | {megabytes:.0f} | {first:.2f} | {one:.2f}"
            lines.append(f"| {len(plan):,} | {len(planning.distinct(plan)):,} | {numbers} |")
            print(lines[-1], flush=True)
    text = f"""# Plans of many trials

    python -m benchmarks.scale

{datetime.date.today()}, {provenance.processor()}, {os.cpu_count()} cores, results on a disk. Seconds of `--plan` with
nothing and with everything done, its memory at most so far in MB, and the rebuild of all tables: the first, and that
after one trial.

| rows and seeds | trainings | nothing done | all done | MB | first rebuild | after one trial |
|---:|---:|---:|---:|---:|---:|---:|
{chr(10).join(lines)}
"""
    print(text)
    (RESULTS / "scale.md").write_text(text)


if __name__ == "__main__":
    main()
