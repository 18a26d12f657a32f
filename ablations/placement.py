"""What a trial asks for, and how many trials a cluster can hold at once. Nothing here knows Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from ablations.table import UserError
from simsiam import precision
from simsiam.config import Config, Runtime

_HEAD_BYTES = 2e9  # of memory that the head needs for itself
# As benchmarks.overhead measures them, rounded up: what stands on the head for a trial of several workers, and what a
# process that trains holds, where the training itself is small.
_DRIVER_BYTES, _WORKER_BYTES = 0.7e9, 0.7e9


@dataclass(frozen=True)
class Demand:
    """What one trial's workers ask for.

    Args:
        workers: how many; they may stand on different nodes.
        worker: resource -> amount, of one worker.
    """

    workers: int
    worker: Mapping[str, float]

    def __str__(self) -> str:
        each = " and ".join(f"{amount:g} {name}" for name, amount in self.worker.items())
        return f"{self.workers} worker{'s' * (self.workers > 1)} of {each}"


@dataclass(frozen=True)
class Nodes:
    """Nodes of one kind: how many there are or may be, and what each has."""

    count: int
    resources: Mapping[str, float]


@dataclass(frozen=True)
class Cluster:
    """The nodes that there are, or that an autoscaler could make of them.

    Args:
        head: what the head has.
        others: kinds of nodes besides it.
        most: of the others at once, of all kinds together; None for as many as their counts say.
    """

    head: Mapping[str, float]
    others: Sequence[Nodes]
    most: int | None = None

    @property
    def kinds(self) -> list[Nodes]:
        return [Nodes(1, self.head), *self.others]


def demand(runtime: Runtime, *clusters: Cluster | None) -> Demand:
    """A CPU for each thread and for each loader process; where there are GPUs, one of them or a share of it.

    Raises UserError for a share of a GPU where there are none.
    """
    worker = {"CPU": float(runtime.threads + runtime.loader_processes)}
    kinds = [kind for cluster in clusters if cluster for kind in cluster.kinds if kind.count]
    if any(kind.resources.get("GPU") for kind in kinds):
        worker["GPU"] = runtime.gpu_fraction
    elif runtime.gpu_fraction != 1:
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs GPUs; the cluster has none. Leave it out.")
    return Demand(runtime.workers, worker)


def slots(cluster: Cluster, demand: Demand) -> int:
    """How many of the workers asked for a cluster holds at once."""
    held = _held(cluster.head, demand)
    room = sum(kind.count for kind in cluster.others) if cluster.most is None else cluster.most
    for kind in sorted(cluster.others, key=lambda kind: _held(kind.resources, demand), reverse=True):
        count = min(kind.count, room)
        held += count * _held(kind.resources, demand)
        room -= count
    return held


def _held(resources: Mapping[str, float], demand: Demand) -> int:
    """How many of the workers one node holds."""
    return min(_times(resources.get(name, 0), amount) for name, amount in demand.worker.items())


def _times(there: float, amount: float) -> int:
    """How many times an amount is there. A share of a GPU comes out of one GPU."""
    if amount < 1:
        return int(there) * int(1 / amount + 1e-9)
    return int(there / amount)


def concurrent(current: Cluster, maximum: Cluster | None, demand: Demand) -> int:
    """How many trials can run at once, at least 1. With more, trials would wait for each other for ever.

    Args:
        current: what the cluster has now; its head's memory carries the driver of every trial of several workers.
        maximum: what its autoscaler could make of it; None without one.

    Raises UserError if not even one trial can ever be placed.
    """
    clusters = {"has": current} | ({"at most can have": maximum} if maximum else {})
    can = max(clusters, key=lambda name: slots(clusters[name], demand))
    most = slots(clusters[can], demand)
    if most < demand.workers:
        raise UserError(
            f"A trial asks for {demand}. The cluster {can} {_text(clusters[can], demand)}: room for {most}. "
            "Use fewer --workers, fewer --loader-processes, or a larger cluster."
        )
    room = max(0, current.head.get("memory", 0) - _HEAD_BYTES)
    return max((n for n in range(1, most // demand.workers + 1) if _on_head(n, current, demand) <= room), default=1)


def _on_head(trials: int, cluster: Cluster, demand: Demand) -> float:
    """Bytes of memory that so many trials take at most on the head."""
    drivers = trials if demand.workers > 1 else 0  # a trial of one worker needs none
    return drivers * _DRIVER_BYTES + min(trials * demand.workers, _held(cluster.head, demand)) * _WORKER_BYTES


def _text(cluster: Cluster, demand: Demand) -> str:
    """What a cluster has of what is asked for: '1 x 0 CPU; 9 x 8 CPU, at most 5 besides the head'."""
    counts: Counter[str] = Counter()
    for kind in cluster.kinds:
        counts[" and ".join(f"{kind.resources.get(name, 0):g} {name}" for name in demand.worker)] += kind.count
    limit = "" if cluster.most is None else f", at most {cluster.most} besides the head"
    return "; ".join(f"{count} x {each}" for each, count in counts.items()) + limit


def decoding(in_memory: bool, runtime: Runtime) -> str | None:
    """What to tell of where the pictures are decoded, since what trains would wait for them; None where it does not."""
    if in_memory or runtime.loader_processes:
        return None
    return (
        "The pictures are not held in memory: each worker decodes them while it trains, in the same process. "
        "--loader-processes N has N others do it."
    )


def check_precision(configs: Iterable[Config], device: str) -> None:
    """Raises UserError for a precision that no trial of these Configs could have there, `cpu` or `cuda`."""
    for config in configs:
        try:
            precision.check(config.precision, torch.device(device))
        except ValueError as error:
            raise UserError(str(error)) from None


def check_devices(devices: Sequence[Sequence[str]]) -> None:
    """Raises RuntimeError if two ranks share a GPU, which NCCL does not support. Each device is (node, GPU)."""
    for rank, device in enumerate(devices):
        first = devices.index(device)
        if first != rank:
            raise RuntimeError(f"Ranks {first} and {rank} share GPU {device[1]} of node {device[0]}.")
