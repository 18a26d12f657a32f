"""What fits a cluster, and what is refused before anything starts."""

from __future__ import annotations

import pytest

from ablations import placement
from ablations.placement import Cluster, Demand, Nodes
from ablations.table import UserError

GPU_NODE = {"CPU": 8, "GPU": 4}
HEAD = {"CPU": 0, "memory": 1e12}


def cluster(*others: tuple[int, dict[str, float]], most: int | None = None) -> Cluster:
    """A head without CPUs, and so many nodes with such resources."""
    return Cluster(HEAD, [Nodes(count, resources) for count, resources in others], most)


@pytest.mark.parametrize(
    ("current", "demand", "expected"),
    [
        (cluster((1, {"CPU": 3})), Demand(1, {"CPU": 1}), 3),
        (cluster((2, {"CPU": 3})), Demand(1, {"CPU": 2}), 2),  # a worker stands on one node
        (cluster((2, GPU_NODE)), Demand(4, {"CPU": 1, "GPU": 1}), 8),
        (cluster((2, GPU_NODE)), Demand(4, {"CPU": 5, "GPU": 1}), 2),  # CPUs bind
        (cluster((1, GPU_NODE)), Demand(1, {"CPU": 1, "GPU": 0.25}), 8),
        (cluster((1, {"CPU": 99, "GPU": 1})), Demand(1, {"CPU": 1, "GPU": 0.1}), 10),  # 1 / 0.1 is no whole float
        (cluster((1, GPU_NODE)), Demand(1, {"GPU": 0.6}), 4),  # a share comes out of one GPU
        (cluster(), Demand(1, {"CPU": 1}), 0),
        (Cluster({"CPU": 3}, [Nodes(1, {"CPU": 2})]), Demand(1, {"CPU": 1}), 5),  # a head may train too
        (
            cluster((8, {"CPU": 1}), (8, {"CPU": 4}), most=8),
            Demand(1, {"CPU": 1}),
            32,
        ),  # as many of the large as may be
        (cluster((8, {"CPU": 1}), (2, {"CPU": 4}), most=8), Demand(1, {"CPU": 1}), 14),  # and small ones besides
        (Cluster({"CPU": 3}, [Nodes(8, {"CPU": 1})], most=2), Demand(1, {"CPU": 1}), 5),  # the head is there anyway
    ],
)
def test_slots_count_workers_node_by_node(current: Cluster, demand: Demand, expected: int) -> None:
    assert placement.slots(current, demand) == expected


def test_as_many_trials_run_as_their_workers_fit() -> None:
    demand = Demand(3, {"CPU": 1, "GPU": 1})
    assert placement.concurrent(cluster((2, GPU_NODE)), None, demand) == 2  # 8 slots, 3 a trial


def test_the_autoscalers_maximum_counts_where_there_is_one() -> None:
    demand = Demand(4, {"CPU": 1, "GPU": 1})
    assert placement.concurrent(cluster(), cluster((5, GPU_NODE)), demand) == 5


@pytest.mark.parametrize(
    ("head", "workers", "expected"),
    [
        ({"CPU": 0, "memory": 2e9 + 3 * 0.7e9}, 2, 3),  # a driver a trial
        ({"CPU": 0, "memory": 1e9}, 2, 1),
        ({"CPU": 0, "memory": 1e9}, 1, 64),  # one worker needs no driver
        ({"CPU": 64, "memory": 2e9 + 3 * 0.7e9}, 1, 3),  # Ray may place all of them on the head
        ({"CPU": 64, "memory": 2e9 + 3 * (0.7e9 + 2 * 0.7e9)}, 2, 3),
    ],
)
def test_the_heads_memory_limits_what_it_carries(head: dict[str, float], workers: int, expected: int) -> None:
    assert placement.concurrent(Cluster(head, [Nodes(1, {"CPU": 64})]), None, Demand(workers, {"CPU": 1})) == expected


@pytest.mark.parametrize(
    ("current", "maximum", "complaint"),
    [
        (Cluster({"CPU": 3}, []), None, r"asks for 4 workers of 1 CPU. The cluster has 1 x 3 CPU: room for 3"),
        (cluster((1, {"CPU": 2}), (1, {"CPU": 1})), None, r"has 1 x 0 CPU; 1 x 2 CPU; 1 x 1 CPU: room for 3"),
        (cluster((1, {"CPU": 1}), (1, {"CPU": 1})), cluster(), r"The cluster has 1 x 0 CPU; 2 x 1 CPU: room for 2"),
        (cluster(), cluster((3, {"CPU": 1})), r"The cluster at most can have 1 x 0 CPU; 3 x 1 CPU: room for 3"),
        (
            cluster(),
            cluster((3, {"CPU": 1}), (3, {"CPU": 1}), most=3),
            r"at most can have 1 x 0 CPU; 6 x 1 CPU, at most 3 besides the head: room for 3",
        ),
        (cluster(), None, r"The cluster has 1 x 0 CPU: room for 0"),
    ],
)
def test_what_can_never_be_placed_is_refused(current: Cluster, maximum: Cluster | None, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        placement.concurrent(current, maximum, Demand(4, {"CPU": 1}))


def test_two_ranks_never_share_a_gpu() -> None:
    placement.check_devices([("a", "0"), ("a", "1"), ("b", "0")])
    with pytest.raises(RuntimeError, match=r"Ranks 0 and 2 share GPU 0 of node a"):
        placement.check_devices([("a", "0"), ("a", "1"), ("a", "0")])
