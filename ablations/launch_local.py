"""The plan in this process, one trial after another, without Ray: a single GPU, debugging, tests."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch

from ablations import trial as trials
from ablations.progress import Progress
from ablations.store import FAILED, Store, unfinished
from ablations.table import Trial, UserError
from simsiam import data
from simsiam.config import Runtime


def launch(
    todo: Sequence[Trial], runtime: Runtime, store: Store, progress: Progress, rebuild: Callable[[bool], None]
) -> list[Trial]:
    """Run trials of different fingerprints, keep each result in the store, and call `rebuild` now and then.

    It is told whether a trial has just ended. One trial's exception does not stop the others. Raises UserError for a
    share of a GPU where there is none.
    """
    runtime = dataclasses.replace(runtime, device="cuda" if torch.cuda.is_available() else "cpu")
    if runtime.gpu_fraction != 1 and runtime.device == "cpu":
        raise UserError(f"--gpus-per-trial {runtime.gpu_fraction:g} needs a GPU; there is none here. Leave it out.")
    source = data.locate(runtime.data_path)
    decoded = trials.shared(source, [trial.config for trial in todo])
    for trial in todo:
        fingerprint = trial.fingerprint

        def on_epoch(line: dict[str, Any], fingerprint: str = fingerprint) -> None:
            progress.epoch(fingerprint, line)
            rebuild(False)

        progress.start(fingerprint)
        try:
            result, curve = trials.run(
                trial.config,
                runtime,
                pictures=decoded[trial.config.train_images] or source,
                place=store.checkpoint(fingerprint),
                on_epoch=on_epoch,
            )
            store.write(result, curve, keep_checkpoint=runtime.keep_checkpoint)
        except Exception as error:
            traceback.print_exc()
            result = unfinished(trial.config, FAILED, trials.failure(error, runtime.workers, runtime.gpu_fraction))
            store.write_failure(result)
        progress.finish(fingerprint, result)
        rebuild(True)
    return []
