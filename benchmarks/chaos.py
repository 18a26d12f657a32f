"""A table under fire, against the same table left in peace: python -m benchmarks.chaos

On a Ray cluster of several nodes on this machine, a seeded schedule kills workers, trial drivers, nodes, the run.py
driver and once the head, all by SIGKILL, and takes nodes away after a notice, as a cloud does with a spot machine. The
same command is started again whenever it died, as a user would.
"""

from __future__ import annotations

import argparse
import collections
import datetime
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd

from ablations import provenance
from ablations.columns import METRICS
from simsiam import config as configs

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results"

KINDS = {"worker": 5, "trial driver": 3, "node": 3, "node after a notice": 3, "run.py": 2}  # how often each is drawn
WORKER, DRIVER = "ray::RayTrainWorker", "ray::ImplicitFunc"  # a trial of one worker has but the driver, which trains
TRAINS = (WORKER, DRIVER, "ray::SynchronizationActor")  # not to be left behind
PAUSE = 4.0, 14.0  # seconds between two kills, at least: a trial takes about 30
NOTICE = 10  # seconds from the notice to the end of the node

TRIALS = 12
TABLE = ["--table", "stop_gradient", "--seeds", str(TRIALS // 2), "--checkpoint-seconds", "1"]
TABLE += ["--set", "epochs=40", "--set", "width=4"]
SCIENCE = ["table", "row", "recipe", "overrides", "seed", *METRICS, *configs.FIELDS]


@dataclass
class Site:
    """A cluster on this machine: a head without CPUs, and nodes.

    Args:
        nodes: how many besides the head.
        cpus: of each.
    """

    nodes: int
    cpus: int
    cluster: Any = None
    others: list[Any] = field(default_factory=list)

    def start(self) -> None:
        from ray.cluster_utils import Cluster

        self.cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "object_store_memory": 100 << 20})
        self.others = []
        for _ in range(self.nodes):
            self.add()

    def add(self) -> None:
        self.others.append(self.cluster.add_node(num_cpus=self.cpus, object_store_memory=100 << 20))

    def lose(self, node: Any) -> None:
        """A node goes without a word, and another comes."""
        self.others.remove(node)
        self.cluster.remove_node(node, allow_graceful=False)
        self.add()

    def drain(self, node: Any, seconds: int) -> None:
        """Ray is told that a node will go."""
        command = [str(Path(sys.executable).with_name("ray")), "drain-node", "--address", self.cluster.address]
        command += ["--node-id", node.node_id, "--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
        command += ["--deadline-remaining-seconds", str(seconds)]
        environment = {**os.environ, "RAY_AUTH_MODE": "disabled"}
        subprocess.run(command, env=environment, check=True, capture_output=True)

    def busy(self, beginning: str) -> list[Any]:
        """The nodes besides the head with a worker of Ray's whose title begins so."""
        parents = {parent for _, parent, title in processes() if title.startswith(beginning)}
        return [node for node in self.others if _raylet(node) in parents]

    def lose_head(self) -> None:
        """The head goes without a word, and its nodes with it; a new cluster comes."""
        self.cluster.remove_node(self.cluster.head_node, allow_graceful=False)
        self.stop()
        self.start()

    def stop(self) -> None:
        self.cluster.shutdown()

    def raylets(self) -> list[int]:
        found = [_raylet(node) for node in (self.cluster.head_node, *self.others) if node is not None]
        return [pid for pid in found if pid is not None]


def _raylet(node: Any) -> int | None:
    started = node.all_processes.get("raylet")
    return started[0].process.pid if started else None


def processes() -> Iterator[tuple[int, int, str]]:
    """(pid, parent's pid, title) of each process there is."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parent = int((path / "stat").read_text().rpartition(")")[2].split()[1])
            yield int(path.name), parent, (path / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:  # it has just ended
            continue


def victims(site: Site, beginning: str) -> list[int]:
    """Ray's workers on this site whose title begins so."""
    raylets = set(site.raylets())
    return [pid for pid, parent, title in processes() if parent in raylets and title.startswith(beginning)]


def start(results: Path, address: str | None, workers: int) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    command = [sys.executable, str(ROOT / "ablations" / "run.py"), *TABLE, "--results", str(results)]
    if address is None:
        command += ["--launcher", "local"]
    else:
        environment["RAY_ADDRESS"] = address
        command += ["--workers", str(workers)]
    log = open(results.with_suffix(".log"), "ab")  # noqa: SIM115
    return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT)


class Fire:
    """The schedule: what is killed, and when."""

    def __init__(self, site: Site, results: Path, workers: int, seed: int, kills: int) -> None:
        self.site, self.results, self.random = site, results, random.Random(seed)
        self.trains = WORKER if workers > 1 else DRIVER
        drawn = {kind: often for kind, often in KINDS.items() if workers > 1 or kind != "trial driver"}
        self.kinds = ["head", *self.random.choices([*drawn], [*drawn.values()], k=kills - 1)]
        self.random.shuffle(self.kinds)
        self.kills = kills
        self.killed: list[tuple[str, int]] = []  # what, and how many trials were finished then
        self.next = time.monotonic() + 20  # so that something runs

    def __call__(self, run: subprocess.Popen[bytes]) -> None:
        """Kill, if it is time. What is not there yet gets its time once it is."""
        if not self.kinds or time.monotonic() < self.next:
            return
        finished = len([*self.results.glob("trials/*.parquet")])
        # Every trial gets its share but the last ones, which would end before theirs.
        if finished * self.kills < len(self.killed) * (TRIALS - 3):
            return
        if not self._kill(self.kinds[-1], run):
            self.next = time.monotonic() + self.random.uniform(*PAUSE)
            return
        self.killed.append((self.kinds.pop(), finished))
        self.next = time.monotonic() + self.random.uniform(*PAUSE)
        print(f"{len(self.killed):3} {self.killed[-1][0]}, {finished} of {TRIALS} trials finished", flush=True)

    def _kill(self, kind: str, run: subprocess.Popen[bytes]) -> bool:
        if kind == "node":
            self.site.lose(self.random.choice(self.site.others))
        elif kind == "node after a notice":
            if not (busy := self.site.busy(self.trains)):
                return False
            node = self.random.choice(busy)
            self.site.drain(node, NOTICE)
            time.sleep(NOTICE)
            self.site.lose(node)
        elif kind == "head":
            run.kill()
            self.site.lose_head()
        elif kind == "run.py":
            run.kill()
        else:
            found = victims(self.site, DRIVER if kind == "trial driver" else self.trains)
            if not found:
                return False
            os.kill(self.random.choice(sorted(found)), signal.SIGKILL)
        return True


def under_fire(results: Path, workers: int, seed: int, kills: int) -> tuple[list[tuple[str, int]], int]:
    """The table, killed again and again -> what was killed and when, and how often the command was started."""
    site = Site(nodes=3, cpus=1)
    site.start()
    fire, starts = Fire(site, results, workers, seed, kills), 0
    try:
        while True:
            run, starts = start(results, site.cluster.address, workers), starts + 1
            while run.poll() is None:
                fire(run)
                time.sleep(0.2)
            if run.returncode == 0:
                break
        left = leftovers(site)
    finally:
        site.stop()
    assert not left, f"left behind: {left}"
    assert len(fire.killed) > kills / 2, f"the table ended before {fire.kinds}"
    return fire.killed, starts


def leftovers(site: Site) -> list[str]:
    """Placement groups and processes of the trials that are still there a minute after the end."""
    import ray

    os.environ["RAY_AUTH_MODE"] = "disabled"
    ray.init(address=site.cluster.address, log_to_driver=False, logging_level="ERROR")
    limit = time.monotonic() + 60
    while True:
        groups = ray.util.placement_group_table().values()
        left = [f"placement group {group['state']}" for group in groups if group["state"] != "REMOVED"]
        left += [title for title in TRAINS for _ in victims(site, title)]
        if not left or time.monotonic() > limit:
            ray.shutdown()
            return left
        time.sleep(1)


def same(one: Path, other: Path) -> None:
    """Raises AssertionError unless two tables agree in every scientific column, bit for bit, and in every curve."""
    tables = [pd.read_parquet(folder / "stop_gradient.parquet") for folder in (one, other)]
    assert not tables[0].duplicated(["row", "seed"]).any()
    pd.testing.assert_frame_equal(*(table[SCIENCE] for table in tables), check_exact=True)
    for fingerprint in tables[0].fingerprint:
        curves = [pd.read_parquet(folder / "curves" / f"{fingerprint}.parquet") for folder in (one, other)]
        pd.testing.assert_frame_equal(
            *(curve.drop(columns=["seconds", "eval_seconds", "images_per_second"]) for curve in curves),
            check_exact=True,
        )
    assert not [*other.glob("checkpoints/*")]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.chaos")
    parser.add_argument("--seed", type=int, default=0, help="of the schedule")
    parser.add_argument("--kills", type=int, default=24)
    parser.add_argument("--workers", type=int, default=2, help="of a trial")
    args = parser.parse_args(argv)
    folder = Path(tempfile.mkdtemp(prefix="chaos-"))
    print(f"Logs and results: {folder}", flush=True)
    seconds = {}
    begun = time.monotonic()
    peace = folder / "peace"
    site = Site(nodes=3, cpus=1)
    site.start()
    try:
        assert start(peace, site.cluster.address, args.workers).wait() == 0
    finally:
        site.stop()
    seconds["in peace"] = time.monotonic() - begun
    begun = time.monotonic()
    killed, starts = under_fire(folder / "fire", args.workers, args.seed, args.kills)
    seconds["under fire"] = time.monotonic() - begun
    same(peace, folder / "fire")
    assert len(pd.read_parquet(folder / "fire" / "stop_gradient.parquet")) == TRIALS
    kinds, moments = (collections.Counter(each) for each in zip(*killed, strict=True))
    late = f"; it ended before {args.kills - len(killed)} more" if len(killed) < args.kills else ""
    report = f"""# A table under fire

    python -m benchmarks.chaos --seed {args.seed} --kills {args.kills} --workers {args.workers}

{datetime.date.today()}, ray {provenance.version("ray")}, torch {provenance.version("torch")}, {provenance.processor()},
{os.cpu_count()} cores. A head without CPUs and 3 nodes of 1 CPU on one machine; {TRIALS} trials of {args.workers}
worker{"s" * (args.workers > 1)}.

- Kills, all by SIGKILL, some after a notice of {NOTICE} s (`ray drain-node`): {len(killed)}
  ({", ".join(f"{n} {kind}" for kind, n in sorted(kinds.items()))}), spread over the table:
  {", ".join(f"{moments[n]}" for n in range(TRIALS))} with 0, 1, 2 ... trials finished{late}.
- The command was started {starts} times in all; it ended with exit code 0.
- All {TRIALS} rows equal those of the undisturbed run, bit for bit, in every scientific column and in every curve.
- No row lost, none doubled; no checkpoint, worker, driver or placement group left behind.
- Time: {seconds["under fire"]:.0f} s, undisturbed {seconds["in peace"]:.0f} s:
  {(seconds["under fire"] - seconds["in peace"]) / len(killed):.0f} s a kill, on a machine with other work.
"""
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / ("chaos.md" if args.workers > 1 else "chaos_alone.md")).write_text(report)
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
