"""The plan in this process, one trial after another, without Ray: a single GPU, debugging, tests."""

from __future__ import annotations

import dataclasses
import functools
import gc
import traceback
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch

from ablations import placement
from ablations import trial as trials
from ablations.alarm import within
from ablations.beside import beside
from ablations.columns import Result
from ablations.lines import spoiled
from ablations.progress import HALF_DONE, Progress
from ablations.store import Store
from ablations.table import Trial, UserError
from ablations.terminal import say
from simsiam import data
from simsiam.checkpoint import TimeLimitError
from simsiam.config import Config, Runtime, fingerprint
from simsiam.data import Source
from simsiam.loader import Decoded


class DeviceError(OSError):
    """The GPU has failed in a way after which CUDA refuses all further work of this process."""


def launch(
    todo: Sequence[Trial], runtime: Runtime, store: Store, progress: Progress, rebuild: Callable[[bool], None]
) -> list[Trial]:
    """Run trials of different fingerprints, keep each result in the store, and call `rebuild` now and then.

    It is told whether a trial has just ended. One trial's exception does not stop the others. Returns the trials that
    the time limit has left. Raises UserError for a share of a GPU where there is none, DeviceError once a GPU has
    failed.
    """
    runtime = placed(runtime, (trial.config for trial in todo))
    source = data.of(runtime)
    try:
        decoded = within(runtime.until, lambda: trials.shared(source, [trial.config for trial in todo]))
    except TimeLimitError:
        return list(todo)
    if note := placement.decoding(all(decoded.values()), runtime):
        say(note)
    for number, trial in enumerate(todo):
        if runtime.over:
            return list(todo[number:])
        name = trial.fingerprint

        def on_epoch(line: dict[str, Any], name: str = name) -> None:
            progress.epoch(name, line)
            rebuild(False)

        progress.start(name)
        try:
            pictures = decoded[trial.config.train_images] or source
            result = attempt(trial.config, runtime, store, pictures, on_epoch)
        except TimeLimitError:
            progress.note(name, HALF_DONE)
            return list(todo[number:])
        except DeviceError as error:
            store.fail(trial.config, str(error))
            raise DeviceError(f"{trial.name}: {error}. CUDA refuses all further work of this process") from error
        progress.finish(name, result)
        rebuild(True)
        if why := spoiled(result):
            for other in todo[number + 1 :]:
                progress.finish(other.fingerprint, store.fail(other.config, why))
            return []
    return []


def placed(runtime: Runtime, configs: Iterable[Config]) -> Runtime:
    """The runtime with the device that is here.

    Raises UserError for a share of a GPU where there is none, and for a precision of these Configs that it has not.
    """
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if device == "cpu" and runtime.gpu_fraction != 1:
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs a GPU; there is none here. Leave it out.")
    placement.check_precision(configs, device)
    return dataclasses.replace(runtime, device=device)


def attempt(
    config: Config,
    runtime: Runtime,
    store: Store,
    pictures: Decoded | Source,
    on_epoch: Callable[[dict[str, Any]], None],
) -> Result:
    """Train and evaluate one Config, and keep what becomes of it -> its result, be it a failure.

    Raises TimeLimitError, where a checkpoint is kept, and DeviceError, for which nothing is.
    """
    checkpoint = store.checkpoint(fingerprint(config), config.method)
    try:
        with beside(checkpoint, runtime, tell=functools.partial(say, error=True)) as place:
            train = functools.partial(
                trials.run,
                config,
                runtime,
                pictures=pictures,
                place=place,
                on_epoch=on_epoch,
                weights=store.encoder(config.encoder),
            )
            result, curve = within(runtime.until, train)
        store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
        return result
    except TimeLimitError:
        raise
    except Exception as error:
        say(traceback.format_exc().rstrip(), error=True)
        why = trials.failure(error, runtime.workers, runtime.gpu_fraction)
        if isinstance(error, torch.AcceleratorError) and not trials.out_of_memory(error):
            raise DeviceError(why) from error
    # Only now: the exception, which is gone, held the tensors of the trial.
    gc.collect()
    try:
        torch.cuda.empty_cache()
    except torch.AcceleratorError as error:  # what the libraries of CUDA say of a GPU that has failed is plainer
        raise DeviceError(why) from error
    return store.fail(config, why)
