"""Which machines a cluster file may start: this repository's files, and files that do not say it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from ablations import machines, run
from ablations.table import UserError
from simsiam.config import Runtime

ROOT = Path(__file__).resolve().parent.parent
EIGHT = {"CPU": 48.0, "GPU": 4.0}


@pytest.mark.parametrize("name", ["aws", "gcp", "kuberay"])
def test_the_trials_that_the_machines_of_each_file_hold(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    path = str(ROOT / "cluster" / f"{name}.yaml")
    assert machines.at_once(path, Runtime()) == 32
    assert "".join(capfd.readouterr()) == ""
    assert machines.at_once(path, Runtime(workers=4, loader_processes=10)) == 8
    with pytest.raises(UserError, match="a trial asks for 33 workers of 1 CPU and 1 GPU, and its machines have room"):
        machines.at_once(path, Runtime(workers=33))


def written(folder: Path, *documents: object) -> str:
    file = folder / "mine.yaml"
    file.write_text(yaml.safe_dump_all(documents))
    return str(file)


def of_ray_up(**kinds: dict[str, Any]) -> dict[str, Any]:
    kinds = {name: {"node_config": {}, **kind} for name, kind in kinds.items()}
    provider = {"type": "aws", "region": "us-east-1"}
    return {"cluster_name": "mine", "provider": provider, "head_node_type": "head", "available_node_types": kinds}


LARGE, SMALL, NO_GPU = ({"resources": dict(CPU=cpus, GPU=gpus)} for cpus, gpus in ((64, 8), (8, 1), (96, 0)))


@pytest.mark.parametrize(
    ("document", "most"),
    [
        (of_ray_up(head=LARGE) | {"max_workers": 0}, 8),  # the head trains, too
        (of_ray_up(head={"resources": {"CPU": 0}}, large=LARGE), 2 * 8),  # Ray's default of max_workers is 2
        (
            of_ray_up(head={"resources": {"CPU": 0}}, small=SMALL, large=LARGE | {"max_workers": 2})
            | {"max_workers": 5},
            2 * 8 + 3,  # five of all kinds together
        ),
        (of_ray_up(head={"resources": {"CPU": 4}}, none=LARGE | {"max_workers": 0}, cpu=NO_GPU), 4 + 2 * 96),
    ],
)
def test_the_trials_that_a_file_of_ray_up_holds(document: dict[str, Any], most: int, tmp_path: Path) -> None:
    assert machines.at_once(written(tmp_path, document), Runtime()) == most


def group(name: str, limits: dict[str, object], **more: object) -> dict[str, object]:
    pod = {"spec": {"containers": [{"resources": {"limits": limits}}]}}
    return {"groupName": name, "rayStartParams": {}, "template": pod, **more}


def of_kuberay(kind: str, inner: str | None, *groups: dict[str, object], **more: object) -> dict[str, object]:
    spec = {"headGroupSpec": group("head", {"cpu": 1}), "workerGroupSpecs": list(groups), **more}
    return {"kind": kind, "metadata": {"name": "mine"}, "spec": spec if inner is None else {inner: spec}}


GPUS = {"cpu": "7500m", "nvidia.com/gpu": 4}


@pytest.mark.parametrize(
    ("document", "most"),
    [
        (of_kuberay("RayCluster", None, group("a", GPUS, maxReplicas=3), enableInTreeAutoscaling=True), 3 * 4),
        (of_kuberay("RayCluster", None, group("a", GPUS, replicas=1, maxReplicas=3)), 4),  # nothing starts others
        (of_kuberay("RayJob", "rayClusterSpec", group("a", GPUS, replicas=2, numOfHosts=2)), 2 * 2 * 4),
        (of_kuberay("RayService", "rayClusterConfig", group("a", {"cpu": 9, "amd.com/gpu": 2}, replicas=2)), 2 * 2),
        (
            of_kuberay("RayJob", "rayClusterSpec", group("a", GPUS, replicas=9, suspend=True)),
            1,  # the head's CPU
        ),
        (
            of_kuberay("RayCluster", None, group("a", {"cpu": 8}, replicas=1, rayStartParams={"num-cpus": "6"})),
            1 + 6,
        ),
        (of_kuberay("RayCluster", None, group("a", GPUS), enableInTreeAutoscaling=True), 4 * (2**31 - 1)),
    ],
)
def test_the_trials_that_a_file_of_kuberay_holds(document: dict[str, object], most: int, tmp_path: Path) -> None:
    assert machines.at_once(written(tmp_path, {"kind": "Service"}, None, document), Runtime()) == most


NO_FILE = "is no file of `ray up` (with a provider), and no RayCluster, RayJob, RayService."


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a: [", "cannot be read: it is not YAML."),
        ("- 1", NO_FILE),
        ("kind: [RayJob]", NO_FILE),
        ("kind: RayJob\nspec: {}", "Ray cannot read it (KeyError: 'rayClusterSpec')."),
        (
            yaml.safe_dump(of_ray_up(head=LARGE) | {"max_workers": "8"}),
            "Ray cannot read it (ValidationError at $.max_workers: '8' is not of type 'integer').",
        ),
        (
            yaml.safe_dump(of_ray_up(head=SMALL, gpu={"resources": {}})),
            "its machine gpu does not say what it has, and no cloud is asked. Write it there, as resources: {CPU: 48,",
        ),
        (
            (ROOT / "cluster" / "onprem.yaml").read_text(),
            "names its machines and not what they have. Leave --cluster out.",
        ),
    ],
)
def test_a_file_that_does_not_say_its_machines_is_refused(content: str, says: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(content)
    with pytest.raises(UserError) as raised:
        machines.at_once(str(file), Runtime())
    assert str(raised.value).startswith(f"--cluster {file}")
    assert says in str(raised.value)
    assert str(raised.value).count("--cluster") == 1 + says.count("--cluster")


def test_a_plan_says_how_long_a_cluster_takes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    device = pd.read_parquet(ROOT / "results" / "published" / "digits" / "stop_gradient.parquet").device[0]
    path = str(ROOT / "cluster" / "aws.yaml")
    command = ["--table", "stop_gradient", "--seeds", "3", "--plan", "--device", device, "--cluster", path]
    assert run.main([*command, "--price", "3", "--results", str(tmp_path)]) == 0
    time, on, price = capsys.readouterr().out.splitlines()[-3:]
    assert re.fullmatch(r"Time: \d+:\d\d if one follows the other on .*\.", time)
    assert re.fullmatch(rf"On {re.escape(path)}: \d:\d\d, all at once, if its machines are .*\.", on)
    assert price.startswith("Price: 0.")
