"""What records work on a device, so that it can be played again: CUDA graphs; and what recordings depend on."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any, Protocol

import torch
from torch import Tensor

Slots = tuple[Tensor | None, ...]
Work = Callable[[], tuple[Slots, Any]]
"""Computes something; returns tensors, and what else there is to say about them."""


class Recorder(Protocol):
    """A device that can record."""

    def record(self, work: Work) -> tuple[Slots, Any, Callable[[], None], bool]:
        """What `work` returns, how to do it again, and whether it was done already."""


class CudaRecorder:
    """CUDA graphs with one stream and one pool of memory.

    Args:
        device: The GPU.
    """

    def __init__(self, device: torch.device) -> None:
        index: int | None = device.index
        self._device = device
        self._stream = _recording_stream(torch.cuda.current_device() if index is None else index)
        self._pool = torch.cuda.graph_pool_handle()
        with torch.inference_mode(False):
            self._mark = torch.zeros(1, device=device)

    def record(self, work: Work) -> tuple[Slots, Any, Callable[[], None], bool]:
        """Record; nothing is computed yet."""
        graph = torch.cuda.CUDAGraph()
        # Threads that read the image go on meanwhile, on streams of their own. A recording that fails would leave its
        # stream the current one, if it were not in a block of that.
        with (
            torch.cuda.stream(torch.cuda.current_stream(self._device)),
            torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"),
        ):
            self._mark.zero_()  # some of the first tiles compute nothing, and torch warns of an empty recording
            outputs, remark = work()
        return outputs, remark, graph.replay, False


@cache
def _recording_stream(index: int) -> torch.cuda.Stream:
    """The one stream of a GPU for recordings; libraries keep work space for each."""
    return torch.cuda.Stream(index)  # type: ignore[no-untyped-call]


class Turns:
    """Passes that use the same memory of a device: the work of one begins when that of the one before it has ended.

    The host is done with a pass long before the device is, and the next one may be on another stream.
    """

    def __init__(self) -> None:
        self._done: torch.cuda.Event | None = None

    @contextmanager
    def turn(self, device: torch.device) -> Iterator[None]:
        """A pass, on the current stream."""
        if device.type != "cuda":
            yield
            return
        if self._done is not None:
            torch.cuda.current_stream(device).wait_event(self._done)
        try:
            yield
        finally:
            self._done = torch.cuda.current_stream(device).record_event()


def settings_of(device: torch.device) -> tuple[Any, ...]:
    """What decides which kernels are used."""
    backends = torch.backends
    cudnn = backends.cudnn
    return (
        torch.is_autocast_enabled(device.type),
        torch.get_autocast_dtype(device.type),
        *(cudnn.enabled, cudnn.benchmark, cudnn.deterministic),
        # These tell of settings made by `allow_tf32` too; that one cannot be read if they disagree.
        *(x.fp32_precision for x in (backends, backends.cuda.matmul, cudnn, cudnn.conv, cudnn.rnn)),  # type: ignore[attr-defined]
    )
