"""The cluster: what it has and may have, and whether its nodes see what they need."""

from __future__ import annotations

import json
import os
from pathlib import Path

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from ablations import machines
from ablations.launch import HEAD, notices
from ablations.placement import Cluster, Nodes
from ablations.store import Store
from ablations.table import UserError
from simsiam.buckets import is_bucket
from simsiam.data import is_public


def current() -> Cluster:
    """The nodes that there are, without those that will go."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    head = next(resources for resources in alive.values() if HEAD in resources)
    leave = notices.going()
    others = [resources for name, resources in alive.items() if resources is not head and name not in leave]
    return Cluster(head, [Nodes(1, resources) for resources in others])


def maximum() -> Cluster | None:
    """The autoscaler's maximum; None without one. Ray does not tell it to programs.

    `ray up` leaves the cluster's file on the head. Elsewhere the variable SIMSIAM_NODES says what there may be besides
    the head, as JSON: [{"count": 8, "resources": {"CPU": 8, "GPU": 1}}].
    """
    if text := os.environ.get("SIMSIAM_NODES"):
        try:
            kinds = [machines.nodes(kind["count"], kind["resources"]) for kind in json.loads(text)]
            return Cluster(current().head, kinds)
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f'SIMSIAM_NODES must be like [{{"count": 8, "resources": {{"CPU": 8}}}}]. Got {text} instead ({error}).'
            ) from None
    file = Path.home() / "ray_bootstrap_config.yaml"
    if not file.exists():
        return None
    return machines.of_ray(yaml.safe_load(file.read_text()), current().head)


def check_that_nodes_see(store: Store, scratch: str, data_path: str | None) -> None:
    """Raises UserError if a node lacks the results folder, or the data folder that its workers will read."""
    marker = _marker(scratch)
    store.folder.write(marker, b"")
    paths = [] if store.folder.bucket else [f"{store.folder.uri}/{marker}"]
    if data_path and not is_bucket(data_path) and not is_public(data_path):  # which each node fetches
        paths.append(data_path)
    here = ray.get_runtime_context().get_node_id()
    others = [node for node in ray.nodes() if node["Alive"] and node["NodeID"] != here]
    looks = {
        node["NodeManagerAddress"]: _missing.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote(paths)
        for node in others
        if paths
    }
    for address, look in looks.items():
        try:
            missing = ray.get(look)
        except ray.exceptions.RayError as error:  # say, the code could not be brought there
            raise UserError(f"Node {address} could not be asked what it sees: {error}") from None
        for path in missing:
            what = f"the results folder {store.folder}" if path.endswith(marker) else f"the data folder {path}"
            raise UserError(_unseen(address, what))


def check_that_this_node_sees(store: Store, scratch: str) -> None:
    """The same, asked by a worker, whose node may have come later. Raises UserError."""
    if store.folder.modified(_marker(scratch)) is None:
        raise UserError(_unseen(ray.util.get_node_ip_address(), f"the results folder {store.folder}"))


def _marker(scratch: str) -> str:
    return f"{scratch}/marker"


def _unseen(address: str, what: str) -> str:
    return f"Node {address} does not see {what}. Use a folder that all nodes mount, or a bucket."


@ray.remote
def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
