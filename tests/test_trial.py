"""What a trial tells of its end where it has no numbers."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import tiny
import torch
from torch._utils import ExceptionWrapper

from ablations import planning, trial
from simsiam import data
from simsiam.config import Runtime
from simsiam.data import DataError
from simsiam.methods import METHODS, SWITCHES


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


@pytest.mark.parametrize("method", ["simsiam", "supervised", "moco"])
def test_weights_that_are_no_numbers_are_a_divergence_and_no_failure(method: str) -> None:
    """Also where it shows after the last epoch's loss."""
    fields = {**tiny.FIELDS, "method": method, "epochs": 1, "batch_size": 144, "base_lr": 1e20, "queue": 128}
    fields = {name: value for name, value in fields.items() if name not in SWITCHES or name in METHODS[method].acting}
    of = planning.recipe("digits", data.locate(None).name, fields)
    decoded = trial.shared(data.locate(None), [of])[of.train_images]
    assert decoded is not None
    result, _ = trial.run(of, Runtime(pictures=True), pictures=decoded, place=tiny.Memory(), on_epoch=lambda line: None)
    assert (result["outcome"], result["linear_top1"]) == ("diverged", None)
    assert "pictures" not in result


def test_a_failure_in_a_loader_process_names_the_picture() -> None:
    try:
        raise DataError("Corrupt image in x.png")
    except DataError:
        told = ExceptionWrapper(where="in DataLoader worker process 0")
    with pytest.raises(DataError) as caught:
        told.reraise()
    assert trial.failure(caught.value, 1, 1.0) == "simsiam.data.pictures.DataError: Corrupt image in x.png"


def test_trials_of_one_data_set_share_it_once_for_each_size() -> None:
    configs = [tiny.config(), tiny.config(seed=1), tiny.config(train_images=200)]
    shared = trial.shared(data.locate(None), configs)
    assert set(shared) == {300, 200}
    assert all(decoded is not None for decoded in shared.values())


@pytest.mark.parametrize("threads", [1, 2])
def test_threads_are_the_runtimes_whoever_starts_the_trial(threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(3 - threads)
    config, runtime = tiny.config(epochs=1), Runtime(threads=threads)
    pictures = trial.shared(data.locate(None), [config])[config.train_images]
    assert pictures is not None
    result, _ = trial.run(config, runtime, pictures=pictures, place=tiny.Memory(), on_epoch=lambda line: None)
    torch.set_num_threads(before)
    assert result["threads"] == threads


@pytest.mark.parametrize(
    "text",
    [
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "cuDNN error: CUDNN_STATUS_ALLOC_FAILED",
        "cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`",
        "CUDA error: out of memory",
        "[Errno 12] Cannot allocate memory",
    ],
)
def test_out_of_memory_is_known_by_all_its_names(text: str) -> None:
    assert trial.out_of_memory(RuntimeError(text))
    assert not trial.out_of_memory(RuntimeError("CUDA error: an illegal memory access was encountered"))


@pytest.mark.parametrize("memory", [16 << 30, 80 << 30])
@pytest.mark.parametrize("fraction", [0.25, 0.5, 1.0])
def test_trials_side_by_side_fit_their_gpu_with_what_cuda_takes_for_each(
    fraction: float, memory: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    caps: list[float] = []
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=memory))
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", caps.append)
    trial._keep_to_its_share(fraction)
    if fraction == 1:
        assert not caps  # all of it
    else:
        trials, takes = int(1 / fraction), 700 << 20
        assert trials * (caps[0] * memory + takes) <= memory
        assert caps[0] > fraction - 0.07


def test_a_share_of_a_gpu_that_holds_nothing_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda: SimpleNamespace(total_memory=16 << 30))
    with pytest.raises(ValueError, match=r"more than the 1 GiB that CUDA takes. Got 0.05 of 16.0 GiB"):
        trial._keep_to_its_share(0.05)
