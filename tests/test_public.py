"""Public data by name and of the Hub: the real client against a server of this machine, whole, cut, wrong and away."""

from __future__ import annotations

import hashlib
import http.server
import json
import pickle
import re
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import huggingface_hub.constants
import numpy as np
import pytest
import torchvision
from pictures import assert_holds, encoded, write_images, write_parquet

from ablations import options, request
from ablations.table import UserError
from simsiam import data
from simsiam.data import DataError, class_folders, hub, public
from simsiam.data import download as downloads

COMMIT, CONVERTED = "a" * 40, "b" * 40
NAME = "hf://datasets/owner/name"


class Hub(http.server.ThreadingHTTPServer):
    """The part of the Hub that its client asks for. `files`: commit -> name -> content."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Answers)
        self.files: dict[str, dict[str, bytes]] = {COMMIT: {}, CONVERTED: {}}
        self.sent: list[str] = []
        self.asked: list[str] = []
        self.wrong, self.cut, self.gated = False, 0, False
        self.ranges, self.asked_from = True, list[int]()


class _Answers(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Nothing."""

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = self.path.partition("?")[0].replace("%2F", "/")
        self.server.asked.append(path)
        if self.server.gated:
            return self._send(403, b"", **{"X-Error-Code": "GatedRepo"})
        if match := re.fullmatch(r"/api/datasets/owner/name(?:/revision/(.+))?", path):
            commit = {None: COMMIT, "main": COMMIT, "refs/convert/parquet": CONVERTED}.get(match[1], match[1])
            siblings = [{"rfilename": name} for name in self.server.files.get(commit, {})]
            return self._send(200, json.dumps({"id": "owner/name", "sha": commit, "siblings": siblings}).encode())
        if match := re.fullmatch(r"/api/datasets/owner/name/tree/(\w+).*", path):
            tree = [
                {"type": "file", "path": name, "size": len(content), "oid": "0" * 40}
                for name, content in self.server.files[match[1]].items()
            ]
            return self._send(200, json.dumps(tree).encode())
        if match := re.fullmatch(r"/datasets/owner/name/resolve/(\w+)/(.+)", path):
            return self._send_file(match[1], self.server.files[match[1]][match[2]], match[2])
        self._send(404, b"", **{"X-Error-Code": "RepoNotFound"})

    def _send_file(self, commit: str, content: bytes, name: str) -> None:
        begin = int((re.match(r"bytes=(\d+)-", self.headers.get("Range") or "") or [0, 0])[1])
        self.server.asked_from.append(begin)
        begin = begin if self.server.ranges else 0
        headers = {
            "ETag": f'"{hashlib.sha256(content).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        headers["X-Linked-Size"] = str(len(content))
        if self.command == "GET":
            self.server.sent.append(name)
        sent = content[begin:]
        if begin:
            headers["Content-Range"] = f"bytes {begin}-{len(content) - 1}/{len(content)}"
        if self.server.wrong:
            sent = sent[:-1] + bytes([sent[-1] ^ 1])
        self._send(206 if begin else 200, sent, **headers)

    def _send(self, code: int, content: bytes, **headers: str) -> None:
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        if self.command == "GET":
            if self.server.cut and "resolve" in self.path:
                self.server.cut -= 1
                self.wfile.write(content[: len(content) // 2])
                self.close_connection = True
                return
            self.wfile.write(content)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub() as made:
        threading.Thread(target=made.serve_forever, daemon=True).start()
        endpoint = "http://{}:{}".format(*made.server_address)
        monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", endpoint)
        template = endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(huggingface_hub.HfApi().__class__, "__init__", _with(endpoint))
        yield made
        made.shutdown()


def _with(endpoint: str) -> Any:
    real = huggingface_hub.HfApi.__init__
    return lambda self, *args, **more: real(self, *args, **{**more, "endpoint": endpoint})


@pytest.fixture
def folder(tmp_path: Path, server: Hub) -> Path:
    """The same data in a folder and on the Hub."""
    for name, rows in (("train-00000-of-00001", range(5)), ("test-00000-of-00001", range(7, 9))):
        write_parquet(tmp_path / "here" / "data" / f"{name}.parquet", rows)
    upload(tmp_path / "here", server)
    return tmp_path / "here"


def upload(folder: Path, server: Hub, commit: str = COMMIT) -> None:
    files = [file for file in folder.rglob("*") if file.is_file()]
    server.files[commit] = {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}


def test_a_data_set_of_the_hub_is_that_of_the_folder_cold_warm_and_offline(folder: Path, server: Hub) -> None:
    cold = data.locate(NAME)
    assert cold.name == data.locate(folder).name
    assert not cold.is_public  # for all we know: a token opens private ones
    assert cold.asked == f"{NAME}@{COMMIT}"
    assert_holds(data.read(cold, "train"), range(5))
    sent = len(server.sent)
    assert data.locate(NAME).name == cold.name
    assert len(server.sent) == sent == 2
    server.asked.clear()
    data.unchanged(cold)
    assert data.locate(cold.asked).name == cold.name  # what another process of this node is told
    assert server.asked == []


def test_what_is_cut_off_is_gone_on_with(folder: Path, server: Hub) -> None:
    server.cut = 1
    assert data.locate(NAME).name == data.locate(folder).name
    assert sorted(map(server.sent.count, set(server.sent))) == [1, 2]


def test_a_wrong_content_is_refused_and_fetched_again(folder: Path, server: Hub) -> None:
    server.wrong = True
    with pytest.raises(DataError, match="has not the checksum that the Hub says"):
        data.locate(NAME)
    server.wrong = False
    with pytest.raises(DataError, match="has not the checksum"):  # of the other file
        data.locate(NAME)
    assert data.locate(NAME).name == data.locate(folder).name


def test_a_licence_an_unknown_name_and_no_network_are_said_without_the_token(
    folder: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(DataError, match="no data set owner/other, or it is private"):
        data.locate("hf://datasets/owner/other")
    with pytest.raises(DataError, match=r"is hf://datasets/OWNER/NAME or .*Got hf://datasets/owner instead"):
        data.locate("hf://datasets/owner")
    server.gated = True
    with pytest.raises(DataError, match=r"its licence must be accepted .* \$HF_TOKEN"):
        data.locate(NAME)
    server.gated = False

    def away(*_: Any, **__: Any) -> None:
        raise OSError("no route to host with hf_secret")

    monkeypatch.setattr(huggingface_hub.HfApi, "dataset_info", away)
    with pytest.raises(DataError, match=r"cannot be found: no route to host with \*\*\*\. Is there a network\?"):
        data.locate(NAME)
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(DataError, match=r"needs the package huggingface_hub. Run: pip install"):
        data.locate(NAME)


def test_one_config_of_several_and_parquet_that_the_hub_has_made(tmp_path: Path, server: Hub) -> None:
    for config, rows in (("coarse", 3), ("fine", 4)):
        for split in ("train", "test"):
            write_parquet(tmp_path / "hub" / config / split / "0000.parquet", range(rows))
    upload(tmp_path / "hub", server, CONVERTED)
    server.files[COMMIT] = {"pictures.zip": b"x"}
    with pytest.raises(DataError, match="several data sets: coarse, fine"):
        data.locate(NAME)
    found = data.locate(f"{NAME}/fine")
    assert (found.train_images, found.asked) == (4, f"{NAME}@{CONVERTED}/fine")


def test_a_name_is_fetched_once_and_split_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    tries = []

    def fetch(folder: Path) -> None:
        tries.append(folder)
        write_images(
            folder / "flower_photos", {f"{label}/{i}.png": i for label in ("rose", "tulip") for i in range(40)}
        )
        (folder / "flower_photos.tgz").write_bytes(b"x")
        if len(tries) == 1:
            raise RuntimeError("the connection was reset")

    monkeypatch.setitem(public.NAMES, "flowers", public._Public(fetch, test_fraction=0.15))
    with pytest.raises(DataError, match=r"flowers cannot be fetched: the connection was reset\. .*--data"):
        data.locate("flowers")
    source = data.locate("flowers")
    assert (source.asked, source.test_fraction, len(tries)) == ("flowers", 0.15, 2)
    assert source.is_public
    assert data.locate("flowers").name == source.name == data.locate(source.path, 0.15).name
    assert len(tries) == 2
    assert not [*(tmp_path / "cache").rglob("*.tgz")]
    low = [i for i in range(40) if int(hashlib.sha256(encoded(i)).hexdigest(), 16) < 0.15 * 2**256]
    assert class_folders.read(source, "test").labels.tolist() == [0] * len(low) + [1] * len(low)


def test_another_checksum_than_that_of_flowers_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path))

    def go_on(url: str, part: Path) -> None:
        part.write_bytes(b"another archive")

    monkeypatch.setattr(downloads, "_go_on", go_on)
    with pytest.raises(
        DataError, match=r"flowers cannot be fetched: .* has the checksum .*, and not the published 4c5"
    ):
        data.locate("flowers")
    assert not [*tmp_path.rglob("*.tgz*")]


def an_archive(folder: Path) -> bytes:
    """CIFAR-10 as torchvision publishes it, with few pictures."""
    for name in [f"data_batch_{n}" for n in range(1, 6)] + ["test_batch", "batches.meta"]:
        file = folder / "cifar-10-batches-py" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        rows = np.random.default_rng(len(name)).integers(0, 256, (2, 3072), dtype=np.uint8)
        meta = {"label_names": list("abcdefghij")}
        file.write_bytes(pickle.dumps(meta if name == "batches.meta" else {"data": rows, "labels": [0, 1]}))
    with tarfile.open(folder / "made.tar.gz", "w:gz") as archive:
        archive.add(folder / "cifar-10-batches-py", "cifar-10-batches-py")
    return (folder / "made.tar.gz").read_bytes()


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_by_name_that_is_cut_off_is_gone_on_with(
    ranges: bool, tmp_path: Path, server: Hub, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = an_archive(tmp_path)
    server.files[COMMIT]["cifar-10-python.tar.gz"] = content
    server.ranges = ranges
    url = (
        "http://{}:{}".format(*server.server_address) + f"/datasets/owner/name/resolve/{COMMIT}/cifar-10-python.tar.gz"
    )
    kind = torchvision.datasets.CIFAR10
    monkeypatch.setattr(kind, "url", url)
    monkeypatch.setattr(kind, "tgz_md5", hashlib.md5(content).hexdigest())
    monkeypatch.setattr(kind, "_check_integrity", lambda self: (tmp_path / "cache").exists() and self_has(self.root))
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda *_: True)
    server.cut = 3
    with pytest.raises(
        DataError, match=r"cifar10 cannot be fetched: .*cut off after [\d,]+ of [\d,]+ bytes; the same command"
    ):
        data.locate("cifar10")
    (part,) = (tmp_path / "cache").rglob("*.part")
    kept = part.stat().st_size
    assert 0 < kept < len(content)
    assert kept > len(content) / 2 or not ranges  # each try went on from the last, if the server can
    server.cut, server.asked_from = 1, []
    source = data.locate("cifar10")
    assert source.layout == "cifar10"
    assert (server.asked_from[0] == kept) == ranges or not ranges
    assert not [*(tmp_path / "cache").rglob("*.part"), *(tmp_path / "cache").rglob("*.gz")]
    assert len(data.read(source, "train")) == 10


def self_has(root: str) -> bool:
    return Path(root, "cifar-10-batches-py").is_dir()


def test_a_name_is_never_a_folder_and_a_recipe_has_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str | None] = []

    def locate(path: Any, *_: Any) -> data.Source:
        asked.append(None if path is None else str(path))
        return data.Source("digits", "0", 1, 1)

    monkeypatch.setattr(data, "locate", locate)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SIMSIAM_DATA", raising=False)

    def source(*words: str) -> None:
        request.source(options.parser().parse_args(list(words)))

    source("--recipe", "cifar10_short")
    source("--recipe", "imagenette", "--data", "cifar100")
    source()
    monkeypatch.setenv("SIMSIAM_DATA", "flowers")
    source("--recipe", "cifar10")
    assert asked == ["cifar10", "cifar100", None, "flowers"]
    (tmp_path / "cifar10").mkdir()
    with pytest.raises(
        UserError, match=r"is the name of public data, and a folder here\. For the folder, write \./cifar10"
    ):
        source("--data", "cifar10")
    source("--data", "./cifar10")
    assert asked[-1] == str(tmp_path / "cifar10")


def test_every_name_is_one_that_torchvision_or_the_hub_has() -> None:
    from torchvision import datasets

    assert {name for name, each in public.NAMES.items() if each.hub} == {"tiny-imagenet", "imagenet"}
    assert all(each.hub.startswith(hub.PREFIX) for each in public.NAMES.values() if each.hub)
    for kind in ("CIFAR10", "CIFAR100", "STL10", "Imagenette"):
        assert hasattr(datasets, kind)
