"""The plan in several processes of this machine, each one trial after another, without Ray: they fill a GPU, or cores.

A process is spawned, since a fork of one that runs threads or CUDA hangs, and is used for trial after trial, since its
imports take seconds. Each decodes the pictures for itself, once: that happens side by side, and what they would share
on the host ends as a copy for each on the GPU all the same.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ablations import provenance
from ablations.alarm import within
from ablations.columns import Result
from ablations.lines import spoiled
from ablations.progress import HALF_DONE, Progress
from ablations.store import Store
from ablations.table import Trial, UserError
from ablations.terminal import say
from ablations.tries import Failures
from simsiam import data
from simsiam.checkpoint import TimeLimitError
from simsiam.config import Config, Runtime

if TYPE_CHECKING:
    from simsiam.loader import Decoded

_TRIES = 3  # of a trial whose processes die before they have got further than the time before
_STILLBORN = 3  # processes in a row that die before they can take a trial
_SECONDS = 10.0  # for a process to end by itself

# What a process says, with what goes with each: it can take a trial, (device, its share of the memory, threads); the
# line of an epoch; the result of its trial; that the time limit has come first; why its GPU has failed; why nothing can
# run here.
_READY, _EPOCH, _ENDED, _OVER, _BROKEN, _REFUSED = "ready", "epoch", "ended", "over", "broken", "refused"


def launch(
    todo: Sequence[Trial],
    runtime: Runtime,
    store: Store,
    progress: Progress,
    rebuild: Callable[[bool], None],
    *,
    jobs: int,
) -> list[Trial]:
    """Run trials as `launch_local.launch` does, `jobs` at once.

    A process that dies costs its own trial, which is tried again for as long as it gets further. Returns the trials
    that the time limit has left. Raises UserError for a share of a GPU where there is none, DataError, and OSError if
    no process can start.
    """
    jobs = min(jobs, len(todo))
    plan = _Plan(todo, runtime, store, progress, rebuild, jobs)
    with contextlib.ExitStack() as stack:
        precisions = {trial.config.precision: trial.config for trial in todo}
        task = runtime, store.folder.uri, jobs, list(precisions.values())
        slots = [stack.enter_context(_Slot(task)) for _ in range(jobs)]
        while plan.waiting or any(slot.trial for slot in slots):
            for pipe in wait([slot.pipe for slot in slots]):
                slot = next(slot for slot in slots if slot.pipe is pipe)
                try:
                    what, content = slot.pipe.recv()
                except (EOFError, OSError):
                    plan.died(slot, slot.bury())
                    if plan.waiting:
                        slot.start()
                    else:
                        slots.remove(slot)
                else:
                    plan.hear(slot, what, content)
    return plan.left


class _Slot:
    """One of the processes that run side by side, or its successor after it has died.

    Args:
        task: what each of them is told at its start.

    Attributes:
        trial: what it is at.
        broken: why its GPU has failed; empty if it has not.
    """

    def __init__(self, task: tuple[Runtime, str, int, list[Config]]) -> None:
        self._task = task
        self.start()

    def start(self) -> None:
        """A new process."""
        self.trial: Trial | None = None
        self.broken = ""
        spawn = multiprocessing.get_context("spawn")
        self.pipe, other = spawn.Pipe()
        # No daemon: those may not have loader processes.
        self._process = spawn.Process(target=_work, args=(other, *self._task))
        self._process.start()
        other.close()

    def bury(self) -> str:
        """Wait for the end of a process that says no more -> how it ended."""
        self.pipe.close()
        self._process.join(_SECONDS)
        if self._process.exitcode is None:
            self._process.kill()
            self._process.join()
        code = self._process.exitcode or 0
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def __enter__(self) -> _Slot:
        return self

    def __exit__(self, error: type[BaseException] | None, *_: object) -> None:
        if error:
            self._process.terminate()
        self.bury()  # one that waits for a trial ends where its pipe is closed


class _Plan:
    """Which trials are to come, and what the processes say of those that are under way.

    Attributes:
        waiting: those that are to come.
        left: those that the time limit has come before.
    """

    def __init__(
        self,
        todo: Sequence[Trial],
        runtime: Runtime,
        store: Store,
        progress: Progress,
        rebuild: Callable[[bool], None],
        jobs: int,
    ) -> None:
        self.waiting = deque(todo)
        self.left: list[Trial] = []
        self._runtime = runtime
        self._store, self._progress, self._rebuild, self._jobs = store, progress, rebuild, jobs
        self._failures = Failures()
        self._said, self._stillborn = False, 0

    def hear(self, slot: _Slot, what: str, content: Any) -> None:
        """A process says something. Raises DataError, UserError if it says that nothing can run here."""
        if what == _REFUSED:
            raise content
        if what == _BROKEN:
            slot.broken = content  # and it ends
        elif what == _READY:
            self._stillborn = 0
            if not self._said:
                say(_first_line(self._jobs, *content))
            self._said = True
            self._next(slot)
        elif slot.trial and what == _EPOCH:
            self._progress.epoch(slot.trial.fingerprint, content)
            self._rebuild(False)
        elif slot.trial and what == _OVER:
            self._progress.note(slot.trial.fingerprint, HALF_DONE)
            self._leave(slot.trial, *self.waiting)
            self._next(slot)
        elif slot.trial:
            self._finish(slot.trial, content)
            self._next(slot)

    def died(self, slot: _Slot, how: str) -> None:
        """A process has ended, `how` in words. Raises OSError if none can start."""
        if slot.trial:
            self._again(slot.trial, slot.broken or f"its process {how}")
            return
        if not self.waiting:  # nor does it matter how one ends that has nothing to do
            return
        self._stillborn += 1
        if self._stillborn >= _STILLBORN:
            raise OSError(f"No process for trials can start: the last of {_STILLBORN} {how}")

    def _leave(self, *trials: Trial) -> None:
        self.left += trials
        self.waiting.clear()

    def _next(self, slot: _Slot) -> None:
        if self._runtime.over:
            self._leave(*self.waiting)
        slot.trial = self.waiting.popleft() if self.waiting else None
        if slot.trial:
            self._progress.start(slot.trial.fingerprint)
            with contextlib.suppress(OSError):  # a process that has died is noticed by its silence
                slot.pipe.send(slot.trial.config)

    def _again(self, trial: Trial, why: str) -> None:
        """A trial has lost its process. It is the next to be tried, or has failed."""
        name = trial.fingerprint
        if self._store.state(name) == "done" and (done := self._store.trial(name)):
            self._finish(trial, done)  # it died between its result and its word
            return
        reached = self._store.checkpoint(name, trial.config.method).modified()
        if self._failures.add(name, reached) < _TRIES:
            self._progress.note(name, f"starting again: {why}")
            self.waiting.appendleft(trial)
            return
        text = f"{_TRIES} times in one place, at last: {why}. If the memory was too small, use fewer --jobs."
        self._finish(trial, self._store.fail(trial.config, text))

    def _finish(self, trial: Trial, result: Result) -> None:
        ended = [(trial, result)]
        if why := spoiled(result):
            ended += [(other, self._store.fail(other.config, why)) for other in self.waiting]
            self.waiting.clear()
        for each, its in ended:
            self._progress.finish(each.fingerprint, its)
        self._rebuild(True)


def _first_line(jobs: int, device: str, fraction: float | None, threads: int) -> str:
    """How the trials run."""
    who = f"{jobs} trial{'s' * (jobs > 1)} at once on {device}, each in a process of its own"
    if fraction is None:
        return f"{who} with {threads} thread{'s' * (threads > 1)}."
    mps = "MPS is on: their kernels run" if _mps() else "No MPS daemon is seen: their kernels do not run"
    return f"{who} with {fraction:.0%} of the memory. {mps} at the same time."


def _mps() -> bool:
    """Whether CUDA's Multi-Process Service runs where CUDA looks for it."""
    folder = Path(os.environ.get("CUDA_MPS_PIPE_DIRECTORY") or "/tmp/nvidia-mps")
    try:
        os.kill(int((folder / "nvidia-cuda-mps-control.pid").read_text()), 0)
    except PermissionError:  # somebody else's, and alive
        return True
    except (OSError, ValueError):
        return False
    return True


# What runs in the processes.


def _work(pipe: Connection, runtime: Runtime, results: str, jobs: int, precisions: list[Config]) -> None:
    """Run the trials that come through the pipe, until it is closed. `precisions`: a Config of each that will come."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is run.py's to handle
    threading.Thread(target=_end_with_run, daemon=True).start()
    from ablations import launch_local

    try:
        _run_trials(pipe, runtime, Store.at(results), jobs, precisions)
    except (EOFError, BrokenPipeError):
        return
    except launch_local.DeviceError as error:
        pipe.send((_BROKEN, str(error)))
    except (UserError, data.DataError) as error:
        pipe.send((_REFUSED, error))


def _end_with_run() -> None:
    """Where run.py is killed, its processes end."""
    run = multiprocessing.parent_process()
    assert run is not None
    run.join()
    os._exit(1)


def _run_trials(pipe: Connection, runtime: Runtime, store: Store, jobs: int, precisions: list[Config]) -> None:
    import torch

    from ablations import launch_local
    from ablations import trial as trials

    runtime = launch_local.placed(runtime, precisions)
    cuda = runtime.device == "cuda"
    if cuda and runtime.gpu_fraction == 1:
        runtime = dataclasses.replace(runtime, gpu_fraction=1 / jobs)
    name = torch.cuda.get_device_name() if cuda else provenance.processor()
    pipe.send((_READY, (name, runtime.gpu_fraction if cuda else None, runtime.threads)))
    source = data.of(runtime)
    decoded: dict[int | None, Decoded | None] = {}
    while True:
        config = pipe.recv()
        try:
            if config.train_images not in decoded:
                decoded |= within(runtime.until, functools.partial(trials.shared, source, [config]))
            pictures = decoded[config.train_images] or source
            result = launch_local.attempt(config, runtime, store, pictures, lambda line: pipe.send((_EPOCH, line)))
        except TimeLimitError:
            pipe.send((_OVER, None))
        else:
            pipe.send((_ENDED, result))
