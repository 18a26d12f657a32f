"""The plan on a real Ray, started by the test: the same numbers as in one process, for any number of workers."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import tiny

from ablations import request, run
from ablations import store as stores
from simsiam import checkpoint

# Ray leaves sockets to the garbage collector.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")

CLOCK = ["wall_seconds", "images_per_second", "started", "ended"]
HOW = ["workers", "workers_by_step", "threads"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    """The address of a small Ray on this machine, gone when the tests are."""
    from ray.cluster_utils import Cluster

    os.environ["RAY_AUTH_MODE"] = "disabled"
    head = {"num_cpus": 3, "object_store_memory": 100 << 20, "include_dashboard": False}
    ray = Cluster(initialize_head=True, head_node_args=head)
    os.environ["RAY_ADDRESS"] = ray.address
    os.environ["OMP_NUM_THREADS"] = "1"
    yield ray.address
    del os.environ["RAY_ADDRESS"], os.environ["OMP_NUM_THREADS"]
    ray.shutdown()


def science(folder: Path) -> pd.DataFrame:
    """A table without its clock, and without what tells launchers apart."""
    return pd.read_parquet(folder / "stop_gradient.parquet").drop(columns=[*CLOCK, *HOW, "message"])


def test_ray_gives_the_numbers_of_one_process_for_any_number_of_workers(
    cluster: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--set", "precision=float64", "--rows", "with"]
    for name, arguments in {
        "local": ["--launcher", "local"],
        "one": [],
        "two": ["--workers", "2"],
    }.items():
        assert run.main([*command, *arguments, "--results", str(tmp_path / name)]) == 0
    local, one, two = (science(tmp_path / name) for name in ("local", "one", "two"))
    pd.testing.assert_frame_equal(one, local, rtol=1e-9)
    pd.testing.assert_frame_equal(two, local, rtol=1e-6)
    assert pd.read_parquet(tmp_path / "two" / "stop_gradient.parquet").workers.tolist() == [2]
    assert not [*(tmp_path / "one").glob(".ray/*")]


def test_a_failing_trial_is_a_row_and_stops_no_other(cluster: str, tmp_path: Path) -> None:
    # A checkpoint of another Config makes its trial raise in the worker, each time it is tried.
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--results", str(tmp_path)]
    assert run.main([*command, "--plan"]) == 0
    trial, _ = request.read(request.parser().parse_args(command)).trials(seeds=1)
    content = checkpoint.pack(tiny.config(seed=99), {})
    stores.Store.at(tmp_path).checkpoint(trial.fingerprint).write(content)
    assert run.main(command) == 1
    table = pd.read_parquet(tmp_path / "stop_gradient.parquet").set_index("row")
    assert table.outcome["with"] == "failed"
    assert table.message["with"]
    assert table.outcome["without"] in ("finished", "collapsed")


def test_more_workers_than_the_cluster_holds_are_refused(
    cluster: str, tmp_path: Path, capsys: pytest.CaptureFixture[Any]
) -> None:
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--workers", "4", "--results", str(tmp_path)]
    assert run.main(command) == 2
    assert "asks for 4 workers of 1 CPU. The cluster has 1 x 3 CPU: room for 3." in capsys.readouterr().err
