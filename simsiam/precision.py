"""How exactly a run computes: in training, in the monitor and in the probe alike.

float32 is all 24 bits. tf32 and bfloat16 are values of their own, for the network alone: crops, kNN and the loss stay
in float32 or wider.
"""

from __future__ import annotations

import contextlib
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path

import torch

WEIGHTS = {
    "float32": torch.float32,
    "tf32": torch.float32,
    "bfloat16": torch.float32,
    "float64": torch.float64,
}


@contextlib.contextmanager
def arithmetic(precision: str, device: torch.device) -> Iterator[None]:
    """Forward and backward of the network in this precision."""
    if precision == "tf32":
        _allow_tf32(True)
        try:
            yield
        finally:
            _allow_tf32(False)
    else:
        # Without the cache of cast weights, whose gradients of two views would be added up in bfloat16.
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16", cache_enabled=False):
            yield


def strict() -> None:
    """float32 with all its bits from here on, in convolutions and products alike, whatever the environment says."""
    _allow_tf32(False)


def check(precision: str, device: torch.device) -> None:
    """Raises ValueError for a precision that the device does not have, or has at a fraction of float32's speed."""
    if precision == "tf32" and (device.type != "cuda" or torch.cuda.get_device_capability(device) < (8, 0)):
        raise ValueError("precision=tf32 needs an NVIDIA GPU of 2020 or later. Got none: use --set precision=float32.")
    if precision == "bfloat16" and device.type == "cpu" and not _cpu_has_bfloat16():
        # Emulated it is some 30 times slower than float32. Nobody wants that, and nothing else would say so.
        raise ValueError(
            "precision=bfloat16 needs a GPU, or a CPU with instructions for it (avx512_bf16, amx_bf16, bf16). "
            f"Got {platform.machine()} without them: use --set precision=float32."
        )


def _allow_tf32(allowed: bool) -> None:
    """Both of torch's interfaces to one state: where they disagree, torch 2.9 and later raise; the older one warns."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.set_float32_matmul_precision("high" if allowed else "highest")
        torch.backends.cudnn.allow_tf32 = allowed
    chosen = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = chosen
    torch.backends.cudnn.conv.fp32_precision = chosen  # type: ignore[attr-defined]
    torch.backends.cudnn.rnn.fp32_precision = chosen  # type: ignore[attr-defined]


def _cpu_has_bfloat16() -> bool:
    cpuinfo = Path("/proc/cpuinfo")
    flags = set(cpuinfo.read_text().split()) if cpuinfo.exists() else set()
    return bool(flags & {"avx512_bf16", "amx_bf16", "bf16"})
