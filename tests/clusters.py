"""The files of cluster/, for the tests that read them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parent.parent
FILES = sorted(file for file in (ROOT / "cluster").iterdir() if file.is_file())
CLOUDS = ["aws", "gcp"]
LAUNCHED = [*CLOUDS, "onprem"]  # by `ray up`

Config = dict[str, Any]


def load(name: str) -> Config:
    return yaml.safe_load((ROOT / "cluster" / f"{name}.yaml").read_text())


def policy(name: str) -> Config:
    """A policy of AWS."""
    return json.loads((ROOT / "cluster" / f"{name}.json").read_text())


def machine(config: Config, kind: str) -> Config:
    """What a kind of machine is asked of the cloud with."""
    return config["available_node_types"][kind]["node_config"]
