"""`ray up cluster/aws.yaml`, with moto for EC2 and a recorder for ssh and rsync: no cloud is asked, no Ray starts."""

from __future__ import annotations

import copy
import json
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
import botocore.exceptions
import moto
import moto.ec2.models.instance_types as moto_types
import pytest
import yaml
from clusters import ROOT, Config, load, machine, policy
from ray.autoscaler._private import commands
from ray.autoscaler._private.aws import node_provider as aws_nodes
from ray.autoscaler._private.providers import _get_node_provider
from recorded import home_in, started

from ablations import placement
from ablations.launch import cluster
from ablations.placement import Cluster, Nodes
from simsiam.config import Runtime


class Ssh:
    """Stands in for subprocess in Ray's launcher: every command is kept, and succeeds."""

    def __init__(self) -> None:
        self.commands: list[list[str]] = []

    def check_call(self, command: list[str], *_: Any, **__: Any) -> None:
        self.commands.append(command)

    def check_output(self, command: list[str], *_: Any, **__: Any) -> bytes:
        self.commands.append(command)
        return b""


@pytest.fixture(scope="module")
def ec2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A client of moto's EC2, in an account with the two instance profiles of README.md, for a user with a token."""
    home = tmp_path_factory.mktemp("laptop")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("t" * 64)
    with pytest.MonkeyPatch.context() as patch, moto.mock_aws():
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            patch.setenv(name, "none")
        patch.setenv("HOME", str(home))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.chdir(ROOT)
        patch.setattr(aws_nodes, "TAG_BATCH_DELAY", 0)
        # Ray pages through the whole catalogue, which takes moto half a minute.
        some = [each for each in moto_types.InstanceTypeBackend.instance_types if each.name[:3] in ("g5.", "r6i")]
        patch.setattr(moto_types.InstanceTypeBackend, "instance_types", some)
        region = load("aws")["provider"]["region"]
        for profile in ("simsiam-head", "simsiam-worker"):
            boto3.client("iam", region).create_instance_profile(InstanceProfileName=profile)
        yield boto3.client("ec2", region)


def aws(ec2: Any) -> Config:
    """aws.yaml with the security group that README.md makes."""
    group = ec2.create_security_group(GroupName="simsiam", Description="simsiam")["GroupId"]
    network = {"FromPort": 22, "ToPort": 22, "IpProtocol": "tcp", "IpRanges": [{"CidrIp": "203.0.113.0/24"}]}
    ec2.authorize_security_group_ingress(
        GroupId=group, IpPermissions=[{"IpProtocol": "-1", "UserIdGroupPairs": [{"GroupId": group}]}, network]
    )
    return yaml.safe_load(json.dumps(load("aws")).replace("sg-of-readme", group))


@dataclass(frozen=True)
class Up:
    """What `ray up` made of the file, sent, and started."""

    config: Config
    sent: list[str]
    ran: list[str]
    instances: list[Config]


def instances(ec2: Any) -> list[Config]:
    return [i for r in ec2.describe_instances()["Reservations"] for i in r["Instances"]]


@pytest.fixture(scope="module")
def up(ec2: Any) -> Up:
    config, ssh = commands._bootstrap_config(aws(ec2), no_config_cache=True), Ssh()
    commands.get_or_create_head_node(copy.deepcopy(config), "cluster/aws.yaml", False, False, True, None, _runner=ssh)
    return Up(
        config,
        [command[-2].rstrip("/") for command in ssh.commands if command[0] == "rsync"],
        [shlex.split(command[-1])[0] for command in ssh.commands if command[0] == "ssh"],
        instances(ec2),
    )


def test_ray_up_starts_the_head_alone_and_on_demand(up: Up) -> None:
    (head,) = up.instances
    assert head["InstanceType"] == machine(load("aws"), "head")["InstanceType"]
    assert "InstanceLifecycle" not in head
    assert head["IamInstanceProfile"]["Arn"].endswith("/simsiam-head")


def test_ray_up_opens_ssh_to_the_groups_network_and_nothing_else(up: Up, ec2: Any) -> None:
    groups = {group["GroupId"]: group for group in ec2.describe_security_groups()["SecurityGroups"]}
    (name,) = [name for name, group in groups.items() if group["GroupName"] != "default"]
    assert machine(up.config, "head")["SecurityGroupIds"] == machine(up.config, "gpu")["SecurityGroupIds"] == [name]
    assert [group["GroupId"] for group in up.instances[0]["SecurityGroups"]] == [name]
    outside = [rule for rule in groups[name]["IpPermissions"] if rule["IpRanges"]]
    opened = [(rule["FromPort"], rule["ToPort"], each["CidrIp"]) for rule in outside for each in rule["IpRanges"]]
    assert opened == [(22, 22, "203.0.113.0/24")]


def test_the_heads_policy_suffices_for_rays_code_and_for_nothing_else(up: Up, ec2: Any) -> None:
    region = up.config["provider"]["region"]
    iam = boto3.client("iam", region)
    # Of actions alone: moto knows neither resources nor conditions of EC2.
    actions = [statement["Action"] for statement in policy("aws_head")["Statement"]]
    statements = [{"Effect": "Allow", "Action": each, "Resource": "*"} for each in actions]
    document = {"Version": "2012-10-17", "Statement": statements}
    iam.create_user(UserName="head")
    iam.put_user_policy(UserName="head", PolicyName="machines", PolicyDocument=json.dumps(document))
    key = iam.create_access_key(UserName="head")["AccessKey"]
    keys = {"aws_access_key_id": key["AccessKeyId"], "aws_secret_access_key": key["SecretAccessKey"]}
    provider = _get_node_provider({**up.config["provider"], "aws_credentials": keys}, "simsiam-policy")
    tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu", "ray-launch-config": "x"}
    client, iam = boto3.client("ec2", region, **keys), boto3.client("iam", region, **keys)

    @moto.core.set_initial_no_auth_action_count(0)
    def as_the_head() -> None:
        provider.create_node(machine(up.config, "gpu"), {**tags, "ray-node-status": "uninitialized"}, 1)
        (name,) = provider.non_terminated_nodes({"ray-node-type": "worker"})
        provider.set_node_tags(name, {"ray-node-status": "up-to-date"})
        provider.terminate_node(name)
        for refused in (
            lambda: client.create_security_group(GroupName="open", Description="x"),
            lambda: client.authorize_security_group_ingress(GroupName="simsiam", CidrIp="198.51.100.0/24"),
            lambda: client.create_key_pair(KeyName="mine"),
            lambda: iam.create_user(UserName="me"),
        ):
            with pytest.raises(botocore.exceptions.ClientError, match="not authorized"):
                refused()

    as_the_head()


def test_ray_up_sends_the_token_and_the_code_and_not_the_virtual_environment(up: Up) -> None:
    assert {source for source in up.sent if not source.startswith("/")} == {
        "pyproject.toml",
        "README.md",
        "simsiam",
        "ablations",
        "cluster",
    }
    assert [source for source in up.sent if source.endswith("/.ray/auth_token")]


def test_ray_up_starts_ray_on_the_head_with_no_cpu_and_the_newer_autoscaler(up: Up, tmp_path: Path) -> None:
    call = started(["bash", "--login", "-c", "-i", up.ran[-1]], home_in(tmp_path))
    assert call.environment["RAY_OVERRIDE_RESOURCES"] == '{"CPU":0}'
    assert call.environment["RAY_enable_autoscaler_v2"] == "1"
    assert call.environment["RAY_AUTH_MODE"] == "token"


def test_ray_knows_what_a_gpu_machine_has(up: Up) -> None:
    found = up.config["available_node_types"]["gpu"]["resources"]
    assert (found["CPU"], found["GPU"], found["accelerator_type:A10G"]) == (48, 4, 1)
    looked_up = load("aws")
    looked_up["available_node_types"]["gpu"]["resources"] = {}
    looked_up = aws_nodes.AWSNodeProvider.fillout_available_node_types_resources(looked_up)
    assert {**found, "memory": 0} == {**looked_up["available_node_types"]["gpu"]["resources"], "memory": 0}


def test_the_plan_reads_the_autoscalers_maximum_from_what_ray_up_leaves_on_the_head(
    up: Up, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    head = {cluster.HEAD: 1.0, "memory": 5e10}
    monkeypatch.setattr(cluster, "current", lambda: Cluster(head, []))
    assert cluster.maximum() is None
    kinds = {**up.config["available_node_types"], "small": {"resources": {"CPU": 4}}}
    (tmp_path / "ray_bootstrap_config.yaml").write_text(yaml.safe_dump({**up.config, "available_node_types": kinds}))
    possible = cluster.maximum()
    assert possible is not None
    assert (possible.head, possible.most) == (head, 8)
    gpu, small = possible.others
    assert (gpu.count, gpu.resources["CPU"], gpu.resources["GPU"]) == (8, 48, 4)
    assert small == Nodes(8, {"CPU": 4})
    demand = placement.demand(Runtime(workers=4, loader_processes=11), cluster.current(), possible)
    assert placement.concurrent(cluster.current(), possible, demand) == 8


def test_a_gpu_machine_is_on_spot_with_the_workers_rights(up: Up, ec2: Any) -> None:
    provider = _get_node_provider(up.config["provider"], up.config["cluster_name"])
    tags = {"ray-node-type": "worker", "ray-user-node-type": "gpu", "ray-launch-config": "x"}
    provider.create_node(machine(up.config, "gpu"), {**tags, "ray-node-status": "uninitialized"}, 1)
    (name,) = provider.non_terminated_nodes({"ray-node-type": "worker"})
    (worker,) = [instance for instance in instances(ec2) if instance["InstanceId"] == name]
    assert worker["InstanceLifecycle"] == "spot"
    assert worker["ImageId"] == up.instances[0]["ImageId"]
    assert worker["IamInstanceProfile"]["Arn"].endswith("/simsiam-worker")
    provider.terminate_node(name)


def test_machines_that_aws_does_not_have_are_refused(up: Up) -> None:
    config = load("aws")
    machine(config, "gpu")["InstanceType"] = "g5.13xlarge"
    with pytest.raises(ValueError, match=r"g5\.13xlarge is not available"):
        aws_nodes.AWSNodeProvider.fillout_available_node_types_resources(config)


@pytest.mark.parametrize("change", [{"InstanceMarketOption": {}}, {"InstanceMarketOptions": {"Market": "spot"}}])
def test_a_misspelt_request_to_ec2_is_refused(up: Up, change: Config) -> None:
    provider = _get_node_provider(up.config["provider"], up.config["cluster_name"])
    with pytest.raises(botocore.exceptions.ParamValidationError):
        provider.create_node({**machine(up.config, "gpu"), **change}, {"ray-launch-config": "x"}, 1)
