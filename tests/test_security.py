"""What another user of the machine, a made-up file or a process without the token could do, and must not."""

from __future__ import annotations

import os
import pickle
import re
import socket
import stat
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tiny
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from pictures import encoded
from PIL import Image

from ablations import run
from ablations.files import Folder
from ablations.launch import connection
from ablations.store import Store
from ablations.table import UserError
from simsiam import data, distributed
from simsiam.data import DataError

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534
as_root = pytest.mark.skipif(os.getuid() != 0, reason="needs root, to act as another user")


# A machine that others use too.


@pytest.fixture
def place() -> Iterator[Path]:
    """A folder that others can read, with a short name: Ray's sockets are in it."""
    with tempfile.TemporaryDirectory(prefix="x-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.fixture
def stranger() -> Iterator[socket.socket]:
    """Listens as a Ray of somebody else's would."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        yield server


def address(server: socket.socket) -> str:
    return "{}:{}".format(*server.getsockname())


def plant(folder: Path, text: str) -> Path:
    file = folder / "ray" / "ray_current_cluster"
    file.parent.mkdir(mode=0o777)
    file.write_text(text)
    file.chmod(0o644)
    return file


@pytest.mark.slow
@as_root
@pytest.mark.timeout(600)
def test_a_ray_of_the_runs_own_is_closed_to_others_and_follows_no_file_of_theirs(
    place: Path, stranger: socket.socket, tmp_path: Path
) -> None:
    os.chown(plant(place, address(stranger)), NOBODY, NOBODY)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(place), "RAY_TMPDIR": str(place), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "ablations/run.py", "--table", "stop_gradient", "--rows", "with", *tiny.OVERRIDES]
    modes: set[int] = set()
    with subprocess.Popen(
        [*command, "--results", str(tmp_path)], cwd=ROOT, env=environment, stdout=subprocess.PIPE, text=True
    ) as process:
        while process.poll() is None:
            modes |= {stat.S_IMODE(folder.stat().st_mode) for folder in place.glob("ray-*")}
            for folder in place.glob("ray-*"):
                peek = subprocess.run(["ls", folder], user=NOBODY, capture_output=True)
                assert peek.returncode != 0
            time.sleep(1)
        assert process.stdout is not None
        out = process.stdout.read()
    assert process.returncode == 0, out
    assert modes == {0o700}
    assert not [*place.glob("ray-*")]
    assert not (place / ".ray" / "auth_token").exists()
    assert "is not a file of yours alone, and is not followed" in out
    assert "Starting Ray on this machine." in out
    assert "Ray: started here" in out
    with pytest.raises(TimeoutError):
        stranger.accept()


@pytest.mark.parametrize("how", ["link", "writable", "linked", "fifo", pytest.param("theirs", marks=as_root)])
def test_no_file_that_another_can_have_written_says_where_ray_is(
    how: str,
    tmp_path: Path,
    stranger: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    file = plant(tmp_path, address(stranger))
    assert connection._address("") == connection._address("auto") == address(stranger)
    monkeypatch.setattr(connection, "_is_private", lambda group: True)
    file.chmod(0o664)  # as with the umask of many systems
    assert connection._address("") == address(stranger)
    monkeypatch.setattr(connection, "_is_private", lambda group: False)
    assert connection._address("") == connection.LOCAL
    file.chmod(0o644)
    capsys.readouterr()
    if how == "link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif how == "writable":
        file.chmod(0o666)
    elif how == "linked":
        os.link(file, tmp_path / "elsewhere")
    elif how == "fifo":
        file.unlink()
        os.mkfifo(file)
    else:
        os.chown(file, NOBODY, NOBODY)
    assert connection._address("") == connection.LOCAL
    assert "is not a file of yours alone" in capsys.readouterr().out
    with pytest.raises(UserError, match="is not a file of yours alone, and is not followed"):
        connection._address("auto")


def test_a_ray_that_has_ended_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as server:
        plant(tmp_path, address(server))
    assert connection._address("") == connection.LOCAL
    with pytest.raises(UserError, match="names none that answers"):
        connection._address("auto")


def test_a_token_that_others_can_read_is_closed_to_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    file = tmp_path / ".ray" / "auth_token"
    file.parent.mkdir()
    file.write_text("t" * 64)
    file.chmod(0o644)
    connection._keep_the_token()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert "Others could read the token of Ray" in capsys.readouterr().out
    connection._keep_the_token()
    assert not capsys.readouterr().out
    file.chmod(0o640)
    monkeypatch.setattr(Path, "chmod", lambda *_: (_ for _ in ()).throw(PermissionError(1, "Operation not permitted")))
    with pytest.raises(UserError, match="name that in RAY_AUTH_TOKEN_PATH"):
        connection._keep_the_token()


class Evil:
    """Unpickled, it leaves a file."""

    def __init__(self, trace: str) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Any, ...]:
        return open, (self.trace, "w")


def member(rank: int, port: int, trace: str) -> None:
    dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2)
    if rank == 1:  # it has no token, and needs none to be here
        content = torch.frombuffer(bytearray(pickle.dumps(Evil(trace))), dtype=torch.uint8)
        dist.all_gather([torch.zeros(1, dtype=torch.int64) for _ in range(2)], torch.tensor([len(content)]))
        dist.all_gather([torch.zeros_like(content) for _ in range(2)], content)
    else:
        with pytest.raises(ValueError, match="codec can't decode"):
            distributed.everyone("a")
        Path(trace + ".asked").touch()
    dist.destroy_process_group()
    os._exit(0)  # gloo's threads, still at work when the interpreter ends, abort it


def test_a_rank_that_nobody_has_started_runs_no_code_in_another(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    trace = str(tmp_path / "trace")
    mp.spawn(member, (port, trace), nprocs=2)
    assert [file.name for file in tmp_path.iterdir()] == ["trace.asked"]


# Files that others made.


def test_no_name_leads_out_of_the_results(tmp_path: Path) -> None:
    folder, outside = Folder.at(tmp_path / "results"), tmp_path / "mine"
    outside.write_bytes(b"mine")
    folder.write("a", b"a")
    for name in ("../mine", "trials/../../mine", str(outside)):
        for call in (
            lambda name=name: folder.read(name),
            lambda name=name: folder.write(name, b"theirs"),
            lambda name=name: folder.move("a", name),
            lambda name=name: folder.remove(name),
            lambda name=name: folder.exists(name),
            lambda name=name: folder.names(name),
            lambda name=name: folder.remove_folder(name),
        ):
            with pytest.raises(UserError, match="outside of the results folder"):
                call()
    assert outside.read_bytes() == b"mine"


@pytest.mark.parametrize("column", ["sources", "fingerprint"])
def test_a_result_with_a_path_for_a_digest_is_damaged(
    column: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["--table", "stop_gradient", "--rows", "with", *tiny.OVERRIDES, "--launcher", "local"]
    command += ["--results", str(tmp_path / "results")]
    assert run.main(command) == 0
    (file,) = (tmp_path / "results" / "trials").iterdir()
    mine = tmp_path / "mine.parquet"
    mine.write_bytes(b"mine")
    table = pq.read_table(file)
    column_number = table.schema.get_field_index(column)
    made_up = pa.array(["../../../mine"])
    pq.write_table(table.set_column(column_number, table.schema.field(column), made_up), file)
    capsys.readouterr()
    assert run.main([*command, "--rerun", "stale"]) == 2
    assert "is no digest" in capsys.readouterr().err
    assert mine.read_bytes() == b"mine"
    file.unlink()
    assert run.main(command) == 0
    assert len(pd.read_parquet(tmp_path / "results" / "stop_gradient.parquet")) == 1


def test_a_result_of_another_trial_is_none(tmp_path: Path) -> None:
    command = ["--table", "stop_gradient", "--rows", "with", *tiny.OVERRIDES, "--launcher", "local"]
    assert run.main([*command, "--results", str(tmp_path)]) == 0
    (file,) = (tmp_path / "trials").iterdir()
    file.rename(file.with_stem("0" * 20))
    with pytest.raises(UserError, match=rf"0\.parquet is of trial {file.stem}\. Remove it"):
        Store.at(tmp_path).trial("0" * 20)


CHECK = """
import re, sys
from simsiam import data
try:
    data.check(data.locate(sys.argv[1]))
except data.DataError as error:
    print(error)
print(int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read())[1]) >> 10)
"""


def checked(folder: Path) -> tuple[str, int]:
    """What `--check` says of data, and how much memory that took at most, in MiB."""
    done = subprocess.run(
        [sys.executable, "-c", CHECK, folder], cwd=ROOT, capture_output=True, text=True, timeout=100, check=True
    )
    *message, memory = done.stdout.splitlines()
    return "\n".join(message), int(memory)


def parquet(folder: Path, train: pa.Array, **how: Any) -> Path:
    """Training pictures as they are given, and two good ones for testing."""
    column = {"image": pa.array([encoded(0), encoded(1)]), "label": [0, 1]}
    pq.write_table(pa.table(column), folder / "test.parquet")
    labels = pa.array(np.arange(len(train)) % 2)
    pq.write_table(pa.table({"image": train, "label": labels}), folder / "train.parquet", **how)
    assert (folder / "train.parquet").stat().st_size < 3_000_000
    return folder


def test_small_pngs_of_many_pixels_fill_no_node(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            Image.new("1", (8900, 9900)).save(tmp_path / split / label / "0.png")
            for i in range(1, 11):
                (tmp_path / split / label / f"{i}.png").write_bytes((tmp_path / split / label / "0.png").read_bytes())
    message, memory = checked(tmp_path)
    assert "has 44 broken pictures" in message
    assert "it has 8900 x 9900 pixels, and at most 50,000,000 are read; --max-pixels allows more" in message
    assert memory < 500


@pytest.mark.slow
def test_large_pictures_that_are_allowed_are_decoded_one_at_a_time(tmp_path: Path) -> None:
    for split in ("train", "val"):
        for label in ("a", "b"):
            (tmp_path / split / label).mkdir(parents=True)
            for i in range(3):
                Image.new("L", (7000, 7000), i).save(tmp_path / split / label / f"{i}.png")
    message, memory = checked(tmp_path)
    assert not message
    assert memory < 900  # one of them, as it is converted, takes 340


def test_null_pictures_are_refused_at_the_first(tmp_path: Path) -> None:
    message, memory = checked(parquet(tmp_path, pa.nulls(20_000_000, pa.binary()), row_group_size=20_000_000))
    assert "train.parquet, row 0: it is null" in message
    assert memory < 600


def test_one_picture_of_many_bytes_in_a_small_parquet_file_is_refused(tmp_path: Path) -> None:
    message, memory = checked(parquet(tmp_path, pa.array([b"\0" * 700_000_000]), compression="zstd"))
    assert numberless(message) == "has pictures of N bytes in N. At most N are read"
    assert memory < 500
    assert not [*Path(os.environ["SIMSIAM_CACHE"]).glob("*.tmp")]


def test_one_picture_for_all_rows_of_a_small_parquet_file_is_refused(tmp_path: Path) -> None:
    rows = pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), pa.array([b"\0" * 50_000_000]))
    folder = parquet(tmp_path, rows, compression="zstd", dictionary_pagesize_limit=1 << 30, store_schema=False)
    message, memory = checked(folder)
    assert numberless(message) == "unfolds to more than N bytes. At most N are read"
    assert memory < 1700


def numberless(message: str) -> str:
    """A message from behind the file's name to its reason, with N for each number."""
    text = message.partition("train.parquet ")[2].partition(", so that")[0]
    return re.sub(r"[\d,]+\d", "N", text)


def test_a_copy_of_refused_pictures_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIMSIAM_CACHE", str(tmp_path / "cache"))
    source = data.locate(parquet(tmp_path, pa.array([encoded(0), b"no picture"])))
    data.read(source, "train")
    assert [*(tmp_path / "cache").glob("*.arrow")]
    with pytest.raises(DataError, match=r"row 1"):
        data.check(source)
    assert not [*(tmp_path / "cache").glob("*.arrow")]


def test_larger_pictures_are_read_where_that_is_asked_for(tmp_path: Path) -> None:
    folder = parquet(tmp_path, pa.array([encoded(0, 30, 30), encoded(1, 30, 30)]))
    with pytest.raises(DataError, match="it has 30 x 30 pixels, and at most 899 are read"):
        data.check(data.locate(folder, max_pixels=899))
    small = data.locate(folder, max_pixels=900)
    data.check(small)
    assert small.name == data.locate(folder).name
