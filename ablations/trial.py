"""One trial: pre-train, evaluate, result. The same code in this process, in a Ray worker and in a test."""

from __future__ import annotations

import dataclasses
import datetime
import importlib
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch

import simsiam
from ablations import provenance
from simsiam import buckets, data, distributed, encoder, gallery, loader, monitor, precision, pretrain, probe
from simsiam import config as configs
from simsiam.checkpoint import Checkpointer, Place
from simsiam.config import EAGER, Config, Runtime
from simsiam.data import Source
from simsiam.loader import Decoded, Images, InMemory
from simsiam.methods import DETECTION, METHODS
from simsiam.model import SimSiam
from simsiam.protocols import PROTOCOLS, Protocol

Result = dict[str, Any]

_OUT_OF_MEMORY = re.compile(
    r"out ?of ?memory|can'?t allocate memory|cannot allocate memory|STATUS_ALLOC_FAILED|cudaErrorMemoryAllocation",
    re.IGNORECASE,
)
_CUDA = 1 << 30  # bytes of a GPU set aside for what CUDA itself takes for a process, its context and its kernels
_RAW_PIXELS = 1 << 24  # data sets of more pixels than this get no raw-pixel kNN


def shared(source: Source, configs: Iterable[Config]) -> dict[int | None, Decoded | None]:
    """What trials of these Configs on one node can share: train_images -> their data decoded, None if too large.

    Raises DataError for what cannot be read, or has changed since it was located.
    """
    decoded = {images: loader.decode(source, images) for images in {config.train_images for config in configs}}
    data.unchanged(source)
    return decoded


def run(
    config: Config,
    runtime: Runtime,
    *,
    pictures: Decoded | Source,
    place: Place,
    on_epoch: Callable[[pretrain.Line], None],
    hurry: Callable[[], bool] = lambda: False,
    weights: bytes | None = None,
) -> tuple[Result, list[pretrain.Line]]:
    """Train and evaluate one Config -> its result and its curve, one line an epoch. Every worker calls it.

    A checkpoint in `place` is gone on from. Raises simsiam.data.DataError for data that cannot be read,
    TimeLimitError once the time is over that the runtime gives, with a checkpoint written.

    Args:
        pictures: its data, decoded or where they are.
        hurry: asked by every worker now and then: whether a checkpoint is wanted at once.
        weights: the file of the Config's encoder.
    """
    started = _now()
    _set_up(config, runtime)
    if isinstance(pictures, Source):
        data.unchanged(pictures)
    checkpointer = Checkpointer(
        config, place, seconds=runtime.checkpoint_seconds, device=runtime.device, hurry=hurry, until=runtime.until
    )
    of = _detected if config.method == DETECTION else _learned
    numbers, progress = of(
        config, runtime, pictures, checkpointer=checkpointer, on_epoch=on_epoch, weights=_weights(config, weights)
    )
    if isinstance(pictures, Source):
        data.unchanged(pictures)  # it was read while it trained
    result = {
        **dataclasses.asdict(config),
        "fingerprint": configs.fingerprint(config),
        **numbers,
        **_cost(runtime, checkpointer, progress.curve),
        "started": started,
        "ended": _now(),
        "workers_by_step": " ".join(f"{step}:{workers}" for step, workers in progress.workers),
        **_machine(config, runtime),
    }
    return result, progress.curve


def _learned(
    config: Config,
    runtime: Runtime,
    pictures: Decoded | Source,
    *,
    checkpointer: Checkpointer,
    on_epoch: Callable[[pretrain.Line], None],
    weights: encoder.Weights | None,
) -> tuple[Result, pretrain.Progress]:
    """A representation, trained and evaluated: its numbers, and how the training went."""
    train, test = loader.load(pictures, config, runtime)
    model, progress = pretrain.pretrain(
        config, runtime, train, test, checkpointer=checkpointer, on_epoch=on_epoch, weights=weights
    )
    numbers = _evaluated(config, model, progress, train, test, checkpointer)
    if runtime.pictures and numbers["outcome"] != monitor.DIVERGED:
        drawn = (progress.curve[-1][name] for name in monitor.DRAWN)
        numbers["pictures"] = gallery.rows(config, train, test, *drawn)  # the store keeps them apart
    return numbers, progress


def _detected(config: Config, runtime: Runtime, pictures: Decoded | Source, **options: Any) -> Any:
    """The same of a detector, whose code no other result reaches."""
    module, _, name = METHODS[DETECTION].code.partition(":")
    return getattr(importlib.import_module(module), name)(config, runtime, pictures, **options)


def _weights(config: Config, content: bytes | None) -> encoder.Weights | None:
    """The weights that a Config's backbone starts from. Raises EncoderError."""
    if config.encoder is None:
        return None
    if content is None:
        raise encoder.EncoderError(f"The encoder {config.encoder} is not in the results' folder encoders/.")
    return encoder.unpacked(content, config.encoder)


def _set_up(config: Config, runtime: Runtime) -> None:
    """What decides how this process computes, the same whoever started it. Raises ValueError for what it cannot."""
    precision.check(config.precision, torch.device(runtime.device))
    precision.strict()
    torch.set_num_threads(runtime.threads)
    if runtime.device.startswith("cuda"):
        torch.backends.cudnn.benchmark = True
        _keep_to_its_share(runtime.gpu_fraction)


def _keep_to_its_share(fraction: float) -> None:
    """Keep this process within its share of the GPU's memory. Raises ValueError."""
    if fraction == 1:
        return
    memory = torch.cuda.get_device_properties().total_memory  # type: ignore[no-untyped-call]
    if fraction * memory <= _CUDA:
        raise ValueError(
            f"--gpus-per-trial must leave more than the {_CUDA >> 30} GiB that CUDA takes. Got {fraction:g} of "
            f"{memory / (1 << 30):.1f} GiB instead: use more."
        )
    torch.cuda.set_per_process_memory_fraction(fraction - _CUDA / memory)


def _evaluated(
    config: Config, model: SimSiam, progress: pretrain.Progress, train: Images, test: Images, checkpointer: Checkpointer
) -> Result:
    """What a trained model came to."""
    last, protocol = progress.curve[-1], PROTOCOLS[config.protocol]
    outcome = monitor.outcome(
        last["loss"],
        last["z_std"],
        last["effective_rank"],
        highest_rank=None if config.dim is None else min(config.dim, len(test)),
        knn_top1=last["knn_top1"],
    )
    linear_top1 = None
    if outcome != monitor.DIVERGED:
        linear_top1 = probe.linear_top1(model, train, test, protocol, seed=config.seed, checkpointer=checkpointer)
    return {
        "outcome": outcome,
        **{name: last[name] for name in ("loss", *monitor.MEASURED)},
        "loss_roughness": monitor.roughness([line["loss"] for line in progress.curve]),
        "linear_top1": linear_top1,
        "knn_top1_init": progress.knn_top1_init,
        "knn_top1_pixels": _raw_pixel_knn(train, test, protocol),
        "train_pictures": len(train),
        "test_images": len(test),
        "knn_k": protocol.knn_k,
        "knn_temperature": protocol.knn_temperature,
        "probe": protocol.probe,
    }


def out_of_memory(error: BaseException) -> bool:
    """Whether an exception of torch, of Python or of Ray says that the memory did not suffice."""
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(_line(error)))


def _line(error: BaseException) -> str:
    lines = f"{type(error).__name__}: {error}".strip().splitlines()
    # What a loader process raised is told by torch as a traceback, with the exception at its end.
    return lines[-1] if " in DataLoader worker process " in lines[0] else lines[0]


def failure(error: BaseException, workers: int, gpu_fraction: float) -> str:
    """An exception in one line for a person, with what to try where the memory did not suffice."""
    text = _line(error)
    if not out_of_memory(error):
        return text
    more = f"--workers {2 * workers}" if gpu_fraction == 1 else f"--gpus-per-trial {min(1.0, 2 * gpu_fraction):g}"
    return f"Out of memory: try {more}. {text}"


def _raw_pixel_knn(train: Images, test: Images, protocol: Protocol) -> float | None:
    """What kNN on the pixels themselves reaches, where that is cheap to know."""
    if not isinstance(train, InMemory) or not isinstance(test, InMemory) or train.pixels.numel() > _RAW_PIXELS:
        return None
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        return None
    ids = torch.from_numpy(monitor.labelled(train)).to(train.labels.device)
    bank, query = (pixels.flatten(1).float() for pixels in (train.pixels[ids], test.pixels))
    k, temperature = protocol.knn_k, protocol.knn_temperature
    return monitor.knn_top1(bank, train.labels[ids], query, test.labels, k=k, temperature=temperature)


def _cost(runtime: Runtime, checkpointer: Checkpointer, curve: list[pretrain.Line]) -> Result:
    """What a trial took, on all machines that it has been on."""
    speed = [line["images_per_second"] for line in curve]
    seconds = checkpointer.seconds
    device_seconds = seconds["workers"] * (runtime.gpu_fraction if runtime.device.startswith("cuda") else 1)
    return {
        "wall_seconds": seconds["wall"],
        "device_seconds": device_seconds,
        "eval_seconds": sum(line["eval_seconds"] for line in curve),
        "images_per_second": sorted(speed)[len(speed) // 2],
        "price": None if runtime.price is None else runtime.price * device_seconds / 3600,
    }


def _machine(config: Config, runtime: Runtime) -> Result:
    provenance.check_one_place()
    cuda = runtime.device.startswith("cuda")
    return {
        "data_place": None if runtime.data_path is None else buckets.shown(runtime.data_path),
        "version": simsiam.__version__,
        "sources": provenance.sources(config.method),
        "torch": torch.__version__,
        "ray": provenance.version("ray"),
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else provenance.processor(),
        "gpu_fraction": runtime.gpu_fraction if cuda else None,
        "workers": distributed.world_size(),
        "threads": torch.get_num_threads(),
        "step": runtime.step if cuda and distributed.world_size() == 1 else EAGER,
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
