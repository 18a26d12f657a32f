"""Numbers of a running trial among Ray's own metrics, which Prometheus collects and Grafana draws.

cluster/grafana.json draws them; cluster/README.md says how to load it.
"""

from __future__ import annotations

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


class Gauges:
    """The gauges simsiam_loss, simsiam_z_std, ... of one trial, told by its first worker.

    Args:
        name: the trial's, as a table shows it.
        fingerprint: the trial's.
    """

    def __init__(self, name: str, fingerprint: str) -> None:
        self._tags = {"trial": name, "fingerprint": fingerprint}
        said = {**_SHOWN, _MEMORY: "of the first worker's GPU, by torch, at most so far"}
        self._gauges = {each: Gauge(f"simsiam_{each}", description, _TAGS) for each, description in said.items()}

    def show(self, line: Mapping[str, Any], device: torch.device) -> None:
        """The line of an epoch; what was not evaluated stays as it is."""
        numbers = {name: line.get(name) for name in _SHOWN}
        if device.type == "cuda":
            numbers[_MEMORY] = torch.cuda.max_memory_allocated(device)
        for name, number in numbers.items():
            self._gauges[name].set(number, self._tags)
