"""One trial: pre-train, evaluate, result. The same code in this process, in a Ray worker and in a test."""

from __future__ import annotations

import dataclasses
import datetime
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import simsiam
from ablations import provenance
from simsiam import config as configs
from simsiam import data, distributed, loader, monitor, pretrain, probe
from simsiam.checkpoint import Place
from simsiam.config import Config, Runtime
from simsiam.loader import Images, InMemory
from simsiam.protocols import PROTOCOLS, Protocol

Result = dict[str, Any]

_RAW_PIXELS = 1 << 24  # data sets of more pixels than this get no raw-pixel kNN


def run(
    config: Config, runtime: Runtime, *, place: Place, on_epoch: Callable[[pretrain.Line], None]
) -> tuple[Result, list[pretrain.Line]]:
    """Train and evaluate one Config -> its result and its curve, one line an epoch. Every worker calls it.

    A checkpoint in `place` is gone on from. Raises simsiam.data.DataError for data that cannot be read.
    """
    started = _now()
    source = data.locate(None if runtime.data_path is None else Path(runtime.data_path))
    train, test = loader.load(source, config, runtime)
    model, progress = pretrain.pretrain(config, runtime, train, test, place=place, on_epoch=on_epoch)
    begun, last = time.monotonic(), progress.curve[-1]
    outcome = monitor.outcome(last["loss"], last["z_std"], last["effective_rank"])
    protocol = PROTOCOLS[config.protocol]
    result = {
        **dataclasses.asdict(config),
        "fingerprint": configs.fingerprint(config),
        "outcome": outcome,
        **{name: last[name] for name in ("loss", "z_std", "effective_rank", "knn_top1")},
        "loss_roughness": monitor.roughness([line["loss"] for line in progress.curve]),
        "linear_top1": None,
        "knn_top1_init": progress.knn_top1_init,
        "knn_top1_pixels": _raw_pixel_knn(train, test, protocol),
        "test_images": len(test),
        "knn_k": protocol.knn_k,
        "knn_temperature": protocol.knn_temperature,
        "probe": protocol.probe,
    }
    if outcome != monitor.DIVERGED:
        result["linear_top1"] = probe.linear_top1(model, train, test, protocol, seed=config.seed)
    speed = [line["images_per_second"] for line in progress.curve]
    result |= {
        "wall_seconds": progress.seconds + time.monotonic() - begun,
        "images_per_second": sorted(speed)[len(speed) // 2],
        "started": started,
        "ended": _now(),
        **_machine(runtime),
    }
    return result, progress.curve


def _raw_pixel_knn(train: Images, test: Images, protocol: Protocol) -> float | None:
    """What kNN on the pixels themselves reaches, where that is cheap to know."""
    if not isinstance(train, InMemory) or not isinstance(test, InMemory) or train.pixels.numel() > _RAW_PIXELS:
        return None
    if train.pixels.shape[1:] != test.pixels.shape[1:]:
        return None
    bank, labels = monitor.labelled(train.pixels.flatten(1).float(), train)
    query = test.pixels.flatten(1).float()
    return monitor.knn_top1(bank, labels, query, test.labels, k=protocol.knn_k, temperature=protocol.knn_temperature)


def _machine(runtime: Runtime) -> Result:
    cuda = runtime.device.startswith("cuda")
    return {
        "version": simsiam.__version__,
        "sources": provenance.sources(),
        "torch": torch.__version__,
        "ray": provenance.version("ray"),
        "cuda": torch.version.cuda if cuda else None,
        "device": torch.cuda.get_device_name() if cuda else provenance.processor(),
        "workers": distributed.world_size(),
        "threads": torch.get_num_threads(),
    }


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)
