"""Which machines a cluster file may start: Ray's own, that `ray up` takes, or one of KubeRay, as Ray reads them."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from ray.autoscaler._private.kuberay import autoscaling_config as kuberay
from ray.autoscaler._private.util import prepare_config, validate_config

from ablations import placement
from ablations.placement import Cluster, Nodes
from ablations.table import UserError
from simsiam.config import Runtime

# KubeRay's kinds -> where in the spec the cluster's own stands.
_KINDS: dict[str, str | None] = {
    "RayCluster": None,
    "RayJob": "rayClusterSpec",
    "RayService": "rayClusterConfig",
}
_NO_LIMIT = 2**31 - 1  # KubeRay's maxReplicas, where none is given


def at_once(path: str, runtime: Runtime) -> int:
    """How many trials the machines of a cluster file, its head among them, hold at once.

    Raises UserError for a file that does not say what its machines have, and where they cannot hold even one trial.
    """
    cluster = of_file(path)
    demand = placement.demand(runtime, cluster)
    most = placement.slots(cluster, demand)
    if most < demand.workers:
        raise UserError(f"--cluster {path}: a trial asks for {demand}, and its machines have room for {most}.")
    return most // demand.workers


def of_file(path: str) -> Cluster:
    """What a cluster file may start. Raises UserError."""
    try:
        documents = list(yaml.safe_load_all(Path(path).read_text(encoding="utf-8")))
    except (OSError, ValueError, yaml.YAMLError) as error:
        said = error.strerror if isinstance(error, OSError) else "it is not YAML"
        raise UserError(f"--cluster {path} cannot be read: {said}.") from None
    document = next(
        (each for each in documents if isinstance(each, dict) and ("provider" in each or _kind(each))), None
    )
    if document is None:
        raise UserError(f"--cluster {path} is no file of `ray up` (with a provider), and no {', '.join(_KINDS)}.")
    logging.getLogger("ray.autoscaler").setLevel(logging.WARNING)  # or it tells what it fills in
    try:
        kind, without_files = _kind(document), {**document, "file_mounts": {}}  # of which Ray would warn
        config = _of_kuberay(document, kind) if kind else prepare_config(without_files)
        validate_config(config)
        cluster = of_ray(config, config["available_node_types"][config["head_node_type"]].get("resources", {}))
    except Exception as error:  # Ray's readers raise whatever comes
        where = f" at {error.json_path}" if hasattr(error, "json_path") else ""
        said = f"{type(error).__name__}{where}: {error}".partition("\n")[0]
        raise UserError(f"--cluster {path}: Ray cannot read it ({said.rstrip('.')}).") from None
    _check_that_all_is_said(config, path)
    return cluster


def of_ray(config: Mapping[str, Any], head: Mapping[str, float]) -> Cluster:
    """What a file of `ray up` may start besides this head."""
    most, kinds = config.get("max_workers", 0), config.get("available_node_types", {})
    others = {name: kind for name, kind in kinds.items() if name != config.get("head_node_type")}
    counted = [nodes(kind.get("max_workers", most), kind.get("resources", {})) for kind in others.values()]
    return Cluster(head, counted, most)


def nodes(count: Any, resources: Mapping[str, Any]) -> Nodes:
    """Nodes of one kind as a file has them. Raises ValueError, TypeError and AttributeError for what are none."""
    return Nodes(int(count), {name: float(amount) for name, amount in resources.items()})


def _check_that_all_is_said(config: Mapping[str, Any], path: str) -> None:
    """Raises UserError where a kind of machine does not say what it has: only its cloud knows."""
    if config["provider"]["type"] == "local":
        raise UserError(f"--cluster {path} names its machines and not what they have. Leave --cluster out.")
    for name, kind in config["available_node_types"].items():
        there = name == config["head_node_type"] or kind.get("max_workers")
        if there and "CPU" not in kind.get("resources", {}):
            raise UserError(
                f"--cluster {path}: its machine {name} does not say what it has, and no cloud is asked. Write it "
                "there, as resources: {CPU: 48, GPU: 4}, or {CPU: 0} for no training."
            )


def _kind(document: Mapping[str, Any]) -> str | None:
    """Which of KubeRay's kinds it is."""
    return next((kind for kind in _KINDS if document.get("kind") == kind), None)


def _of_kuberay(document: Mapping[str, Any], kind: str) -> dict[str, Any]:
    """As Ray's autoscaler reads it; without one, the pods that there are from the start."""
    inner = _KINDS[kind]
    spec = document["spec"] if inner is None else document["spec"][inner]
    count = ("maxReplicas", _NO_LIMIT) if spec.get("enableInTreeAutoscaling") else ("replicas", 0)
    groups = [
        {**group, "minReplicas": 0, "maxReplicas": 0 if group.get("suspend") else group.get(*count)}
        for group in spec.get("workerGroupSpecs", ())
    ]
    named = {"metadata": {"name": "it", "namespace": "default"}, "spec": {**spec, "workerGroupSpecs": groups}}
    found: dict[str, Any] = kuberay._derive_autoscaling_config_from_ray_cr(named)
    return found
