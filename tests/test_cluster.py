"""The files of cluster/: what Ray's, Google's and KubeRay's schemas say to them, and what they must say besides."""

from __future__ import annotations

import importlib.resources
import json
import re
import shutil
import subprocess
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import jsonschema
import moto.ec2.models.instance_types as ec2_catalogue
import pytest
from clusters import CLOUDS, FILES, LAUNCHED, ROOT, Config, load, machine, policy
from packaging.requirements import Requirement
from ray.autoscaler._private.gcp import config as gcp_config
from ray.autoscaler._private.gcp.node import GCPCompute
from ray.autoscaler._private.util import prepare_config, validate_config

Change = Callable[[Config], Any]


def broken(name: str, change: Change) -> Config:
    """A file with a change."""
    config = load(name)
    change(config)
    return config


# What Ray says to a file before it starts anything.


@pytest.mark.parametrize("name", LAUNCHED)
def test_ray_accepts_the_file(name: str) -> None:
    validate_config(prepare_config(load(name)))


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda c: c.update(idle_timeout_minute=5), id="misspelt"),
        pytest.param(lambda c: c["available_node_types"]["gpu"].update(min_worker=0), id="misspelt in a node type"),
        pytest.param(lambda c: c["auth"].update(user="ubuntu"), id="unknown in auth"),
        pytest.param(lambda c: c.update(max_workers="8"), id="text for a number"),
        pytest.param(lambda c: c["available_node_types"]["gpu"].update(resources={"GPU": 0.5}), id="half a GPU"),
        pytest.param(lambda c: c.update(worker_start_ray_commands="true"), id="a command for a list of them"),
        pytest.param(lambda c: c.update(head_node_type="master"), id="no such head"),
        pytest.param(lambda c: c["available_node_types"]["gpu"].update(min_workers=9), id="more at least than at most"),
    ],
)
@pytest.mark.parametrize("name", CLOUDS)
def test_ray_refuses_a_broken_file(name: str, break_it: Change) -> None:
    with pytest.raises((jsonschema.ValidationError, ValueError)):
        validate_config(prepare_config(broken(name, break_it)))


# What each file must say, whatever Ray takes.


@pytest.mark.parametrize("name", CLOUDS)
def test_no_machine_but_the_head_stands_before_a_trial_asks_and_none_is_left_stopped(name: str) -> None:
    config = load(name)
    head, gpu = config["available_node_types"]["head"], config["available_node_types"]["gpu"]
    assert config["head_node_type"] == "head"
    assert (head["min_workers"], head["max_workers"], gpu["min_workers"]) == (0, 0, 0)
    assert gpu["max_workers"] == config["max_workers"] > 0
    assert head["resources"]["CPU"] == 0
    assert not config["provider"].get("cache_stopped_nodes", name == "aws")  # EC2's default is to keep them


@pytest.mark.parametrize("name", [*LAUNCHED, "kuberay"])
def test_data_and_results_are_named_once(name: str) -> None:
    text = json.dumps(load(name))  # without YAML's comments
    assert (text.count("SIMSIAM_DATA"), text.count("SIMSIAM_RESULTS")) == (1, 1)
    if name != "onprem":
        buckets = re.findall(r"(s3|gs)://([\w-]+)", text)
        assert len(set(buckets)) == len(buckets) == 2


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_nothing_listens_on_every_address(file: Path) -> None:
    text = file.read_text()
    assert "0.0.0.0" not in text
    assert set(re.findall(r"dashboard-host\W+([\w.]+)", text)) <= {"127.0.0.1"}


def test_the_head_has_memory_for_a_driver_on_every_two_gpus() -> None:
    aws, gcp, kuberay = load("aws"), load("gcp"), load("kuberay")["spec"]["rayClusterSpec"]
    (group,) = kuberay["workerGroupSpecs"]
    ec2 = ec2_catalogue.INSTANCE_TYPES
    gigabytes_and_gpus = {
        "aws": (
            ec2[machine(aws, "head")["InstanceType"]]["MemoryInfo"]["SizeInMiB"] / 1024,
            ec2[machine(aws, "gpu")["InstanceType"]]["GpuInfo"]["Gpus"][0]["Count"] * aws["max_workers"],
        ),
        "gcp": (
            8 * int(machine(gcp, "head")["machineType"].removeprefix("n2-highmem-")),
            gcp["available_node_types"]["gpu"]["resources"]["GPU"] * gcp["max_workers"],
        ),
        "kuberay": (
            int(limits(kuberay["headGroupSpec"])["memory"].removesuffix("Gi")),
            limits(group)["nvidia.com/gpu"] * group["maxReplicas"],
        ),
    }
    for name, (gigabytes, gpus) in gigabytes_and_gpus.items():
        assert gigabytes >= 2 + 4 + 0.7 * gpus / 2, name  # Ray itself, its object store, a driver for two


def limits(group: Config) -> Config:
    (container,) = group["template"]["spec"]["containers"]
    return container["resources"]["limits"]


def test_every_file_installs_the_same_versions_and_those_that_the_package_allows() -> None:
    pins = {
        file.name: dict(re.findall(r"\b(ray|torch|torchvision)==([\d.]+)", file.read_text()))
        for file in FILES
        if file.name == "Dockerfile" or file.stem in LAUNCHED
    }
    assert len(pins) == 4
    assert len({tuple(sorted(pin.items())) for pin in pins.values()}) == 1
    for text in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"]:
        allowed = Requirement(text)
        if allowed.name in pins["aws.yaml"]:
            assert pins["aws.yaml"].pop(allowed.name) in allowed.specifier
    assert not pins["aws.yaml"]
    ray = pins["gcp.yaml"]["ray"]
    assert f"rayproject/ray:{ray}-" in (ROOT / "cluster" / "Dockerfile").read_text()
    assert load("kuberay")["spec"]["rayClusterSpec"]["rayVersion"] == ray


# Who may do what.


def test_the_heads_policy_starts_and_ends_machines_with_the_clusters_tag_alone() -> None:
    tag = load("aws")["cluster_name"]
    for statement in policy("aws_head")["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        conditions = statement.get("Condition", {}).get("StringEquals", {})
        if statement["Resource"] == "arn:aws:ec2:*:*:instance/*":
            assert {conditions.get(f"aws:{whose}Tag/ray-cluster-name") for whose in ("Request", "Resource")} == {
                tag,
                None,
            }
        elif "iam:PassRole" in actions:
            assert statement["Resource"] == "arn:aws:iam::*:role/simsiam-worker"
        elif statement["Resource"] == "*":
            assert all(action.startswith("ec2:Describe") for action in actions)
        else:  # what machines are made from
            assert actions == ["ec2:RunInstances"]
            assert not any(":instance/" in resource for resource in statement["Resource"])


def test_pictures_in_a_bucket_can_be_read_and_results_alone_written() -> None:
    data, results = policy("aws_buckets")["Statement"]
    assert all("my-simsiam-data" in resource for resource in data["Resource"])
    assert all("my-simsiam-results" in resource for resource in results["Resource"])
    assert set(data["Action"]) == {"s3:ListBucket", "s3:GetObject"}
    assert "s3:PutObject" in results["Action"]


def test_the_readme_names_all_buckets_anew(tmp_path: Path) -> None:
    (command,) = re.findall(r"sed -i.bak \"s/my-simsiam/.*", (ROOT / "cluster" / "README.md").read_text())
    shutil.copytree(ROOT / "cluster", tmp_path / "cluster")
    subprocess.run(["bash", "-c", f"NAME=theirs; {command}"], cwd=tmp_path, check=True)
    for name in ("aws.yaml", "aws_buckets.json"):
        found = (tmp_path / "cluster" / name).read_text()
        assert "theirs-results" in found
        assert "my-simsiam" not in found


@pytest.mark.parametrize("name", ["gcp", "onprem"])
def test_the_clusters_key_is_its_own(name: str) -> None:
    assert load(name)["auth"]["ssh_private_key"] == "~/.ssh/simsiam"


def test_ray_puts_no_key_into_googles_project() -> None:
    google = MagicMock()
    assert gcp_config._configure_key_pair(load("gcp"), google)["auth"] == load("gcp")["auth"]
    assert not google.mock_calls
    for kind in ("head", "gpu"):
        items = {item["key"]: item["value"] for item in asked_of_google(kind)["metadata"]["items"]}
        assert items["block-project-ssh-keys"] == "true"
        assert items["ssh-keys"].startswith(f"{load('gcp')['auth']['ssh_user']}:")


def test_pods_have_no_rights_that_they_do_not_need() -> None:
    cluster = load("kuberay")["spec"]["rayClusterSpec"]
    head, worker = (group["template"]["spec"] for group in (cluster["headGroupSpec"], cluster["workerGroupSpecs"][0]))
    assert head["serviceAccountName"] != worker["serviceAccountName"]
    assert worker["automountServiceAccountToken"] is False
    for pod in (head, worker):
        assert pod["securityContext"]["runAsNonRoot"]
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
        (container,) = pod["containers"]
        assert container["securityContext"] == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
        assert "@sha256:" in container["image"]
    assert re.search(r"^FROM \S+@\$\{DIGEST\}$", (ROOT / "cluster" / "Dockerfile").read_text(), re.MULTILINE)


# kuberay.yaml against KubeRay's schema.


def check_kuberay(job: Config) -> None:
    schema = json.loads((ROOT / "tests" / "kuberay_schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(job)


def workers(job: Config) -> Config:
    return job["spec"]["rayClusterSpec"]["workerGroupSpecs"][0]


def test_kuberay_accepts_the_file() -> None:
    check_kuberay(load("kuberay"))


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda j: workers(j).update(minReplica=0), id="misspelt"),
        pytest.param(lambda j: workers(j).update(maxReplicas="ten"), id="text for a number"),
        pytest.param(lambda j: workers(j).pop("groupName"), id="no name"),
        pytest.param(lambda j: workers(j)["rayStartParams"].update({"num-cpus": 4}), id="number for a text"),
        pytest.param(lambda j: limits(workers(j)).update(memory="160 GB"), id="not an amount"),
        pytest.param(lambda j: workers(j)["template"]["spec"].pop("containers"), id="no containers"),
        pytest.param(lambda j: j["spec"]["rayClusterSpec"].pop("headGroupSpec"), id="no head"),
        pytest.param(lambda j: j["spec"]["rayClusterSpec"].update(authOptions={"mode": "on"}), id="no such mode"),
        pytest.param(lambda j: j["spec"]["rayClusterSpec"].update(enableInTreeAutoscaling="yes"), id="text for yes"),
        pytest.param(lambda j: j.update(kind="RayCluster"), id="another kind"),
    ],
)
def test_kuberay_refuses_a_broken_file(break_it: Change) -> None:
    with pytest.raises(jsonschema.ValidationError):
        check_kuberay(broken("kuberay", break_it))


def test_the_job_scales_from_no_worker_asks_for_a_token_and_goes_away() -> None:
    job = load("kuberay")["spec"]
    cluster = job["rayClusterSpec"]
    head, (group,) = cluster["headGroupSpec"], cluster["workerGroupSpecs"]
    assert cluster["authOptions"]["mode"] == "token"
    assert cluster["enableInTreeAutoscaling"]
    assert group["replicas"] == group["minReplicas"] == 0 < group["maxReplicas"]
    assert head["rayStartParams"]["num-cpus"] == "0"
    assert head["serviceType"] == "ClusterIP"
    assert head["template"]["spec"]["nodeSelector"] != group["template"]["spec"]["nodeSelector"]
    assert job["shutdownAfterJobFinishes"]


def test_the_job_tells_run_py_of_its_workers() -> None:
    job = load("kuberay")
    (head,) = job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"]
    (told,) = [json.loads(each["value"]) for each in head["env"] if each["name"] == "SIMSIAM_NODES"]
    pod = limits(workers(job))
    resources = {"CPU": int(pod["cpu"]), "GPU": pod["nvidia.com/gpu"]}
    assert told == [{"count": workers(job)["maxReplicas"], "resources": resources}]


def test_one_trial_of_the_job_fills_one_worker_pod() -> None:
    job = load("kuberay")
    asked = dict(re.findall(r"--(workers|loader-processes) (\d+)", job["spec"]["entrypoint"]))
    trainers, processes = int(asked["workers"]), int(asked["loader-processes"])
    assert limits(workers(job))["nvidia.com/gpu"] == trainers
    assert int(limits(workers(job))["cpu"]) == trainers * (1 + processes)


# gcp.yaml: what Ray would ask of Google, against the description of the API that Google's own client carries.


def asked_of_google(kind: str, change: Change = lambda config: None) -> Config:
    """The body of the request for a machine, as Ray's code makes it."""
    config, google = broken("gcp", change), MagicMock()
    provider = config["provider"]
    cloud = GCPCompute(google, provider["project_id"], provider["availability_zone"], config["cluster_name"])
    cloud.create_instance(machine(config, kind), {"ray-node-name": f"ray-simsiam-{kind}"}, wait_for_operation=False)
    return google.instances().insert.call_args.kwargs["body"]


@pytest.fixture(scope="module")
def google() -> jsonschema.Draft7Validator:
    """Says whether a body describes a machine."""
    documents = importlib.resources.files("googleapiclient.discovery_cache") / "documents"
    schemas = json.loads((documents / "compute.v1.json").read_text())["schemas"]
    for schema in schemas.values():
        del schema["id"]
    return jsonschema.Draft7Validator({"$ref": "#/definitions/Instance", "definitions": as_json_schema(schemas)})


def as_json_schema(node: Any) -> Any:
    """A schema in Google's form as one of JSON's: names in $ref become paths, and unknown keys are refused."""
    if isinstance(node, list):
        return [as_json_schema(each) for each in node]
    if not isinstance(node, dict):
        return node
    if isinstance(node.get("$ref"), str):
        return {"$ref": f"#/definitions/{node['$ref']}"}
    node = {key: as_json_schema(value) for key, value in node.items() if key not in ("format", "pattern")}
    return node | {"additionalProperties": False} if isinstance(node.get("properties"), dict) else node


def test_google_is_asked_for_a_head_on_demand_and_workers_on_spot(google: jsonschema.Draft7Validator) -> None:
    head, gpu = asked_of_google("head"), asked_of_google("gpu")
    google.validate(head)
    google.validate(gpu)
    assert "scheduling" not in head
    assert gpu["scheduling"]["provisioningModel"] == "SPOT"
    assert gpu["scheduling"]["instanceTerminationAction"] == "DELETE"
    for body in (head, gpu):
        (disk,) = body["disks"]
        assert disk["autoDelete"]
        zone = load("gcp")["provider"]["availability_zone"]
        assert body["machineType"].startswith(f"zones/{zone}/")
        assert disk["initializeParams"]["diskType"].startswith(f"zones/{zone}/")


@pytest.mark.parametrize(
    "break_it",
    [
        pytest.param(lambda m: m["scheduling"].update(provisioningmodel="SPOT"), id="misspelt"),
        pytest.param(lambda m: m["scheduling"].update(provisioningModel="spot"), id="no such model"),
        pytest.param(lambda m: m.update(scheduling=[{"preemptible": True}]), id="a list for a mapping"),
        pytest.param(lambda m: m["disks"][0]["initializeParams"].update(diskSizeGb=200), id="number for a text"),
        pytest.param(lambda m: m.update(serviceAccount={}), id="one account for a list of them"),
    ],
)
def test_google_refuses_a_broken_machine(google: jsonschema.Draft7Validator, break_it: Change) -> None:
    with pytest.raises(jsonschema.ValidationError):
        google.validate(asked_of_google("gpu", lambda config: break_it(machine(config, "gpu"))))
