"""The plan on Ray: one TorchTrainer a trial, under a Tuner.

Tune is asked for little: to start each trial, a few at a time, one after another in the same processes, and in
a new one what has died. What is done stands in the store, what is half done in a checkpoint, so a run that was killed
goes on from a fresh Tuner.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ablations.store import Store
    from ablations.table import Trial

HEAD = "node:__internal_head__"  # a resource that the head alone has

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
# Ray reads its environment when it is imported: nothing above imports it.
for _name, _value in ENVIRONMENT.items():
    os.environ.setdefault(_name, _value)


@contextlib.contextmanager
def ready(store: Store) -> Iterator[Callable[..., list[Trial]]]:
    """Be on Ray, and have what runs trials there: `tuner.launch`, with a folder of the results for Ray's own files.

    Raises UserError, and OSError if Ray does not start.
    """
    scratch = f".ray/{uuid.uuid4().hex}"  # Ray wants a place that all nodes see
    with contextlib.ExitStack() as stack:
        stack.callback(store.folder.remove_folder, scratch)
        from ablations.launch.connection import connected

        with ThreadPoolExecutor(1) as meanwhile:
            # torch takes about as long to import as Ray to start.
            imported = meanwhile.submit(importlib.import_module, "ablations.trial")
            stack.enter_context(connected())
            imported.result()
        from ablations.launch.tuner import launch

        yield functools.partial(launch, scratch=scratch)
