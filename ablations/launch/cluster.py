"""The cluster: joining it, what it has and may have, and whether its nodes see what they need."""

from __future__ import annotations

import atexit
import functools
import json
import logging
import os
import secrets
import shutil
import signal
import socket
import tempfile
from pathlib import Path
from typing import Any

import ray
import yaml
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

import ablations
import simsiam
from ablations import provenance
from ablations.launch import ENVIRONMENT, notices
from ablations.placement import Ask, Cluster, Nodes
from ablations.store import Store
from ablations.table import UserError
from simsiam.buckets import is_bucket
from simsiam.config import Runtime
from simsiam.data import is_public

HEAD = "node:__internal_head__"  # a resource that the head alone has


def connect() -> None:
    """Join the cluster that RAY_ADDRESS names or that runs here, else start one on this machine.

    All nodes get the code as it was when the command began: what is edited while a table runs changes no trial.
    """
    _check_address(os.environ.get("RAY_ADDRESS", ""))
    variables = {name: os.environ[name] for name in ENVIRONMENT if name in os.environ}
    if cache := os.environ.get("SIMSIAM_CACHE"):
        variables["SIMSIAM_CACHE"] = os.path.abspath(cache)  # workers stand in another folder
    job = json.loads(os.environ.get("RAY_JOB_CONFIG_JSON_ENV_VAR") or "{}")
    given = job.get("runtime_env", {})
    # What the job names goes to all nodes; to name it again is an error, whatever its value.
    environment: dict[str, Any] = {
        "env_vars": {name: value for name, value in variables.items() if name not in given.get("env_vars", {})}
    }
    if not given.get("working_dir"):  # else every node has the code already
        environment["working_dir"] = _code()
    address = os.environ.get("RAY_ADDRESS", "")
    _have_a_token(address)
    try:
        ray.init(runtime_env=environment, logging_level=logging.ERROR, log_to_driver=False)
    except ValueError as error:  # an address that is none, as the dashboard's, http://...
        raise UserError(f"Ray does not start with RAY_ADDRESS={address}: {error}") from None
    except ConnectionError as error:
        raise UserError(f"No Ray was found with RAY_ADDRESS={address}: {error}. Start one, or unset it.") from None
    except OSError as error:
        if "AF_UNIX" not in str(error):
            raise
        place = os.environ.get("RAY_TMPDIR") or tempfile.gettempdir()
        raise UserError(
            f"Ray's sockets lie in its temporary folder, whose path must be short. Got {place} instead: "
            "set RAY_TMPDIR to a shorter one, as /tmp."
        ) from None
    # `ray job stop` sends SIGTERM. It is to end a run as Ctrl-C does; ray.init has just set a handler that dies.
    signal.signal(signal.SIGTERM, _interrupt)


def _have_a_token(address: str) -> None:
    """Ray keeps the token of a cluster that it starts in the home folder. Where there is none, the run has its own."""
    given = any(f"RAY_AUTH_{name}" in os.environ for name in ("TOKEN", "TOKEN_PATH", "MODE"))
    if address not in ("", "local") or given:
        return
    folder = Path.home() / ".ray"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        able = os.access(folder, os.W_OK)
    except OSError:
        able = False
    if not able:
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)


def which() -> str:
    """Which Ray this is, and what of it is free."""
    node = ray._private.worker._global_node
    whose = (
        "started here" if node is not None and node.is_head() else f"joined at {ray.get_runtime_context().gcs_address}"
    )
    all_of_it, free = ray.cluster_resources(), ray.available_resources()
    room = ", ".join(
        f"{free.get(kind, 0):g} of {all_of_it[kind]:g} {kind}s" for kind in ("CPU", "GPU") if all_of_it.get(kind)
    )
    return f"Ray: {whose}; free: {room or 'no CPU'}."


@functools.cache
def _code() -> str:
    """A copy of the code as it was when the command began, until it ends. Raises UserError if it is another by now."""
    copy = Path(tempfile.mkdtemp(prefix="simsiam-"))
    atexit.register(shutil.rmtree, copy, ignore_errors=True)
    packages = [copy / package.__name__ for package in (simsiam, ablations)]
    for package, to in zip((simsiam, ablations), packages, strict=True):
        shutil.copytree(package.__path__[0], to, ignore=shutil.ignore_patterns("__pycache__"))
    if provenance.digest(*packages) != provenance.sources():
        raise UserError("The code was edited while the command began. Give the command again.")
    return str(copy)


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


def ask(runtime: Runtime, *clusters: Cluster | None) -> Ask:
    """A CPU for each thread and for each loader process; where there are GPUs, one of them or a share of it."""
    worker = {"CPU": float(runtime.threads + runtime.loader_processes)}
    if any(kind.resources.get("GPU") for cluster in clusters if cluster for kind in cluster.kinds):
        worker["GPU"] = runtime.gpu_fraction
    elif runtime.gpu_fraction != 1:
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs GPUs; the cluster has none. Leave it out.")
    return Ask(runtime.workers, worker)


def there() -> Cluster:
    """The nodes that there are, without those that will go."""
    alive = {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}
    head = next(resources for resources in alive.values() if HEAD in resources)
    leave = notices.going()
    others = [resources for name, resources in alive.items() if resources is not head and name not in leave]
    return Cluster(head, [Nodes(1, resources) for resources in others])


def possible() -> Cluster | None:
    """The autoscaler's maximum; None without one. Ray does not tell it to programs.

    `ray up` leaves the cluster's file on the head. Elsewhere the variable SIMSIAM_NODES says what there may be besides
    the head, as JSON: [{"count": 8, "resources": {"CPU": 8, "GPU": 1}}].
    """
    if text := os.environ.get("SIMSIAM_NODES"):
        try:
            return Cluster(there().head, [_nodes(kind["count"], kind["resources"]) for kind in json.loads(text)])
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(
                f'SIMSIAM_NODES must be like [{{"count": 8, "resources": {{"CPU": 8}}}}]. Got {text} instead ({error}).'
            ) from None
    file = Path.home() / "ray_bootstrap_config.yaml"
    if not file.exists():
        return None
    config = yaml.safe_load(file.read_text())
    most, kinds = config.get("max_workers", 0), config.get("available_node_types", {})
    others = {name: kind for name, kind in kinds.items() if name != config.get("head_node_type")}
    counted = [_nodes(kind.get("max_workers", most), kind.get("resources", {})) for kind in others.values()]
    return Cluster(there().head, counted, most)


def _nodes(count: Any, resources: Any) -> Nodes:
    return Nodes(int(count), {name: float(amount) for name, amount in resources.items()})


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
        for path in ray.get(look):
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
