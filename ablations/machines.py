"""Which machines a cluster file may start: Ray's own, that `ray up` takes, or a RayJob or RayCluster of KubeRay."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from ablations import placement
from ablations.placement import Cluster, Nodes
from ablations.table import UserError
from simsiam.config import Runtime

_KUBERAY = {"RayCluster": (), "RayJob": ("rayClusterSpec",)}  # kind -> where its spec has the cluster's


def at_once(path: str, runtime: Runtime) -> int:
    """How many trials the machines of a cluster file hold at once.

    Raises UserError for a file that does not say what its machines have, and where they cannot hold even one trial.
    """
    cluster = of_file(path)
    demand = placement.demand(runtime, cluster)
    most = placement.slots(cluster, demand)
    if most < demand.workers:
        raise UserError(f"--cluster {path}: a trial asks for {demand}, and its machines have room for {most}.")
    return most // demand.workers


def of_file(path: str) -> Cluster:
    """What a cluster file may start besides the head, on which nothing is trained. Raises UserError."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise UserError(f"--cluster {path} cannot be read: {said}.") from None
    try:
        for document in filter(None, documents):
            if document.get("kind") in _KUBERAY:
                return _of_kuberay(document)
            if "available_node_types" in document:
                return _told(of_ray(document, {}), path)
    except (AttributeError, KeyError, TypeError, ValueError, IndexError) as error:
        raise UserError(f"--cluster {path}: its machines cannot be read ({type(error).__name__}: {error}).") from None
    raise UserError(
        f"--cluster {path} has neither Ray's available_node_types nor a RayJob or RayCluster of KubeRay: it does not "
        "say how many machines there are and what each has. Leave --cluster out."
    )


def of_ray(config: Mapping[str, Any], head: Mapping[str, float]) -> Cluster:
    """What a file of `ray up` may start besides this head."""
    most, kinds = config.get("max_workers", 0), config.get("available_node_types", {})
    others = {name: kind for name, kind in kinds.items() if name != config.get("head_node_type")}
    counted = [nodes(kind.get("max_workers", most), kind.get("resources", {})) for kind in others.values()]
    return Cluster(head, counted, most)


def nodes(count: Any, resources: Mapping[str, Any]) -> Nodes:
    """Nodes of one kind as a file has them. Raises ValueError, TypeError and AttributeError for what are none."""
    return Nodes(int(count), {name: float(amount) for name, amount in resources.items()})


def _told(cluster: Cluster, path: str) -> Cluster:
    """A cluster of which each kind of machine says what it has. Raises UserError."""
    if any("CPU" not in kind.resources for kind in cluster.others):
        raise UserError(
            f"--cluster {path}: a kind of machine does not say what it has, and no cloud is asked. "
            "Write it there, as resources: {CPU: 48, GPU: 4}."
        )
    return cluster


def _of_kuberay(document: Mapping[str, Any]) -> Cluster:
    spec = document["spec"]
    for name in _KUBERAY[document["kind"]]:
        spec = spec[name]
    return Cluster({}, [nodes(group["maxReplicas"], dict(_of_pod(group))) for group in spec["workerGroupSpecs"]])


def _of_pod(group: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    """What KubeRay tells Ray that a pod has: its start parameters, else the limits of its first container."""
    started = group.get("rayStartParams") or {}
    limits = group["template"]["spec"]["containers"][0]["resources"]["limits"]
    for name, parameter, limit in (("CPU", "num-cpus", "cpu"), ("GPU", "num-gpus", "nvidia.com/gpu")):
        amount = str(started.get(parameter, limits.get(limit, 0)))
        yield name, float(amount[:-1]) / 1000 if amount.endswith("m") else float(amount)
