"""What fits a cluster, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from ablations import placement
from ablations.placement import Ask, Nodes
from ablations.table import UserError

GPU_NODE = {"CPU": 8, "GPU": 4, "memory": 1e11}
HEAD = Nodes(1, {"CPU": 0, "memory": 1e10})
MUCH = 1e12


@pytest.mark.parametrize(
    ("nodes", "ask", "expected"),
    [
        ([Nodes(1, {"CPU": 3})], Ask(1, {"CPU": 1}), 3),
        ([Nodes(2, {"CPU": 3})], Ask(1, {"CPU": 2}), 2),  # a worker stands on one node
        ([Nodes(2, GPU_NODE)], Ask(4, {"CPU": 1, "GPU": 1}), 8),
        ([Nodes(2, GPU_NODE)], Ask(4, {"CPU": 5, "GPU": 1}), 2),  # CPUs bind
        ([Nodes(1, GPU_NODE)], Ask(1, {"CPU": 1, "GPU": 0.25}), 8),
        ([Nodes(1, {"CPU": 99, "GPU": 1})], Ask(1, {"CPU": 1, "GPU": 0.1}), 10),  # 1 / 0.1 is no whole number in floats
        ([Nodes(1, GPU_NODE)], Ask(1, {"GPU": 0.6}), 4),  # a share comes out of one GPU
        ([HEAD], Ask(1, {"CPU": 1}), 0),
        ([], Ask(1, {"CPU": 1}), 0),
    ],
)
def test_slots_count_workers_node_by_node(nodes: list[Nodes], ask: Ask, expected: int) -> None:
    assert placement.slots(nodes, ask) == expected


def test_as_many_trials_run_as_their_workers_fit() -> None:
    ask = Ask(3, {"CPU": 1, "GPU": 1})
    assert placement.concurrent([HEAD, Nodes(2, GPU_NODE)], [], ask, MUCH) == 2  # 8 slots, 3 a trial


def test_the_autoscalers_maximum_counts_where_there_is_one() -> None:
    ask = Ask(4, {"CPU": 1, "GPU": 1})
    assert placement.concurrent([HEAD], [HEAD, Nodes(5, GPU_NODE)], ask, MUCH) == 5


def test_the_heads_memory_limits_how_many_drivers_it_carries() -> None:
    ask = Ask(1, {"CPU": 1})
    assert placement.concurrent([Nodes(1, {"CPU": 64})], [], ask, 2e9 + 3 * 1.25e9) == 3
    assert placement.concurrent([Nodes(1, {"CPU": 64})], [], ask, 1e9) == 1


@pytest.mark.parametrize(
    ("there", "possible", "complaint"),
    [
        ([Nodes(1, {"CPU": 3})], [], r"asks for 4 workers of 1 CPU. The cluster has 1 x 3 CPU: room for 3"),
        ([HEAD], [Nodes(3, {"CPU": 1})], r"The cluster at most can have 3 x 1 CPU: room for 3"),
        ([HEAD], [], r"The cluster has 1 x 0 CPU: room for 0"),
    ],
)
def test_what_can_never_be_placed_is_refused(there: list[Nodes], possible: list[Nodes], complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        placement.concurrent(there, possible, Ask(4, {"CPU": 1}), MUCH)


def test_two_ranks_never_share_a_gpu() -> None:
    placement.check_devices([("a", "0"), ("a", "1"), ("b", "0")])
    with pytest.raises(RuntimeError, match=r"Ranks 0 and 2 share GPU 0 of node a"):
        placement.check_devices([("a", "0"), ("a", "1"), ("a", "0")])
