"""Nodes that come and go, on this machine: Ray's fake multi-node provider, nodes and heads that die, one drained."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import ray
import tiny
from test_jobs import RAY, free_port

from ablations import options
from ablations import request as requests
from ablations.files import Folder
from ablations.results import load
from ablations.store import Store
from benchmarks import chaos
from simsiam import checkpoint

ROOT = Path(__file__).resolve().parent.parent
PROVIDER = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(900),
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"),
]

COMMANDS = ("initialization", "setup", "head_setup", "worker_setup", "head_start_ray", "worker_start_ray")
MOST = 2  # nodes besides the head


def run(arguments: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, str(ROOT / "ablations" / "run.py"), *arguments]
    with open(log, "ab") as file:
        return subprocess.Popen(command, env=environment, stdout=file, stderr=subprocess.STDOUT)


@pytest.fixture
def autoscaler(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a head without CPUs that can start up to `MOST` nodes of one CPU."""
    import ray._private.services

    port = free_port()
    address = f"{ray._private.services.get_node_ip_address()}:{port}"
    kinds: dict[str, Any] = {
        "ray.head.default": {"resources": {"CPU": 0}, "node_config": {}, "max_workers": 0},
        "ray.worker": {"resources": {"CPU": 1}, "node_config": {}, "min_workers": 0, "max_workers": MOST},
    }
    provider = {"type": "external", "module": PROVIDER, "gcs_address": address, "use_node_id_as_ip": True}
    provider |= {"disable_node_updaters": True, "disable_launch_config_check": True}
    config = {
        "cluster_name": "fake",
        "max_workers": MOST,
        "provider": provider,
        "head_node_type": "ray.head.default",
        "available_node_types": kinds,
        "idle_timeout_minutes": 0.2,
        "upscaling_speed": 10,
        "auth": {},
        "docker": {},
        "file_mounts": {},
        "cluster_synced_files": [],
        "file_mounts_sync_continuously": False,
        **{f"{when}_commands": [] for when in COMMANDS},
    }
    (tmp_path / "cluster.json").write_text(json.dumps(config))
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "RAY_FAKE_CLUSTER": "1"}
        environment |= {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "HOME": folder}
        environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # of the head alone, when the test is over
        options = [f"--port={port}", "--num-cpus=0", f"--temp-dir={folder}", f"--dashboard-port={free_port()}"]
        options += [f"--dashboard-agent-listen-port={free_port()}", "--object-store-memory=100000000"]
        options += [f"--autoscaling-config={tmp_path / 'cluster.json'}", "--disable-usage-stats"]
        log = open(tmp_path / "head.log", "wb")  # noqa: SIM115
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options], env=environment, stdout=log, stderr=log
        )
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(10)
        nodes = [{"count": MOST, "resources": {"CPU": 1}}]
        yield environment | {"RAY_ADDRESS": address, "SIMSIAM_NODES": json.dumps(nodes)}
        process.send_signal(signal.SIGTERM)
        process.wait(60)
        log.close()


def alive(environment: dict[str, str]) -> int:
    """How many nodes there are besides the head."""
    code = (
        f"import ray; ray.init(address={environment['RAY_ADDRESS']!r}, log_to_driver=False)\n"
        "print('nodes', sum(node['Alive'] for node in ray.nodes()) - 1)"
    )
    out = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, timeout=90
    )
    return int(re.search(r"nodes (\d+)", out.stdout)[1])  # type: ignore[index]


def test_a_table_makes_the_cluster_grow_from_nothing_and_shrink_back(
    autoscaler: dict[str, str], tmp_path: Path
) -> None:
    assert alive(autoscaler) == 0
    table = ["--table", "stop_gradient", *tiny.OVERRIDES, "--seeds", "2", "--results", str(tmp_path / "out")]
    process, most = run(table, autoscaler, tmp_path / "log"), 0
    while process.poll() is None:
        most = max(most, alive(autoscaler))
    assert process.returncode == 0, (tmp_path / "log").read_text()
    assert most == MOST
    assert len(pd.read_parquet(tmp_path / "out" / "stop_gradient.parquet")) == 4
    limit = time.monotonic() + 120
    while alive(autoscaler) and time.monotonic() < limit:
        time.sleep(2)
    assert alive(autoscaler) == 0


def test_what_the_autoscaler_can_never_place_is_refused_in_seconds(autoscaler: dict[str, str], tmp_path: Path) -> None:
    table = ["--table", "stop_gradient", *tiny.OVERRIDES, "--workers", "3", "--results", str(tmp_path / "out")]
    begun = time.monotonic()
    process = run(table, autoscaler, tmp_path / "log")
    assert process.wait() == 2
    assert time.monotonic() - begun < 60
    assert "The cluster at most can have 1 x 0 CPU; 2 x 1 CPU: room for 2" in (tmp_path / "log").read_text()
    assert alive(autoscaler) == 0


SMALL = [part for name, value in {**tiny.FIELDS, "epochs": 400}.items() for part in ("--set", f"{name}={value}")]
LONG = ["--table", "stop_gradient", "--rows", "with", *SMALL]


@pytest.fixture
def site() -> Iterator[Any]:
    """A head without CPUs and two nodes of one."""
    os.environ["RAY_AUTH_MODE"] = "disabled"
    site = chaos.Site(nodes=2, cpus=1)
    site.start()
    yield site
    site.stop()


def environment(site: Any, **more: str) -> dict[str, str]:
    return {**os.environ, "RAY_ADDRESS": site.cluster.address, "OMP_NUM_THREADS": "1", **more}


def wait_until(reached: Callable[[], object], process: subprocess.Popen[bytes]) -> None:
    limit = time.monotonic() + 180
    while not reached():
        assert process.poll() is None
        assert time.monotonic() < limit
        time.sleep(0.2)


def test_a_trial_goes_on_with_the_workers_that_fit_where_a_node_does_not_come_back(site: Any, tmp_path: Path) -> None:
    results = tmp_path / "out"
    few = environment(site, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="15")
    process = run(
        [*LONG, "--checkpoint-seconds", "1", "--workers", "2", "--results", str(results)], few, tmp_path / "log"
    )
    wait_until(lambda: [*results.glob("checkpoints/*.pt")], process)
    site.cluster.remove_node(site.others.pop(), allow_graceful=False)
    assert process.wait() == 0, (tmp_path / "log").read_text()
    table = pd.read_parquet(results / "stop_gradient.parquet")
    (line,) = table.to_dict("records")
    assert line["workers"] == 1
    first, second = line["workers_by_step"].split()
    assert first == "0:2"
    assert second.endswith(":1")
    assert "starting again with 1 of 2 workers: no place for 2 workers of 1 CPU" in (tmp_path / "log").read_text()
    alone = tmp_path / "alone"
    assert run([*LONG, "--launcher", "local", "--results", str(alone)], environment(site), tmp_path / "log").wait() == 0
    curves = [pd.read_parquet(next(folder.glob("curves/*"))) for folder in (results, alone)]
    # float32: the rounding of two workers' sums differs, and grows with the steps.
    pd.testing.assert_series_equal(curves[0].loss.head(3), curves[1].loss.head(3), rtol=1e-4)
    assert len(curves[0]) == 400


def progress(name: str, content: bytes | None) -> dict[str, Any]:
    """How far the trial is whose checkpoint has this name and content."""
    assert content is not None
    asked = requests.read(options.parser().parse_args(["--table", "stop_gradient", *SMALL])).trials([0])
    (config,) = [trial.config for trial in asked if name.startswith(trial.fingerprint)]
    state = checkpoint.unpack(config, content)
    assert state is not None
    return state["progress"]


def test_what_a_driver_that_dies_has_reserved_is_free_for_the_next(site: Any, tmp_path: Path) -> None:
    results = tmp_path / "out"
    often = [*LONG, "--checkpoint-seconds", "1", "--workers", "2", "--results", str(results)]
    process = run(often, environment(site), tmp_path / "log")
    ray.init(address=site.cluster.address, log_to_driver=False, logging_level="ERROR")
    try:
        # Created, and no worker started in it yet: all the CPUs there are.
        wait_until(lambda: any("CPU" in group["bundles"][0] for group in placement_groups()), process)
        (driver,) = chaos.victims(site, chaos.DRIVER)
        os.kill(driver, signal.SIGKILL)
        wait_until(lambda: [*results.glob("checkpoints/*.pt")], process)
        assert process.wait() == 0, (tmp_path / "log").read_text()
        assert len(pd.read_parquet(results / "stop_gradient.parquet")) == 1
    finally:
        process.kill()
        ray.shutdown()
    assert chaos.leftovers(site) == []


def placement_groups() -> list[dict[str, Any]]:
    return [group for group in ray.util.placement_group_table().values() if group["state"] == "CREATED"]


def test_a_new_head_goes_on_from_the_bucket(server: Any, site: Any, tmp_path: Path) -> None:
    folder = Folder.at("s3://bucket/head")
    log, where = tmp_path / "log", ["--checkpoint-seconds", "1", "--results", folder.uri]
    process = run([*LONG, *where], environment(site), log)
    assert process.wait() == 0, log.read_text()
    (finished,) = folder.names("trials")
    content = folder.read(f"trials/{finished}")

    table = ["--table", "stop_gradient", *SMALL, *where]
    process = run(table, environment(site), log)
    wait_until(lambda: folder.names("checkpoints"), process)
    process.kill()
    process.wait()
    site.lose_head()
    assert folder.names("trials") == [finished]
    (half_done,) = folder.names("checkpoints")
    before = progress(half_done, folder.read(f"checkpoints/{half_done}"))["curve"]
    process = run(table, environment(site), log)
    assert process.wait() == 0, log.read_text()

    assert folder.read(f"trials/{finished}") == content
    assert folder.names("checkpoints") == []
    assert len(load("stop_gradient", root=folder.uri)) == 2
    after = Store(folder).curve(half_done.partition("-")[0])
    assert after is not None
    assert 0 < len(before) < len(after) == 400
    assert [line["seconds"] for line in after[: len(before)]] == [line["seconds"] for line in before]


def drain(site: Any, folder: Path) -> None:
    """Ray is told by hand."""
    site.drain(site.others[-1], 20)


def notice(site: Any, folder: Path) -> None:
    """A stand-in for EC2's answers says that it takes the machine away."""
    (folder / "notice").touch()


@contextlib.contextmanager
def on_spot(site: Any, folder: Path) -> Iterator[None]:
    """One of the site's two nodes in the hands of cluster/spot.sh, which asks a stand-in for EC2's answers."""
    site.cluster.remove_node(site.others.pop())
    (folder / "curl").write_text(f"#!/bin/sh\ncase $* in *PUT*) ;; *) test -e {folder}/notice ;; esac\n")
    (folder / "curl").chmod(0o700)
    command = ["bash", str(ROOT / "cluster" / "spot.sh"), "aws", f"--address={site.cluster.address}", "--num-cpus=1"]
    command += ["--num-gpus=0", "--object-store-memory=100000000"]
    path = f"{folder}:{Path(RAY).parent}:{os.environ['PATH']}"
    with open(folder / "spot.log", "wb") as log:
        process = subprocess.Popen(command, env=environment(site, PATH=path), stdout=log, stderr=log)
        try:
            wait_until(lambda: alive(environment(site)) == 2, process)
            yield
        finally:
            (folder / "notice").touch()
            process.wait(150)


@pytest.mark.parametrize(("place", "tell"), [(contextlib.nullcontext, drain), (on_spot, notice)], ids=["drain", "spot"])
def test_a_node_that_says_it_goes_costs_no_more_than_a_checkpoint(
    place: Any, tell: Any, site: Any, tmp_path: Path
) -> None:
    results, log = tmp_path / "out", tmp_path / "log"
    rare = [*LONG, "--checkpoint-seconds", "100000", "--workers", "2", "--results", str(results)]
    with place(site, tmp_path) if place is on_spot else place():
        process = run(rare, environment(site, RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S="15"), log)
        wait_until(lambda: log.exists() and "epoch" in log.read_text(), process)
        assert not [*results.glob("checkpoints/*.pt")]
        tell(site, tmp_path)
        wait_until(lambda: [*results.glob("checkpoints/*.pt")], process)
    assert process.wait() == 0, log.read_text()


def test_a_trial_of_one_worker_leaves_a_node_that_says_it_goes(site: Any, tmp_path: Path) -> None:
    results, log = tmp_path / "out", tmp_path / "log"
    process = run([*LONG, "--checkpoint-seconds", "100000", "--results", str(results)], environment(site), log)
    wait_until(lambda: log.exists() and "epoch" in log.read_text(), process)
    assert not [*results.glob("checkpoints/*.pt")]
    (node,) = site.busy(chaos.DRIVER)
    begun = time.monotonic()
    site.drain(node, 20)
    wait_until(lambda: [*results.glob("checkpoints/*.pt")], process)
    wait_until(lambda: site.busy(chaos.DRIVER) not in ([], [node]), process)
    assert time.monotonic() - begun < 20
    assert process.wait() == 0, log.read_text()
    assert "starting again: LeavingError: its node is about to go" in log.read_text()
    assert len(load("stop_gradient", root=results)) == 1
