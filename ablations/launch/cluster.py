"""The cluster: joining it, what it has and may have, and whether its nodes see what they need."""

from __future__ import annotations

import json
import logging
import os
import signal
import socket
from pathlib import Path
from typing import Any

import ray
from ray._private.state import state as ray_state  # there is no public way to the autoscaler's limits
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ablations
import simsiam
from ablations import placement
from ablations.files import BUCKETS
from ablations.launch import ENVIRONMENT
from ablations.store import Store
from ablations.table import UserError
from simsiam.config import Runtime

_UNBOUNDED = 10**6  # nodes of a kind that the autoscaler has no limit for


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names or that runs here, else start one on this machine."""
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    environment: dict[str, Any] = {"env_vars": {name: os.environ[name] for name in ENVIRONMENT}}
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    if not job.get("runtime_env", {}).get("working_dir"):  # else every node has the code already
        environment["py_modules"] = [path for package in (simsiam, ablations) for path in package.__path__]
    ray.init(runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    # `ray job stop` sends SIGTERM. It is to end a run as Ctrl-C does; ray.init has just set a handler that dies.
    signal.signal(signal.SIGTERM, _interrupt)


def _check_address(address: str) -> None:
    """Raises UserError where nothing listens: ray.init would wait for minutes without a word."""
    host, colon, port = address.rpartition(":")
    if colon and port.isdigit() and "/" not in host:
        try:
            socket.create_connection((host, int(port)), timeout=10).close()
        except OSError as error:
            raise UserError(f"No Ray listens at RAY_ADDRESS={address}: {error}. Start one, or unset it.") from None


def _interrupt(*_: Any) -> None:
    # Not by way of SIGINT: a shell starts what it puts into the background with SIGINT ignored.
    raise KeyboardInterrupt


def ask(runtime: Runtime) -> placement.Ask:
    """One CPU for training and one for each loader process; where there are GPUs, one of them or a share of it."""
    worker = {"CPU": 1.0 + runtime.loader_processes}
    there, possible, _ = nodes()
    if any(kind.resources.get("GPU") for kind in (*there, *possible)):
        worker["GPU"] = runtime.gpu_fraction
    elif runtime.gpu_fraction != 1:
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs GPUs; the cluster has none. Leave it out.")
    return placement.Ask(runtime.workers, worker)


def nodes() -> tuple[list[placement.Nodes], list[placement.Nodes], float]:
    """The nodes that are there, those that the autoscaler could make of them (none without one), the head's memory."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    there = [placement.Nodes(1, resources) for resources in alive]
    config = ray_state.get_cluster_config()
    groups = config.node_group_configs if config else []
    possible = [
        placement.Nodes(group.max_count if group.max_count >= 0 else _UNBOUNDED, dict(group.resources))
        for group in groups
    ]
    head = next(resources for resources in alive if "node:__internal_head__" in resources)
    return there, possible, head.get("memory", 0.0)


def check_that_nodes_see(store: Store, scratch: str, data_path: str | None) -> None:
    """Raises UserError if a node lacks the results folder, or the data folder that its workers will read."""
    marker = f"{scratch}/marker"
    store.folder.write(marker, b"")
    paths = [] if store.folder.bucket else [f"{store.folder.uri}/{marker}"]
    if data_path and not data_path.startswith(BUCKETS):
        paths.append(data_path)
    others = [node for node in ray.nodes() if node["Alive"] and "node:__internal_head__" not in node["Resources"]]
    looks = {
        node["NodeManagerAddress"]: _missing.options(
            num_cpus=0, scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=True)
        ).remote(paths)
        for node in others
        if paths
    }
    for address, look in looks.items():
        for path in ray.get(look):
            what = f"the results folder {store.folder}" if path.endswith(marker) else f"the data folder {path}"
            raise UserError(f"Node {address} does not see {what}. Use a folder that all nodes mount, or a bucket.")


@ray.remote
def _missing(paths: list[str]) -> list[str]:
    return [path for path in paths if not Path(path).exists()]
