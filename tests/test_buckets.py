"""Results and pictures in a bucket, of an S3 server on this machine (moto's) and of one of Google's kind."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import tiny
from pictures import assert_holds, write_parquet
from test_jobs import free_port

from ablations import results, run
from ablations.files import Folder
from ablations.store import Store
from ablations.table import UserError
from simsiam import buckets, data
from simsiam.data import DataError, arrow, parquet

pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")


def listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("localhost", port)) == 0


@pytest.fixture(scope="module")
def google() -> Iterator[None]:
    """A server of Google's kind (gcp-storage-emulator's) with one bucket, `bucket`, that the environment leads to."""
    # In a process of its own: pyarrow waits for some of its answers without letting another thread of Python run.
    port = free_port()
    options = ["--host=localhost", f"--port={port}", "--in-memory", "--default-bucket=bucket"]
    command = [sys.executable, "-m", "gcp_storage_emulator", "start", *options]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        while not listens(port):
            assert process.poll() is None
            time.sleep(0.1)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://localhost:{port}")
            yield
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(params=["s3", "gs"])
def folder(request: pytest.FixtureRequest) -> Folder:
    request.getfixturevalue("server" if request.param == "s3" else "google")
    bucket = "s3://bucket" if request.param == "s3" else "gs://anonymous@bucket"
    return Folder.at(f"{bucket}/{abs(hash(request.node.name))}/deep")


def upload(path: Path, folder: Folder) -> str:
    for file in path.rglob("*.parquet"):
        folder.write(file.relative_to(path).as_posix(), file.read_bytes())
    return folder.uri


def behaves(folder: Folder) -> None:
    """What every folder does, whatever it lies on."""
    assert folder.read("a/x") is None
    assert folder.names("a") == []
    folder.write("a/x", b"one")
    folder.write("a/x", b"two")
    folder.write("a/.hidden", b"")
    folder.write("a/y", b"")
    assert folder.read("a/x") == b"two"
    assert folder.names("a") == ["x", "y"]
    assert folder.exists("a/x")
    assert not folder.exists("a")
    folder.move("a/x", "b/z")
    folder.move("a/x", "b/other")
    assert (folder.read("a/x"), folder.read("b/z"), folder.read("b/other")) == (None, b"two", None)
    folder.remove("b/z")
    folder.remove("b/z")
    folder.remove_folder("a")
    folder.remove_folder("a")
    assert folder.names("a") == folder.names("b") == []


def test_a_bucket_behaves_as_a_disk_does(folder: Folder, tmp_path: Path) -> None:
    behaves(Folder.at(tmp_path))
    behaves(folder)
    content = bytes(range(256)) * 80_000  # 20 MB: sent in parts
    folder.write("large", content)
    assert folder.read("large") == content


def test_the_endpoint_may_stand_in_the_uri_and_is_not_printed(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ENDPOINT_URL")
    host, port = server.get_host_and_port()
    folder = Folder.at(f"s3://bucket/by-uri?scheme=http&endpoint_override={host}:{port}")
    behaves(folder)
    assert str(folder) == "s3://bucket/by-uri"


def test_an_unknown_kind_of_place_is_refused_with_the_known_ones() -> None:
    with pytest.raises(UserError, match=r"hdfs://x.*Known: a path, s3://, gs://"):
        Folder.at("hdfs://x/y")


def test_a_bucket_that_is_not_there_is_refused_at_once(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--launcher", "local", "--results", "s3://nowhere/x"]
    assert run.main(command) == 2
    assert "The results folder s3://nowhere/x cannot be written" in capsys.readouterr().err


@pytest.mark.timeout(60)  # Google's client would try for a quarter of an hour
def test_a_bucket_of_google_that_does_not_answer_is_refused_soon(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("CLOUD_STORAGE_EMULATOR_ENDPOINT", f"http://localhost:{free_port()}")
    monkeypatch.setattr(buckets, "GOOGLE_SECONDS", 1)
    with pytest.raises(UserError, match="gs://nowhere/x cannot be written"):
        Folder.at("gs://anonymous@nowhere/x").check_writable()
    for command in (["--data", "gs://anonymous@nowhere/y"], ["--results", "gs://anonymous@nowhere/z", "--plan"]):
        assert run.main(["--table", "stop_gradient", *command]) == 2
        assert "gs://nowhere/" in capsys.readouterr().err
    with pytest.raises(UserError, match="gs://nowhere/z cannot be read"):
        results.load("stop_gradient", root="gs://anonymous@nowhere/z")


def test_a_table_in_a_bucket(folder: Folder, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["--table", "stop_gradient", *tiny.OVERRIDES, "--launcher", "local", "--results", folder.uri]
    assert run.main(command) == 0
    out = capsys.readouterr().out.strip().splitlines()
    assert out[0] == f"Results: {folder}"
    assert out[-1] == f"Results: {folder}/stop_gradient.parquet"
    table = results.load("stop_gradient", root=folder.uri)
    assert len(table) == 2
    assert len(results.curves("stop_gradient", root=folder.uri)) == 4
    assert folder.names("checkpoints") == []
    ended = list(table.ended)
    assert run.main(command) == 0
    assert list(results.load("stop_gradient", root=folder.uri).ended) == ended


def test_results_default_to_the_environments_bucket(
    folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SIMSIAM_RESULTS", folder.uri)
    assert run.main(["--table", "stop_gradient", "--plan"]) == 0
    assert f"Results: {folder}" in capsys.readouterr().out


def test_a_bucket_out_of_reach_for_a_while_loses_nothing(folder: Folder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buckets, "PAUSES", (0.1,))
    folder.write("before", b"1")
    real, failing = buckets._filesystem, 0

    class Gone:
        """Every call fails as one does whose server does not answer."""

        def __getattr__(self, name: str) -> None:
            nonlocal failing
            failing -= 1
            raise OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 7")

    monkeypatch.setattr(buckets, "_filesystem", lambda uri: (Gone(), "bucket") if failing else real(uri))
    failing = 4
    assert folder.read("before") == b"1"
    assert failing == 0
    failing = 3
    Store(folder).checkpoint("x", "simsiam").write(b"2")
    assert failing == 0
    assert Store(folder).checkpoint("x", "simsiam").read() == b"2"
    failing = 1_000_000
    monkeypatch.setattr(buckets, "PATIENCE", 0.3)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):
        folder.read("before")


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    write_parquet(tmp_path / "here" / "train-00000-of-00002.parquet", range(3))
    write_parquet(tmp_path / "here" / "train-00001-of-00002.parquet", range(3, 5))
    write_parquet(tmp_path / "here" / "data" / "test.parquet", range(7, 9))
    return tmp_path / "here"


def test_pictures_in_a_bucket_are_those_of_the_folder(
    folder: Folder, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    uri = upload(pictures, folder)
    source = data.locate(uri)
    assert source.name == data.locate(pictures).name
    assert (source.train_images, source.test_images) == (5, 2)
    assert_holds(data.read(source, "train"), range(5))
    assert_holds(data.read(source, "test"), range(7, 9))
    assert data.read(source, "train").where(4) == f"{folder}/train-00001-of-00002.parquet, row 1"


def test_a_node_reads_a_bucket_once(
    server: Any, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    uri = upload(pictures, Folder.at("s3://bucket/once"))
    read = []
    batches, content = parquet.batches, parquet._content
    monkeypatch.setattr(
        parquet, "batches", lambda place, file, **of: read.append(file.name) or batches(place, file, **of)
    )
    monkeypatch.setattr(parquet, "_content", lambda place, file: read.append(file.name) or content(place, file))
    data.read(data.locate(uri), "train")
    assert sorted(read) == [
        "data/test.parquet",
        *["train-00000-of-00002.parquet"] * 2,
        *["train-00001-of-00002.parquet"] * 2,
    ]
    data.read(data.locate(uri), "train")
    assert len(read) == 5
    shutil.rmtree(tmp_path / "cache")
    data.read(data.locate(uri), "train")
    assert len(read) == 10


NETWORK = OSError("AWS Error NETWORK_CONNECTION during GetObject operation: curlCode: 56")


def test_a_copy_that_breaks_off_goes_on_however_long_it_took(
    server: Any, pictures: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(buckets, "PATIENCE", 0.2)
    monkeypatch.setattr(buckets, "PAUSES", (0.01,))
    monkeypatch.setattr(arrow, "_COPIES", 1)
    source = data.locate(upload(pictures, Folder.at("s3://bucket/broken-off")))
    real, read = parquet.batches, []

    def broken_once(place: str, file: arrow.File, **of: Any) -> Iterator[Any]:
        read.append(file.name)
        yield from real(place, file, **of)
        if len(read) in (2, 3):  # in the round for all of them, and by itself
            time.sleep(0.3)  # longer than the patience
            raise NETWORK

    monkeypatch.setattr(parquet, "batches", broken_once)
    assert_holds(data.read(source, "train"), range(5))
    assert read == ["train-00000-of-00002.parquet", *["train-00001-of-00002.parquet"] * 3]

    def broken(place: str, file: arrow.File, **of: Any) -> Iterator[Any]:
        raise NETWORK
        yield

    monkeypatch.setattr(parquet, "batches", broken)
    with pytest.raises(OSError, match="NETWORK_CONNECTION"):  # and no DataError: it is worth another attempt
        data.read(source, "test")


def test_a_bucket_without_pictures_is_refused(server: Any) -> None:
    with pytest.raises(DataError, match=r"s3://bucket/nothing holds nothing that can be read"):
        data.locate("s3://bucket/nothing")
    with pytest.raises(DataError, match="no-such-bucket"):
        data.locate("s3://no-such-bucket/x")
