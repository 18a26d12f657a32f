"""Numbers of a running trial among Ray's own metrics, which Prometheus collects and Grafana draws.

cluster/grafana.json draws them; cluster/README.md says how to load it.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import torch
from ray.util.metrics import Gauge

_SHOWN = {
    "loss": "mean of the epoch",
    "z_std": "std of z/||z|| times sqrt(d), test set",
    "knn_top1": "per cent of the test set",
    "images_per_second": "source images of all workers, evaluation excluded",
}
_MEMORY = "gpu_memory_bytes"
_TAGS = ("trial", "fingerprint")
_SECONDS = 5.0  # Ray forgets within some 20 s what nobody has said again


class Gauges:
    """The gauges simsiam_loss, simsiam_z_std, ... of one trial, told by its first worker: each of the last epoch that
    measured it, until the trial ends.

    Args:
        name: the trial's, as a table shows it.
        fingerprint: the trial's.
        device: that the first worker trains on.
    """

    def __init__(self, name: str, fingerprint: str, device: torch.device) -> None:
        self._tags, self._device = {"trial": name, "fingerprint": fingerprint}, device
        said = {**_SHOWN, _MEMORY: "held by torch on the first worker's GPU, at most so far"}
        self._gauges = {each: Gauge(f"simsiam_{each}", description, _TAGS) for each, description in said.items()}
        self._numbers: dict[str, float] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._repeat, daemon=True)

    def __enter__(self) -> Gauges:
        if self._device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self._device)  # another trial may have trained in this process
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()

    def show(self, line: Mapping[str, Any]) -> None:
        """The line of an epoch; what was not evaluated stays as it is."""
        numbers = {name: line[name] for name in _SHOWN if line.get(name) is not None}
        if self._device.type == "cuda":
            numbers[_MEMORY] = torch.cuda.max_memory_reserved(self._device)  # what its share of the GPU limits
        self._numbers = {**self._numbers, **numbers}
        self._set()

    def _set(self) -> None:
        for name, number in self._numbers.items():
            self._gauges[name].set(number, self._tags)

    def _repeat(self) -> None:
        while not self._over.wait(_SECONDS):
            self._set()
