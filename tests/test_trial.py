"""What a trial tells of its end where it has no numbers."""

from __future__ import annotations

import pytest
import tiny
import torch

from ablations import trial
from simsiam.config import Runtime


@pytest.mark.parametrize(
    ("error", "workers", "fraction", "expected"),
    [
        (torch.OutOfMemoryError("CUDA out of memory. Tried"), 2, 1.0, "Out of memory: try --workers 4. "),
        (torch.OutOfMemoryError("CUDA out of memory."), 1, 0.25, "Out of memory: try --gpus-per-trial 0.5. "),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), 1, 1.0, "Out of memory: try --workers 2. "),
        (MemoryError(), 1, 1.0, "Out of memory: try --workers 2. MemoryError"),
        (ValueError("a\nb"), 1, 1.0, "ValueError: a"),
    ],
)
def test_a_failure_is_one_line_with_what_to_try(error: Exception, workers: int, fraction: float, expected: str) -> None:
    text = trial.failure(error, workers, fraction)
    assert text.startswith(expected)
    assert "\n" not in text


def test_trials_of_one_data_set_share_it_once_for_each_size() -> None:
    configs = [tiny.config(), tiny.config(seed=1), tiny.config(train_images=200)]
    shared = trial.shared(Runtime(), configs)
    assert set(shared) == {300, 200}
    assert all(decoded is not None for decoded in shared.values())
