"""The plan on Ray: one TorchTrainer a trial, under a Tuner.

Tune is asked for little: to start each trial, a few at a time, one after another in the same processes, and in
a new one what has died. What is done stands in the store, what is half done in a checkpoint, so a run that was killed
goes on from a fresh Tuner.
"""

from __future__ import annotations

import os

ENVIRONMENT = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",  # how soon Train sees that its workers have ended
    "RAY_TRAIN_ENABLE_PRINT_PATCH": "0",
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",  # a process for each trial; notices.py asks instead
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_AIR_NEW_OUTPUT": "0",  # the new output cannot be silenced
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    "TUNE_DISABLE_SIGINT_HANDLER": "1",  # Ctrl-C is run.py's to handle
    "TUNE_GLOBAL_CHECKPOINT_S": "1e9",  # Tune's state, a folder a trial, which nothing reads back
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)

from ablations.launch.tuner import launch  # noqa: E402  (Ray reads its environment when it is imported)

__all__ = ["ENVIRONMENT", "launch"]
