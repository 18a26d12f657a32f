"""What the commands of cluster/ start, with recorders in the place of Ray, Slurm and run.py."""

from __future__ import annotations

import os
import stat
import subprocess
import time
from pathlib import Path

import pytest
from clusters import CLOUDS, LAUNCHED, ROOT, load
from recorded import RECORDER, calls, home_in, started


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return home_in(tmp_path)


@pytest.mark.parametrize("name", LAUNCHED)
def test_the_head_starts_in_the_checkout_with_the_token_the_buckets_and_a_private_dashboard(
    name: str, home: Path
) -> None:
    (command,) = load(name)["head_start_ray_commands"]
    call = started(["bash", "-c", command], home)
    assert call.folder == home / "simsiam-ablations"
    assert call.environment["RAY_AUTH_MODE"] == "token"
    assert {"--head", "--dashboard-host=127.0.0.1", "--autoscaling-config=~/ray_bootstrap_config.yaml"} <= set(
        call.arguments
    )
    assert all(call.environment[variable] for variable in ("SIMSIAM_DATA", "SIMSIAM_RESULTS"))
    assert name != "onprem" or {"--num-cpus=0", "--num-gpus=0"} <= set(call.arguments)
    assert_own_folder(call.arguments, name)


def assert_own_folder(arguments: list[str], name: str) -> None:
    """On machines that others use too, Ray's temporary folder is this user's alone. It is removed."""
    folders = [Path(each.partition("=")[2]) for each in arguments if each.startswith("--temp-dir=")]
    assert len(folders) == (name not in CLOUDS)
    for folder in folders:
        assert stat.S_IMODE(folder.parent.stat().st_mode) == 0o700  # Ray opens the folder itself to all
        folder.parent.rmdir()


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_worker_joins_the_head_with_the_token(name: str, home: Path) -> None:
    (command,) = load(name)["worker_start_ray_commands"]
    # In a cloud it is left running; `wait` is the test's.
    call = started(["bash", "-c", f"{command}\nwait"], home, RAY_HEAD_IP="192.0.2.1")
    arguments = [argument for argument in call.arguments if not argument.startswith("--temp-dir=")]
    assert arguments == ["start", "--address=192.0.2.1:6379", *(["--block"] if name in CLOUDS else [])]
    assert_own_folder(call.arguments, name)
    assert call.environment["RAY_AUTH_MODE"] == "token"


# Where a machine asks its cloud whether it may stay; the answers once it may not, and before.
NOTICES = {
    "aws": ("http://169.254.169.254/latest/meta-data/spot/instance-action", '{"action": "terminate"}', None),
    "gcp": ("http://metadata.google.internal/computeMetadata/v1/instance/preempted", "TRUE", "FALSE"),
}


@pytest.mark.parametrize("name", CLOUDS)
def test_a_spot_machine_ends_ray_when_the_cloud_says_that_it_goes(name: str, home: Path) -> None:
    url, going, staying = NOTICES[name]
    bin = home / "simsiam-ablations" / ".venv" / "bin"
    (bin / "curl").write_text(
        RECORDER
        + f"""
made = open(os.path.join(os.environ["HOME"], "calls")).read()
late = made.count({url!r}) > 3 and '["ray", ' in made
answer = "a token" if "PUT" in sys.argv else {going!r} if late else {staying!r}
print(answer, end="") if answer else sys.exit(22)
"""
    )
    (bin / "curl").chmod(0o700)
    (bin / "sleep").write_text("#!/bin/sh\n")
    (bin / "sleep").chmod(0o700)
    (bin / "ray").write_text(RECORDER + "import signal\nprint(signal.sigwait({signal.SIGTERM}))\n")
    script = ["bash", str(ROOT / "cluster" / "spot.sh"), name, "--address=192.0.2.1:6379"]
    made = calls(script, home, PATH=f"{bin}:{os.environ['PATH']}")
    (ray,) = [call for call in made if call.program == "ray"]
    assert 20 < float(ray.environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"]) < {"aws": 120, "gcp": 30}[name]
    asked = [call.arguments for call in made if call.program == "curl"]
    assert sum(url in arguments for arguments in asked) >= 4
    header = {"aws": "X-aws-ec2-metadata-token: a token", "gcp": "Metadata-Flavor: Google"}[name]
    assert all(header in arguments for arguments in asked if url in arguments)


@pytest.mark.parametrize("name", LAUNCHED)
def test_a_node_without_the_code_starts_nothing(name: str, home: Path) -> None:
    config = load(name)
    (home / "simsiam-ablations").rename(home / "elsewhere")
    for command in (*config["head_start_ray_commands"], *config["worker_start_ray_commands"]):
        failed = subprocess.run(["bash", "-c", command], cwd=home, env={"HOME": str(home)}, capture_output=True)
        assert failed.returncode == 1
    assert not (home / "calls").exists()


@pytest.mark.parametrize("name", LAUNCHED)
def test_bash_can_read_every_command(name: str) -> None:
    config = load(name)
    for command in (command for key in config if key.endswith("_commands") for command in config[key]):
        subprocess.run(["bash", "-n", "-c", command], check=True)


@pytest.mark.parametrize("nodes", [1, 3])
def test_slurm_starts_a_head_and_the_others_with_one_token_and_then_the_table(nodes: int, home: Path) -> None:
    places = {"SIMSIAM_DATA": "s3://data", "SIMSIAM_RESULTS": "s3://results"}
    script = ["bash", str(ROOT / "cluster" / "slurm.sh"), "--table", "batch_size"]
    assert calls(script, home, SLURM_JOB_NUM_NODES=str(nodes)) == []  # without the two places
    made = calls(script, home, SLURM_JOB_NUM_NODES=str(nodes), **places)
    steps = [" ".join(call.arguments) for call in made if call.program == "srun"]
    assert sum("ray start --head" in step for step in steps) == 1
    assert all("mktemp --directory" in step for step in steps)
    assert [f"--nodes={nodes - 1} " in step for step in steps if "ray start --address" in step] == [True] * (nodes > 1)
    assert [call for call in made if call.program == "python"][-1].arguments == ["ablations/run.py", *script[2:]]
    (token,) = {call.environment["RAY_AUTH_TOKEN"] for call in made}
    assert len(token) == 64
    assert token not in " ".join(steps)
    assert {call.environment["RAY_AUTH_MODE"] for call in made} == {"token"}


@pytest.mark.parametrize(("code", "requeued"), [(75, ["requeue", "7"]), (0, None), (1, None)])
def test_slurm_puts_itself_back_into_the_queue_when_its_time_is_over(
    code: int, requeued: list[str] | None, home: Path
) -> None:
    bin = home / "simsiam-ablations" / ".venv" / "bin"
    (bin / "python").write_text(RECORDER + f"sys.exit({code} if 'run.py' in sys.argv[1] else 0)\n")
    (bin / "scontrol").write_text(RECORDER)
    (bin / "scontrol").chmod(0o700)
    environment = {
        "SIMSIAM_DATA": "s3://data",
        "SIMSIAM_RESULTS": "s3://results",
        "SLURM_JOB_NUM_NODES": "1",
        "SLURM_JOB_ID": "7",
        "SLURM_JOB_END_TIME": str(int(time.time()) + 3630),
    }
    made = calls(["bash", str(ROOT / "cluster" / "slurm.sh"), "--table", "epochs"], home, **environment)
    table = [call for call in made if call.program == "python"][-1]
    assert table.arguments == ["ablations/run.py", "--time-limit", "58", "--table", "epochs"]
    assert [call.arguments for call in made if call.program == "scontrol"] == ([requeued] if requeued else [])
    for own in (["--time-limit", "9"], ["--time-limit=9"]):
        made = calls(["bash", str(ROOT / "cluster" / "slurm.sh"), *own], home, **environment)
        assert [call for call in made if call.program == "python"][-1].arguments == ["ablations/run.py", *own]


def test_slurm_gives_up_where_ray_does_not_start(home: Path) -> None:
    ray = home / "simsiam-ablations" / ".venv" / "bin" / "ray"
    ray.write_text(RECORDER + "sys.exit(1)\n")
    places = {"SIMSIAM_DATA": "s3://data", "SIMSIAM_RESULTS": "s3://results"}
    made = calls(["bash", str(ROOT / "cluster" / "slurm.sh")], home, SLURM_JOB_NUM_NODES="1", **places)
    assert {call.program for call in made} == {"ray", "srun"}  # no run.py
