"""Secrets: refused in a URI, shown nowhere, and not among what is submitted."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
import tiny
from ray._private.runtime_env import packaging

from ablations import run
from simsiam import buckets

ROOT = Path(__file__).resolve().parent.parent


@pytest.mark.parametrize(
    "uri",
    [
        "s3://AKEY:hush@bucket/x",
        "s3://AKEY:hu/sh@bucket/x",
        "s3://AKEY:hush",
        "gs://anonymous@AKEY:hush@bucket/x",
        "s3://bucket/x?endpoint_override=AKEY:hush@127.0.0.1:9000",
        "s3://bucket/x?endpoint_override=AKEY:hush%40127.0.0.1:9000",
        "https://AKEY:hush@bucket/x",
    ],
)
@pytest.mark.parametrize("option", ["--results", "--data"])
def test_a_secret_in_a_uri_is_refused_and_shown_nowhere(
    option: str, uri: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--table", "stop_gradient", *tiny.OVERRIDES, option, uri]) == 2
    shown = "".join(capsys.readouterr())
    assert "hu" + "sh" not in shown.replace("/", "")
    assert "AKEY" not in shown
    assert "AWS_SECRET_ACCESS_KEY" in shown or "unknown kind" in shown


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("s3://bucket/me@home/x?region=y", "s3://bucket/me@home/x"),
        ("gs://anonymous@bucket/x", "gs://bucket/x"),
        ("/a@b/c?d", "/a@b/c?d"),
    ],
)
def test_a_place_without_a_secret_is_shown(place: str, shown: str) -> None:
    assert buckets.shown(place) == shown


def test_a_submitted_folder_takes_the_code_along_and_nothing_that_lies_beside_it(tmp_path: Path) -> None:
    files = subprocess.run(["git", "ls-files", "simsiam", "ablations"], cwd=ROOT, capture_output=True, text=True)
    code = ["pyproject.toml", "README.md", *files.stdout.split()]
    strays = [".env", ".netrc", "key.pem", "id_ed25519", "service-account.json", "cluster/aws.yaml", "simsiam/.env"]
    strays += [
        "results/a.parquet",
        "simsiam/key.pem",
        "ablations/account.json",
        ".ssh/id_rsa",
        "notes.txt",
        "other/x.py",
    ]
    for name in (*code, *strays):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    for name in (".rayignore", ".gitignore"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    taken: list[str] = []

    def take(path: Path) -> None:
        if path.is_file():
            taken.append(path.relative_to(tmp_path).as_posix())

    packaging._dir_travel(tmp_path, [], take, include_gitignore=True)
    assert sorted(taken) == sorted(code)
    keys = [name for name in strays if name.startswith((".env", ".netrc", "key", "id_", "service", "simsiam/"))]
    ignored = subprocess.run(["git", "check-ignore", "--no-index", *keys], cwd=ROOT, capture_output=True, text=True)
    assert ignored.stdout.split() == keys
