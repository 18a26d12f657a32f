"""What a trial asks for, and how many trials a cluster can hold at once. Arithmetic alone: nothing here knows Ray."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from ablations.table import UserError

_HEAD_BYTES = 2e9  # of memory that the head needs for itself
_TRIAL_BYTES = 1.25e9  # and for the driver, the controller and the other actors of each trial


@dataclass(frozen=True)
class Ask:
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


def slots(nodes: Sequence[Nodes], ask: Ask) -> int:
    """How many of the workers asked for the nodes hold at once."""
    return sum(
        kind.count * min(_times(kind.resources.get(name, 0), amount) for name, amount in ask.worker.items())
        for kind in nodes
    )


def _times(there: float, amount: float) -> int:
    """How many times an amount is there. A share of a GPU comes out of one GPU."""
    if amount < 1:
        return int(there) * int(1 / amount + 1e-9)
    return int(there / amount)


def concurrent(there: Sequence[Nodes], possible: Sequence[Nodes], ask: Ask, head_bytes: float) -> int:
    """How many trials can run at once, at least 1. With more, trials would wait for each other for ever.

    Args:
        there: the nodes that the cluster has now.
        possible: those that its autoscaler could make of it; empty without one.
        head_bytes: memory of the head, which carries every trial's driver.

    Raises UserError if not even one trial can ever be placed.
    """
    most = max(slots(there, ask), slots(possible, ask))
    if most < ask.workers:
        nodes = possible if slots(possible, ask) >= slots(there, ask) and possible else there
        has = "; ".join(f"{kind.count} x {_text(kind.resources, ask)}" for kind in nodes) or "no node"
        what = "at most can have" if nodes is possible else "has"
        raise UserError(
            f"A trial asks for {ask}. The cluster {what} {has}: room for {most}. Use fewer --workers, "
            "fewer --loader-processes, or a larger cluster."
        )
    by_memory = int((head_bytes - _HEAD_BYTES) // _TRIAL_BYTES)
    return max(1, min(most // ask.workers, by_memory))


def _text(resources: Mapping[str, float], ask: Ask) -> str:
    return " and ".join(f"{resources.get(name, 0):g} {name}" for name in ask.worker)


def check_devices(devices: Sequence[tuple[str, str]]) -> None:
    """Raises RuntimeError if two ranks share a GPU, which NCCL does not support. Each device is (node, GPU)."""
    for rank, device in enumerate(devices):
        first = devices.index(device)
        if first != rank:
            raise RuntimeError(f"Ranks {first} and {rank} share GPU {device[1]} of node {device[0]}.")
