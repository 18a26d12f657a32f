"""Which machines a cluster file may start: this repository's files, and files that do not say it."""

from __future__ import annotations

import re
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ablations import machines, run
from ablations.placement import Cluster, Nodes
from ablations.table import UserError
from simsiam.config import Runtime

ROOT = Path(__file__).resolve().parent.parent
EIGHT = {"CPU": 48.0, "GPU": 4.0}


@pytest.mark.parametrize(
    ("name", "cluster"),
    [
        ("aws", Cluster({}, [Nodes(8, EIGHT)], 8)),
        ("gcp", Cluster({}, [Nodes(8, EIGHT)], 8)),
        ("kuberay", Cluster({}, [Nodes(8, {"CPU": 44.0, "GPU": 4.0})])),
    ],
)
def test_the_machines_of_each_file_and_the_trials_that_they_hold(name: str, cluster: Cluster) -> None:
    path = str(ROOT / "cluster" / f"{name}.yaml")
    assert machines.of_file(path) == cluster
    assert machines.at_once(path, Runtime()) == 32
    assert machines.at_once(path, Runtime(workers=4, loader_processes=10)) == 8
    with pytest.raises(UserError, match="a trial asks for 33 workers of 1 CPU and 1 GPU, and its machines have room"):
        machines.at_once(path, Runtime(workers=33))


def test_the_most_of_all_kinds_together_counts_and_the_head_does_not(tmp_path: Path) -> None:
    kinds = {
        "head": {"resources": {"CPU": 64, "GPU": 8}},
        "large": {"resources": {"CPU": 64, "GPU": 8}, "max_workers": 2},
        "small": {"resources": {"CPU": 8, "GPU": 1}},
    }
    file = tmp_path / "mine.yaml"
    file.write_text(yaml.safe_dump({"max_workers": 5, "head_node_type": "head", "available_node_types": kinds}))
    assert machines.at_once(str(file), Runtime()) == 2 * 8 + 3


def test_a_pod_has_what_its_start_parameters_say_else_its_limits(tmp_path: Path) -> None:
    def group(limits: dict[str, object], **started: str) -> dict[str, object]:
        pod = {"spec": {"containers": [{"resources": {"limits": limits}}]}}
        return {"maxReplicas": 2, "rayStartParams": started, "template": pod}

    groups = [group({"cpu": "7500m", "nvidia.com/gpu": 1}), group({"cpu": 8}, **{"num-cpus": "6"})]
    file = tmp_path / "mine.yaml"
    service, mine = {"kind": "Service"}, {"kind": "RayCluster", "spec": {"workerGroupSpecs": groups}}
    file.write_text(yaml.safe_dump_all([service, None, mine]))
    assert machines.of_file(str(file)).others == [Nodes(2, {"CPU": 7.5, "GPU": 1}), Nodes(2, {"CPU": 6, "GPU": 0})]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "cannot be read: it is not YAML."),
        ("- 1", "its machines cannot be read (AttributeError"),
        ("kind: RayJob\nspec: {}", "its machines cannot be read (KeyError: 'rayClusterSpec')."),
        ("cluster_name: x", "it does not say how many machines there are and what each has. Leave --cluster out."),
        (
            "{head_node_type: h, max_workers: 2, available_node_types: {h: {}, w: {resources: {}}}}",
            "a kind of machine does not say what it has, and no cloud is asked. Write it there, as resources: ",
        ),
        (
            "{head_node_type: h, max_workers: x, available_node_types: {w: {resources: {CPU: 1}}}}",
            "its machines cannot be read (ValueError",
        ),
    ],
)
def test_a_file_that_does_not_say_its_machines_is_refused(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        machines.at_once(str(file), Runtime())
    assert f"--cluster {file}" in str(raised.value)
    assert says in str(raised.value)


def test_a_plan_says_how_long_a_cluster_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = pd.read_parquet(ROOT / "results" / "published" / "digits" / "stop_gradient.parquet").device[0]
    path = str(ROOT / "cluster" / "aws.yaml")
    command = ["--table", "stop_gradient", "--seeds", "3", "--plan", "--device", device, "--cluster", path]
    assert run.main([*command, "--price", "3", "--results", str(tmp_path)]) == 0
    time, on, price = capsys.readouterr().out.splitlines()[-3:]
    assert re.fullmatch(r"Time: \d+:\d\d if one follows the other on .*\.", time)
    assert re.fullmatch(rf"On {re.escape(path)}: \d:\d\d, at most 32 at once, if its machines are .*\.", on)
    assert price.startswith("Price: 0.")
