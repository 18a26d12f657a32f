"""What a command of cluster/ starts: in its home folder stands a `ray` that writes down how it was called."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from clusters import ROOT


@dataclass(frozen=True)
class Call:
    program: str
    arguments: list[str]
    folder: Path
    environment: dict[str, str]


# In one write, because some are called at the same time.
RECORDER = f"""#!{sys.executable}
import json, os, sys
call = [os.path.basename(sys.argv[0]), sys.argv[1:], os.getcwd(), dict(os.environ)]
with open(os.path.join(os.environ["HOME"], "calls"), "ab", buffering=0) as file:
    file.write(json.dumps(call).encode() + b"\\n")
"""


def home_in(folder: Path) -> Path:
    """A home folder with the checkout, where the programs that the commands start are recorders."""
    for place in ("venv/bin", "simsiam-ablations/.venv/bin"):
        (folder / place).mkdir(parents=True)
        for program in ("ray", "python", "srun"):
            (folder / place / program).write_text(RECORDER)
            (folder / place / program).chmod(0o700)
    (folder / "simsiam-ablations" / "cluster").symlink_to(ROOT / "cluster")
    return folder


def calls(command: list[str], home: Path, **environment: str) -> list[Call]:
    """Run a command at home, and give back the calls of the recorders."""
    environment = {"HOME": str(home), "PATH": os.environ["PATH"], **environment}
    subprocess.run(command, cwd=home / "simsiam-ablations", env=environment, capture_output=True)
    lines = (home / "calls").read_text().splitlines() if (home / "calls").exists() else []
    return [Call(program, arguments, Path(folder), env) for program, arguments, folder, env in map(json.loads, lines)]


def started(command: list[str], home: Path, **environment: str) -> Call:
    """The one `ray start` of a command."""
    (call,) = [c for c in calls(command, home, **environment) if c.program == "ray" and c.arguments[0] == "start"]
    return call
