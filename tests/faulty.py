"""A process of --jobs in which trials come to grief as a test asked: see test_launch_jobs.py."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

from ablations import launch_jobs

work = launch_jobs._work


def broken(*task: Any) -> None:
    """In place of launch_jobs._work. The folder in $FAULTS has the faults, and is told which process ran what."""
    from ablations import trial

    folder, run = Path(os.environ["FAULTS"]), trial.run
    faults = json.loads((folder / "faults").read_text())  # "stop_gradient seed" -> [kind, how often]

    def running(config: Any, *args: Any, **kwargs: Any) -> Any:
        name = f"{config.stop_gradient} {config.seed}"
        attempt = len([*folder.glob(f"{name} *")])
        (folder / f"{name} {attempt} {os.getpid()}").touch()
        kind, times = faults.get(name, ("", 0))
        if attempt < times:
            _come_to_grief(kind)
        return run(config, *args, **kwargs)

    trial.run = running
    work(*task)


def _come_to_grief(kind: str) -> None:
    import torch

    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    if kind == "exit":
        os._exit(3)
    if kind == "device":
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")
    raise RuntimeError(kind)


def stillborn(*task: Any) -> None:
    os._exit(4)


def dies(pipe: Any, *task: Any) -> None:
    """Each time with its trial."""
    pipe.send((launch_jobs._READY, ("cpu", None, 1)))
    pipe.recv()
    os._exit(3)
