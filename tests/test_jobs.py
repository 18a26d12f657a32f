"""run.py as a job of a running Ray: exit status, logs and Parquet arrive."""

from __future__ import annotations

import contextlib
import http.server
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import tiny
import torch
from test_catalogue import GOOD

from ablations import options, request, submit
from ablations.launch import gauges
from ablations.store import Store
from simsiam import checkpoint

ROOT = Path(__file__).resolve().parent.parent
RAY = str(Path(sys.executable).parent / "ray")

pytestmark = pytest.mark.timeout(600)

TABLE = ["--table", "stop_gradient", "--seeds", "2", *tiny.OVERRIDES]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def head() -> Iterator[dict[str, str]]:
    """The environment in which `ray job submit` finds a head of its own, started from the checkout."""
    port, dashboard = free_port(), free_port()
    # Of its own, with a short name: sockets are in it.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as folder:
        environment = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        environment |= {"RAY_AUTH_MODE": "disabled", "OMP_NUM_THREADS": "1", "HOME": folder}
        environment["RAY_DASHBOARD_STARTUP_TIMEOUT_S"] = "240"
        environment["RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S"] = "0"  # of the head alone, when the tests are over
        environment["PATH"] = f"{Path(sys.executable).parent}:{environment['PATH']}"
        options = [f"--port={port}", f"--dashboard-port={dashboard}", "--num-cpus=2", f"--temp-dir={folder}"]
        options += ["--object-store-memory=100000000", "--disable-usage-stats"]
        options += [f"--dashboard-agent-listen-port={free_port()}", f"--metrics-export-port={(metrics := free_port())}"]
        environment["RAY_metrics_report_interval_ms"] = "500"
        process = subprocess.Popen(
            [RAY, "start", "--head", "--block", *options],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        address = f"http://127.0.0.1:{dashboard}"
        try:
            wait_for(f"{address}/api/version")
            yield environment | {"RAY_API_SERVER_ADDRESS": address, "METRICS": f"http://127.0.0.1:{metrics}/metrics"}
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(60)


def wait_for(url: str) -> None:
    limit = time.monotonic() + 300
    while True:
        try:
            urllib.request.urlopen(url, timeout=5).close()
            return
        except OSError:
            assert time.monotonic() < limit, f"nothing answers at {url}"
            time.sleep(0.5)


def submitted(head: dict[str, str], *arguments: str, working_dir: bool = True) -> subprocess.CompletedProcess[str]:
    environment = {"env_vars": {"SIMSIAM_CACHE": head["HOME"]}}  # which run.py passes on itself where no job does
    options = ["--working-dir", ".", "--runtime-env-json", json.dumps(environment)] if working_dir else []
    command = [RAY, "job", "submit", *options, "--", "python", "ablations/run.py", *arguments]
    limit = time.monotonic() + 180
    while True:
        done = subprocess.run(command, cwd=ROOT, env=head, capture_output=True, text=True, check=False)
        if "No available agent" not in done.stderr or time.monotonic() > limit:  # the head has only just started
            return done
        time.sleep(1)


def test_a_job_brings_its_status_its_log_and_its_table(head: dict[str, str]) -> None:
    done = submitted(head, *TABLE)
    assert done.returncode == 0, done.stdout + done.stderr
    lasting = Path(head["HOME"]) / "simsiam-results"
    lines = [line for line in done.stdout.splitlines() if line.startswith("Results: ")]
    assert lines == [f"Results: {lasting}", f"Results: {lasting}/stop_gradient.parquet"]
    table = pd.read_parquet(lasting / "stop_gradient.parquet")
    assert len(table) == 4
    assert "collapsed" in set(table.outcome)  # which is no failure
    assert table.outcome.isin(["finished", "collapsed"]).all()


def test_the_panels_draw_gauges_that_there_are() -> None:
    panels = json.loads((ROOT / "cluster" / "grafana.json").read_text())["panels"]
    drawn = {re.search(r"ray_(simsiam_\w+)", target["expr"])[1] for panel in panels for target in panel["targets"]}  # type: ignore[index]
    assert drawn == {f"simsiam_{name}" for name in (*gauges._SHOWN, gauges._MEMORY)}


def test_a_trial_says_its_numbers_again_until_it_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[tuple[str, float, dict[str, str]]] = []

    class Gauge:
        def __init__(self, name: str, *_: object) -> None:
            self.name = name

        def set(self, number: float, tags: dict[str, str]) -> None:
            said.append((self.name, number, tags))

    monkeypatch.setattr(gauges, "Gauge", Gauge)
    monkeypatch.setattr(gauges, "_SECONDS", 0.01)
    with gauges.Gauges("a/b seed 0", "f", torch.device("cpu")) as its:
        its.show({"loss": -0.5, "z_std": 0.9, "knn_top1": None})
        its.show({"loss": -0.6, "z_std": None})
        del said[:]
        limit = time.monotonic() + 60
        while len(said) < 6 and time.monotonic() < limit:
            time.sleep(0.01)
    tags = {"trial": "a/b seed 0", "fingerprint": "f"}
    assert said[:2] == [("simsiam_loss", -0.6, tags), ("simsiam_z_std", 0.9, tags)]
    ended = len(said)
    assert ended >= 6
    time.sleep(0.05)
    assert len(said) == ended


@pytest.mark.slow
def test_a_running_trial_is_among_rays_metrics(head: dict[str, str], tmp_path: Path) -> None:
    seen: set[tuple[str, str]] = set()
    over = threading.Event()

    def scrape() -> None:
        while not over.wait(0.5):
            with contextlib.suppress(OSError), urllib.request.urlopen(head["METRICS"], timeout=5) as answer:
                text = answer.read().decode()
                seen.update(re.findall(r'^ray_(simsiam_\w+)\{.*trial="([^"]+)"', text, re.MULTILINE))

    thread = threading.Thread(target=scrape)
    thread.start()
    try:
        done = submitted(head, *TABLE, "--results", str(tmp_path))
    finally:
        over.set()
        thread.join()
    assert done.returncode == 0, done.stdout + done.stderr
    assert {name for name, _ in seen} == {f"simsiam_{name}" for name in gauges._SHOWN}  # and no GPU's
    assert {trial for _, trial in seen} <= {
        f"stop_gradient/{row} seed {seed}" for row in ("with", "without") for seed in (0, 1)
    }


@pytest.mark.slow
def test_a_failed_row_is_a_failed_job(head: dict[str, str], tmp_path: Path) -> None:
    arguments = [*TABLE, "--results", str(tmp_path)]
    trial, *_ = request.read(options.parser().parse_args(arguments)).trials(range(2))
    content = checkpoint.pack(tiny.config(seed=99), {})
    Store.at(tmp_path).checkpoint(trial.fingerprint, "simsiam").write(content)  # of another Config: its trial raises
    done = submitted(head, *arguments)
    assert done.returncode == 1
    assert f"Failed: {trial.fingerprint}: WrongCheckpointError" in done.stdout
    outcomes = list(pd.read_parquet(tmp_path / "stop_gradient.parquet").outcome)
    assert outcomes.count("failed") == 1
    assert len(outcomes) == 4


@pytest.mark.slow
def test_a_head_started_from_the_checkout_needs_no_upload(head: dict[str, str], tmp_path: Path) -> None:
    done = submitted(head, *TABLE, "--results", str(tmp_path), working_dir=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert len(pd.read_parquet(tmp_path / "stop_gradient.parquet")) == 4


@pytest.mark.slow
@pytest.mark.parametrize("where", ["a folder of one's own", "by submit.py"])
def test_a_table_of_ones_own_as_a_job(head: dict[str, str], tmp_path: Path, where: str) -> None:
    mine, place = tmp_path / "mine", str(tmp_path / "results")
    mine.mkdir()
    (mine / "mine.py").write_text(GOOD)
    command = [RAY, "job", "submit", "--working-dir", ".", "--", "python", "-m", "ablations.run", "--table", "mine.py"]
    if where == "by submit.py":
        command = [sys.executable, str(ROOT / "ablations" / "submit.py"), "--table", str(mine / "mine.py")]
    command += ["--seeds", "2", *tiny.OVERRIDES, "--results", place]
    done = subprocess.run(command, cwd=mine, env=head, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Ray: joined at" in done.stdout
    lines = pd.read_parquet(f"{place}/mine.parquet")
    assert sorted(set(lines.row)) == ["none", "usual", "warm"]
    assert lines.ray.notna().all()


def test_too_large_an_upload_is_named_with_what_to_exclude(tmp_path: Path) -> None:
    (tmp_path / "data" / "images" / "deep").mkdir(parents=True)
    (tmp_path / "data" / "images" / "deep" / "x.bin").write_bytes(bytes(3_000_000))
    (tmp_path / "small.py").write_text("x = 1\n")
    (tmp_path / "ignored").mkdir()
    (tmp_path / "ignored" / "y.bin").write_bytes(bytes(9_000_000))
    (tmp_path / ".rayignore").write_text("ignored/\n")
    complaint = submit.too_much(tmp_path, limit=2_000_000)
    assert complaint is not None
    assert "would upload 3 MB, and Ray takes less than 2 MB" in complaint
    assert "The largest: data/images (3 MB)" in complaint
    assert "ignored" not in complaint
    assert submit.too_much(tmp_path, limit=4_000_000) is None


def test_this_checkout_is_small_enough(tmp_path: Path) -> None:
    assert submit.too_much(ROOT, limit=10_000_000) is None


def test_nothing_is_submitted_where_the_upload_is_too_large(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    monkeypatch.setattr(submit, "ROOT", tmp_path)
    monkeypatch.setattr("ray._private.runtime_env.packaging.GCS_STORAGE_MAX_SIZE", 10)
    assert submit.main(["--table", "stop_gradient"]) == 2
    assert "pyproject.toml" in capsys.readouterr().err


class _Refusing(http.server.BaseHTTPRequestHandler):
    """A dashboard that wants another token."""

    def do_GET(self) -> None:
        self.send_response(403)
        self.end_headers()
        self.wfile.write(b"Forbidden: Invalid authentication token")

    def log_message(self, *_: object) -> None: ...


def test_a_refused_token_and_a_ray_that_is_not_there_are_said_in_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    server = http.server.HTTPServer(("127.0.0.1", 0), _Refusing)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{server.server_port}")
    assert submit.main(["--table", "stop_gradient"]) == 2
    message = capsys.readouterr().err
    assert "refuses the token" in message
    assert "RAY_AUTH_TOKEN to the token of that cluster" in message
    assert message.count("\n") == 1
    server.shutdown()
    server.server_close()
    assert submit.main(["--table", "stop_gradient"]) == 2
    message = capsys.readouterr().err
    assert "No Ray takes jobs at http" in message
    assert message.count("\n") == 1
    monkeypatch.delenv("RAY_API_SERVER_ADDRESS")
    monkeypatch.setenv("RAY_ADDRESS", "")
    monkeypatch.setattr("ray._private.services.find_gcs_addresses", set)
    monkeypatch.setattr("ray._private.utils.read_ray_address", lambda *_: None)
    assert submit.main(["--table", "stop_gradient"]) == 2
    message = capsys.readouterr().err
    assert "No Ray takes jobs at this machine: " in message
    assert message.count("\n") == 1
