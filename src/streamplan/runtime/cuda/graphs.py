"""CUDA graphs of tiles: a GPU does again what it was asked to do once, without being asked for each operation.

Small tiles keep a GPU waiting for the host. Tiles of a kind do the same to other numbers, so the second tile of a kind
is recorded, and from then on its numbers are put where the recording finds them [1], the recording is played [2], and
what it left is copied away before the next tile of the kind comes [3]:

    region, received, seeds ──[1]──> fixed memory ──[2]──> fixed memory ──[3]──> blocks, handed on, gradients

There is one recording per kind for the forward pass and one for recomputation and backward pass together; all use one
pool of memory for what is in between, since no two are played at once. Gradients of small tensors add up in fixed
memory. The first tile of each kind runs as usual, so that everything the operations prepare once is there.
"""

from __future__ import annotations

import warnings
from collections import OrderedDict
from collections.abc import Callable, Collection, Hashable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from streamplan.runtime.cuda.recorders import CudaRecorder, Recorder, Slots, Turns, settings_of
from streamplan.runtime.joining import Copy
from streamplan.runtime.progress import Progress
from streamplan.runtime.runners import Arrived, TileRunner
from streamplan.runtime.running import Index, Received, TileRun, run_tile
from streamplan.runtime.seeds import Seeds
from streamplan.runtime.segment import Segment
from streamplan.runtime.tile import Tile
from streamplan.runtime.weights import TileWeights

_MAX_RECORDINGS = 64
"""Kinds of tiles beyond these run as usual: they would hardly come again."""
_MAX_SETTINGS = 2
"""Settings of autocast, gradients and cuDNN that recordings are kept for."""
_POSITIONAL = ("t.gather(", "t.lerp(", "t.dropout(")
"""Helpers that depend on where a tile is."""


@dataclass(frozen=True)
class Recording:
    """Something that can be done again."""

    inputs: tuple[Tensor, ...]
    """Where it finds its numbers."""
    outputs: Slots
    """Where it leaves them."""
    remark: Any
    """What was said about the outputs."""
    play: Callable[[], None]


class TileGraphs:
    """The recordings of a segment under one set of settings, and their fixed memory.

    Args:
        recorder: Records.
        weights: Small tensors as they will be.
    """

    def __init__(self, recorder: Recorder, weights: TileWeights) -> None:
        self._recorder = recorder
        with torch.inference_mode(False):  # later calls may be in that mode or not
            self.weights = {name: torch.empty_like(x) for name, x in weights.tensors.items()}
            self.sums = {
                name: torch.zeros_like(x, dtype=weights.dtypes[name])
                for name, x in weights.tensors.items()
                if x.requires_grad
            }
        self._recordings: dict[Hashable, Recording | None] = {}
        self._is_broken = False

    def load(self, weights: TileWeights) -> None:
        """Put small tensors where recordings find them, and zeros where gradients add up."""
        _copy_all(list(self.weights.values()), list(weights.tensors.values()))
        if self.sums:
            torch._foreach_zero_(list(self.sums.values()))

    def play(
        self, key: Hashable, inputs: Sequence[Tensor], work: Callable[[tuple[Tensor, ...]], tuple[Slots, Any]]
    ) -> tuple[Slots, Any] | None:
        """What `work` computes from the inputs, in memory that the next call with the same key writes over.

        Returns:
            None where it is to be computed as usual.
        """
        if self._is_broken:
            return None
        if key not in self._recordings:
            if len(self._recordings) < _MAX_RECORDINGS:
                self._recordings[key] = None  # seen once
            return None
        recording = self._recordings[key]
        if recording is None:
            with torch.inference_mode(False):
                fixed = tuple(x.detach().clone() for x in inputs)
            try:
                outputs, remark, play, is_done = self._recorder.record(partial(work, fixed))
            except RuntimeError as error:
                if isinstance(error, torch.OutOfMemoryError):
                    raise
                warnings.warn(f"tiles cannot be recorded and run as usual: {error}", stacklevel=2)
                self._is_broken = True
                return None
            recording = self._recordings[key] = Recording(fixed, outputs, remark, play)
            if is_done:
                return outputs, remark
        else:
            _copy_all(recording.inputs, inputs)
        recording.play()
        return recording.outputs, recording.remark

    def leaves(self, touched: set[str]) -> dict[str, Tensor]:
        """Small tensors as new leaves, whose gradients are added to the sums; `touched` collects which."""
        leaves = {name: x.detach() for name, x in self.weights.items()}
        for name, total in self.sums.items():
            hook = partial(_add, total, touched, name)
            leaves[name].requires_grad_().register_post_accumulate_grad_hook(hook)  # type: ignore[no-untyped-call]
        return leaves


def _add(total: Tensor, touched: set[str], name: str, leaf: Tensor) -> None:
    assert leaf.grad is not None
    total.add_(leaf.grad)
    touched.add(name)
    leaf.grad = None


class GraphRunner(TileRunner):
    """Runs tiles by their recordings, where there are some.

    Args:
        segment: The segment.
        weights: Its small tensors.
        graphs: The recordings.
    """

    def __init__(self, segment: Segment, weights: TileWeights, graphs: TileGraphs) -> None:
        super().__init__(segment, weights)
        self._graphs = graphs
        self._touched: set[str] = set()
        graphs.load(weights)

    def compute(
        self, index: Index, read: Sequence[Tensor], received: Received, wanted: Collection[str] | None, copy: Copy
    ) -> TileRun:
        """Compute a tile; with autograd as usual."""
        keys, num_read = tuple(received), len(read)

        def work(inputs: tuple[Tensor, ...]) -> tuple[Slots, Any]:
            carried = dict(zip(keys, inputs[num_read:], strict=True))
            run = run_tile(self.segment, index, inputs[:num_read], self._graphs.weights, carried)
            return (*run.blocks, *run.tile.handed.values()), tuple(run.tile.handed)

        key = ("forward", self.segment.kind(index), keys)
        found = None if wanted is not None else self._graphs.play(key, [*read, *received.values()], work)
        if found is None:
            return super().compute(index, read, received, wanted, copy)
        outputs, names = found
        count = len(self.segment.outputs)
        tile = Tile(self.segment, index, received)
        for name, x in zip(names, outputs[count:], strict=True):
            assert x is not None
            tile.handed[name] = copy(x, self.segment.memory_format(x.dim()))
        return TileRun(index, tile, received, list(read), _cloned_all(outputs[:count]))

    def differentiate(
        self, read: Sequence[Tensor], received: Received, wanted: Collection[str], seeds: Seeds, progress: Progress
    ) -> Arrived:
        """Compute a tile again and run its backward pass."""
        keys, blocks, handed = tuple(received), tuple(seeds.blocks), tuple(seeds.handed)
        num_read, num_received = len(read), len(received)

        def work(inputs: tuple[Tensor, ...]) -> tuple[Slots, Any]:
            regions, rest = inputs[:num_read], inputs[num_read:]
            carried = dict(zip(keys, rest[:num_received], strict=True))
            seeded = iter(rest[num_received:])
            own = Seeds(seeds.index, {name: next(seeded) for name in blocks}, {key: next(seeded) for key in handed})
            touched: set[str] = set()
            leaves = self._graphs.leaves(touched)
            run = run_tile(self.segment, seeds.index, regions, leaves, carried, wanted)
            own.backward(self.segment, run, leaves)
            return (*(x.grad for x in run.regions), *(x.grad for x in run.received.values())), touched

        progress.enter("recomputation", seeds.index)
        key = ("backward", self.segment.kind(seeds.index), keys, blocks, handed)
        inputs = [*read, *received.values(), *seeds.blocks.values(), *seeds.handed.values()]
        found = self._graphs.play(key, inputs, work)
        if found is None:
            return super().differentiate(read, received, wanted, seeds, progress)
        outputs, touched = found
        self._touched |= touched
        copies = _cloned_all(outputs)
        arrived = {key: x for key, x in zip(keys, copies[num_read:], strict=True) if x is not None}
        return Arrived(copies[:num_read], arrived)

    def finish(self) -> None:
        """A backward pass is over: what arrived in fixed memory is added to what arrived as usual."""
        for name in self._touched:
            self.weights.add(name, self._graphs.sums[name])


class GraphCache:
    """Recordings of a segment, under the settings that were used last.

    Args:
        segment: The segment.
        source: Its program.
        recorder: Makes a recorder for a device; None takes CUDA's, and no recordings elsewhere.
    """

    def __init__(
        self, segment: Segment, source: str, recorder: Callable[[torch.device], Recorder] | None = None
    ) -> None:
        self._segment = segment
        self._recorder = recorder
        self._is_possible = not any(helper in source for helper in _POSITIONAL)
        self._known: OrderedDict[Hashable, TileGraphs] = OrderedDict()
        self._lock, self._turns = Lock(), Turns()

    @contextmanager
    def runner(
        self, weights: TileWeights, wanted: Collection[str] | None, device: torch.device
    ) -> Iterator[TileRunner]:
        """What runs the tiles of a pass inside the `with` block: one pass at a time can use the recordings."""
        usual = TileRunner(self._segment, weights)
        is_possible = self._is_possible and (self._recorder is not None or device.type == "cuda")
        if not is_possible or not self._lock.acquire(blocking=False):
            yield usual
            return
        try:
            with self._turns.turn(device):
                yield GraphRunner(self._segment, weights, self._graphs(weights, wanted or (), device))
        finally:
            self._lock.release()

    def _graphs(self, weights: TileWeights, wanted: Collection[str], device: torch.device) -> TileGraphs:
        smalls = tuple((name, x.shape, x.dtype, x.requires_grad) for name, x in weights.tensors.items())
        key = (device, *settings_of(device), frozenset(wanted), smalls)
        graphs = self._known.pop(key, None)
        if graphs is None:
            recorder = CudaRecorder(device) if self._recorder is None else self._recorder(device)
            graphs = TileGraphs(recorder, weights)
        self._known[key] = graphs
        while len(self._known) > _MAX_SETTINGS:
            self._known.popitem(last=False)
        return graphs


def _copy_all(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copy tensors, as many at once as the device can."""
    groups: dict[torch.dtype, tuple[list[Tensor], list[Tensor]]] = {}
    for target, x in zip(targets, sources, strict=True):
        source = x.detach()
        if target.stride() == source.stride():
            group = groups.setdefault(target.dtype, ([], []))
            group[0].append(target)
            group[1].append(source)
        else:
            target.copy_(source)
    for some_targets, some_sources in groups.values():
        torch._foreach_copy_(some_targets, some_sources)


def _cloned_all(tensors: Slots) -> list[Tensor | None]:
    """Copies in memory of their own."""
    copies = [None if x is None else torch.empty_like(x) for x in tensors]
    _copy_all([x for x in copies if x is not None], [x for x in tensors if x is not None])
    return copies
