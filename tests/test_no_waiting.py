"""A training step on a GPU waits for nothing and is given nothing by the host, looked at without a GPU.

On fake tensors of device "cuda", whatever copies from the host or reads a number back is an operation that is seen, or
an error. Backward and update do not run on them: tests/test_cuda.py has those.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import rows
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from simsiam import method as methods
from simsiam import model, optim, supervised, views
from simsiam.config import Config
from simsiam.loader import InMemory
from simsiam.relatives import swav

CUDA = torch.device("cuda:0")
_WAITS = ("aten._local_scalar_dense", "aten.nonzero", "aten.masked_select", "aten._unique2", "aten.bincount")


class _Watch(TorchDispatchMode):
    """Names what copies between host and device, or waits."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = kwargs or {}
        result = function(*args, **given)
        devices = {
            each.device.type for each in torch.utils._pytree.tree_leaves((args, given)) if isinstance(each, Tensor)
        }
        devices |= {each.device.type for each in torch.utils._pytree.tree_leaves(result) if isinstance(each, Tensor)}
        if len(devices) > 1 or str(function).startswith(_WAITS):
            self.seen.append(str(function))
        return result


CONFIGS = rows.configs(rows.AUGMENTED, train_images=50_000)  # enough for every row


@pytest.fixture(autouse=True)
def constants() -> Iterator[None]:
    """Fake constants stay in here."""
    views.constant.cache_clear()
    yield
    views.constant.cache_clear()


def watched(config: Config) -> list[str]:
    """What a step's draws, crops, views, forwards, loss and learning rate copy or wait for."""
    with contextlib.ExitStack() as stack:
        # All are imported before the first is patched, or the others would take the patch for their own for ever.
        for room in (model, swav, supervised):
            stack.enter_context(mock.patch.object(room, "initialise"))
        stack.enter_context(mock.patch.object(supervised, "classes", return_value=10))
        stack.enter_context(FakeTensorMode())
        size = config.image_size
        b = config.batch_size
        for values in (views.MEAN, views.STD, (5.0, 3.0, 1.0)):
            views.constant(values, CUDA)
        with CUDA:
            method = methods.build(config, torch.zeros(5000, dtype=torch.int64))
        optimizer = optim.optimizer(method.model, config)
        optim.place_lr(optimizer, CUDA)
        pixels = torch.empty(b, 3, 8, 8, dtype=torch.uint8, device=CUDA)
        images = InMemory(pixels, torch.zeros(b, dtype=torch.int64, device=CUDA), size)
        ids = torch.zeros(b, dtype=torch.int64, device=CUDA)
        boxes = torch.zeros(config.views, b, 4, device=CUDA)
        drawn = torch.zeros(config.views, b, len(views.DRAWN), device=CUDA)
        drawn_besides = torch.zeros(b, dtype=torch.int64, device=CUDA) if method.draws else None
        with _Watch() as watch:
            crops = images.crops((ids, boxes))
            x = torch.stack([views.augment(*each, config) for each in zip(crops, drawn, strict=True)])
            optim.set_lr(optimizer, config, 0.5)
            method(x, drawn_besides).sum()
            method.update(1, 10)
    return watch.seen


@pytest.mark.parametrize("name", CONFIGS)
def test_a_step_neither_copies_from_the_host_nor_waits(name: str) -> None:
    assert watched(CONFIGS[name]) == []


def test_a_constant_made_within_the_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    def made(values: tuple[float, ...], device: torch.device) -> Tensor:
        return torch.tensor(values).to(device).view(1, 3, 1, 1)

    made.cache_clear = lambda: None  # type: ignore[attr-defined]
    config = next(iter(CONFIGS.values()))
    monkeypatch.setattr(views, "constant", made)
    assert watched(config)


def test_a_number_read_back_within_the_step_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    blurred = views.blur

    def blur(x: Tensor, sigma: Tensor) -> Tensor:
        return blurred(x, sigma[(sigma > 0).nonzero().flatten()][: len(x)])

    monkeypatch.setattr(views, "blur", blur)
    with pytest.raises(Exception, match="nonzero"):
        watched(next(iter(CONFIGS.values())))


def test_what_is_faked_stays_in_here() -> None:
    watched(next(config for config in CONFIGS.values() if config.method == "supervised"))
    assert supervised.initialise is swav.initialise is model.initialise
    assert model.initialise.__module__ == model.__name__
