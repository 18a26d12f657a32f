"""A training step on a GPU, recorded once and replayed: one launch in place of a thousand."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_WARM_UP = 3  # steps before the recording: cuDNN chooses its kernels in them, and the optimizer makes its state


class Graphed:
    """`step`, a function of tensors of fixed shapes that gives a tensor, and changes weights in place.

    The first calls are as they are; then one is recorded, and from it on each call copies its tensors to where those of
    the recording lay and replays it. What a call gives is overwritten by the next.

    What the step reads besides its arguments must stay where it is, and nothing in it may wait for the GPU.
    """

    def __init__(self, step: Callable[..., Tensor]) -> None:
        self._step = step
        self._stream = torch.cuda.Stream()
        self._graph: torch.cuda.CUDAGraph | None = None
        self._calls = 0

    def __call__(self, *given: Tensor) -> Tensor:
        if self._calls < _WARM_UP:
            self._calls += 1
            return self._on_the_side(given)
        if self._graph is None:
            self._record(given)
        assert self._graph is not None
        torch._foreach_copy_(self._given, given)
        self._graph.replay()
        return self._gives

    def _on_the_side(self, given: tuple[Tensor, ...]) -> Tensor:
        """As it is, on the stream of the recording: autograd binds what it keeps to the stream it meets first."""
        self._stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(self._stream):
            gives = self._step(*given)
        torch.cuda.current_stream().wait_stream(self._stream)
        return gives

    def _record(self, given: tuple[Tensor, ...]) -> None:
        self._given = [each.clone() for each in given]
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=self._stream):
            self._gives = self._step(*self._given)
        self._graph = graph
