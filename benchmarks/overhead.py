"""What a trial on Ray costs beyond its own training, before and after: python -m benchmarks.overhead

Trials of a second each, one after another, by the code of a commit and by the code that is here, in turn. Each run is
one child of this process, with a Ray of its own.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import functools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"
BEFORE = "0e7df50"

SMALL = dict(image_size=8, width=4, dim=16, projector_hidden=16, predictor_hidden=4, epochs=1, train_images=256)
OF_ALL = (
    "IDLE",
    "_Latest",
    "_Said",
    "DashboardAgent",
    "RuntimeEnvAgent",
    "_AutoscalingCoordinatorActor",
)  # trials, or of a node


# What a child does, with the code of its own folder.


def child(results: str, workers: int, seeds: int) -> None:
    """Train a table, and print how long each part took, as JSON in the last line."""
    sys.path[0] = os.getcwd()
    begun = time.monotonic()
    seconds: dict[str, float] = {}
    moments: list[tuple[str, float]] = [("its start", time.time())]
    from ablations import launch, run

    try:
        from ablations.launch import connection
    except ImportError:  # before, it stood there
        from ablations.launch import cluster as connection  # type: ignore[no-redef]

    seconds["imports of run.py"] = time.monotonic() - begun

    def timed(owner: Any, name: str, label: str) -> None:
        inner = getattr(owner, name)

        def outer(*args: Any, **kwargs: Any) -> Any:
            start = time.monotonic()
            moments.append((label, time.time()))
            try:
                return inner(*args, **kwargs)
            finally:
                seconds[label] = seconds.get(label, 0.0) + time.monotonic() - start
                moments.append((f"{label} over", time.time()))

        setattr(owner, name, outer)

    timed(connection, "_code", "code")
    # Room for one trial at once: what one costs is then what lies between the end of one and the start of the next.
    connection.ray.init = functools.partial(connection.ray.init, num_cpus=workers)
    timed(connection.ray, "init", "ray.init")
    timed(connection.ray, "shutdown", "ray.shutdown")

    def time_tuner() -> None:
        from ablations.launch import tuner

        timed(tuner.ours, "shared", "data")
        timed(tuner.tune.Tuner, "fit", "fit")

    if hasattr(launch, "ready"):  # to import tuner now would import torch before Ray starts, and not meanwhile
        connected = connection.connected

        @contextlib.contextmanager
        def then_timed() -> Iterator[None]:
            with connected():
                time_tuner()
                yield

        connection.connected = then_timed
    else:
        time_tuner()
    from ablations.progress import Progress

    start = Progress.start

    def started(self: Any, fingerprint: str) -> None:
        moments.append(("starting", time.time()))
        start(self, fingerprint)

    Progress.start = started  # type: ignore[method-assign]
    command = ["--table", "stop_gradient", "--rows", "with", "--seeds", str(seeds), "--workers", str(workers)]
    command += [part for name, value in SMALL.items() for part in ("--set", f"{name}={value}")]
    with _sampled() as memory:
        assert run.main([*command, "--results", results]) == 0
    seconds["all"] = time.monotonic() - begun
    print(json.dumps({"seconds": seconds, "moments": moments, "memory": memory}))


@contextlib.contextmanager
def _sampled() -> Iterator[list[dict[str, list[float]]]]:
    """At each moment, kind -> [processes, megabytes of their own together] of Ray's workers under this process."""
    found: list[dict[str, list[float]]] = []
    over = threading.Event()
    kinds: dict[int, str] = {}

    def look() -> None:
        while not over.wait(0.5):
            now: dict[str, list[float]] = {}
            for pid, title, megabytes in _workers():
                # A process is called after its actor, but after a task while it works on one that has a name.
                known = kinds.get(pid, "execute")
                kinds[pid] = title if known in ("IDLE", "execute") else known
                kind = now.setdefault(kinds[pid], [0, 0.0])
                kind[0] += 1
                kind[1] += megabytes
            found.append(now)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def _workers() -> Iterator[tuple[int, str, float]]:
    """(process, title, megabytes that are its own alone) of each worker of the Ray that this process started."""
    parents: dict[int, int] = {}
    for path in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
    for pid, parent in parents.items():
        if parents.get(parent) == os.getpid():  # the raylet is a child of this process
            with contextlib.suppress(OSError):
                title = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0].decode().split(".")[0]
                text = Path(f"/proc/{pid}/smaps_rollup").read_text()
                if title.startswith("ray::"):
                    own = sum(map(int, re.findall(r"Private_Dirty: +(\d+)", text))) / 1024
                    yield pid, title.removeprefix("ray::"), own


# What the parent makes of it.


def measure(checkout: Path, workers: int, seeds: int) -> dict[str, Any]:
    """One run of a checkout -> seconds of each part, and megabytes."""
    import pandas as pd

    environment = {**os.environ, "RAY_ADDRESS": "local", "RAY_AUTH_MODE": "disabled"}
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        command = [sys.executable, str(ROOT / "benchmarks" / "overhead.py"), "--child", folder]
        command += ["--workers", str(workers), "--trials", str(seeds)]
        out = subprocess.run(command, cwd=checkout, env=environment, stdout=subprocess.PIPE, text=True, check=True)
        told = json.loads(out.stdout.splitlines()[-1])
        table = pd.read_parquet(Path(folder) / "stop_gradient.parquet").sort_values("started")
    begun, ended = ([moment.timestamp() for moment in table[name]] for name in ("started", "ended"))
    moments: Callable[[str], list[float]] = lambda name: [at for what, at in told["moments"] if what == name]  # noqa: E731
    gaps = [start - end for start, end in zip(begun[1:], ended[:-1], strict=True)]
    seconds = told["seconds"]
    memory = [{kind: pair for kind, pair in now.items() if kind not in OF_ALL} for now in told["memory"]]
    most: Callable[[str], list[float]] = lambda kind: [  # noqa: E731
        max(each) for each in zip(*(now[kind] for now in memory if kind in now), strict=True)
    ]
    kinds = {kind: most(kind) for kind in sorted(set().union(*memory))}
    trains = "RayTrainWorker" if "RayTrainWorker" in kinds else "ImplicitFunc"
    beside = [[pair for kind, pair in now.items() if kind != trains] for now in memory]
    return {
        "imports of run.py": seconds["imports of run.py"],
        "ray.init": seconds["ray.init"],
        "code": seconds["code"],
        "data": seconds["data"],
        "process of the first": moments("starting")[0] - moments("fit")[0],
        "its workers": begun[0] - moments("starting")[0],
        "first, from ray.init to its training": begun[0] - moments("ray.init")[0],
        "first, from the start of run.py": begun[0] - moments("its start")[0],
        "each further one": sum(gaps) / len(gaps),
        "training": sum(b - a for a, b in zip(begun, ended, strict=True)) / len(begun),
        "end of the last": moments("fit over")[0] - ended[-1],
        "ray.shutdown": seconds["ray.shutdown"],
        "all": seconds["all"],
        "processes beside those that train": max(sum(count for count, _ in now) for now in beside),
        "their memory, MB": max(sum(own for _, own in now) for now in beside),
        "a process that trains, MB": max(now[trains][1] / now[trains][0] for now in memory if trains in now),
        "kinds": {kind: [round(n) for n in pair] for kind, pair in kinds.items()},
    }


@contextlib.contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """A folder with the code of a commit."""
    with tempfile.TemporaryDirectory(prefix="before-") as folder:
        archive = subprocess.run(["git", "archive", commit], cwd=ROOT, stdout=subprocess.PIPE, check=True)
        subprocess.run(["tar", "-x", "-C", folder], input=archive.stdout, check=True)
        yield Path(folder)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.overhead")
    parser.add_argument("--trials", type=int, default=6, help="of each run, more than there are cores (default: 6)")
    parser.add_argument("--workers", type=int, help="of a trial (default: 1, then 2)")
    parser.add_argument(
        "--before", default=BEFORE, help=f"a commit; 'none' for the code that is here alone (default: {BEFORE})"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        child(args.child, args.workers, args.trials)
        return
    found: dict[str, dict[str, Any]] = {}
    with contextlib.ExitStack() as stack:
        sides = {"after": ROOT}
        if args.before != "none":
            sides = {"before": stack.enter_context(checked_out(args.before)), **sides}
        for workers in [args.workers] if args.workers else [1, 2]:
            for side, checkout in sides.items():
                name = f"{workers} worker{'s' * (workers > 1)}, {side}"
                found[name] = measure(checkout, workers, args.trials)
                print(name, json.dumps(found[name], indent=1), flush=True)
    text = report(found, args)
    print(text)
    if not args.workers and args.before != "none":
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "overhead.md").write_text(text)


def report(found: dict[str, dict[str, Any]], args: argparse.Namespace) -> str:
    """The numbers for a person, as Markdown."""
    sys.path.insert(0, str(ROOT))
    from ablations import provenance

    names = [name for name in next(iter(found.values())) if name != "kinds"]
    digits = {name: 0 if "MB" in name or "processes" in name else 2 for name in names}
    rows = [f"| {name} | {' | '.join(f'{run[name]:.{digits[name]}f}' for run in found.values())} |" for name in names]
    kinds = [
        f"- {run}: " + "; ".join(f"{n} {title}, {size} MB" for title, (n, size) in sorted(found[run]["kinds"].items()))
        for run in found
    ]
    return f"""# What a trial on Ray costs beyond its training

    python -m benchmarks.overhead --trials {args.trials} --before {args.before}

{datetime.date.today()}, ray {provenance.version("ray")}, torch {provenance.version("torch")},
{provenance.processor()}, {os.cpu_count()} cores. {args.trials} trials of 256 digits and one epoch,
one after another; before is commit {args.before}. Seconds, each column one run, in the order of the columns; memory is
what a process holds alone (private dirty), at its most.

| | {" | ".join(found)} |
|---|{"---:|" * len(found)}
{chr(10).join(rows)}

All processes of Ray's for trials, at their most:

{chr(10).join(kinds)}
"""


if __name__ == "__main__":
    main()
