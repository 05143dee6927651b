"""Reading ahead: in order, bounded, skipping what is not asked for, through transfers that take their time."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan import Source
from streamplan.runtime import Segment
from streamplan.runtime.reading import RegionReader
from streamplan.runtime.tile import Tile

SIZE = (1, 3, 64, 16)
CPU = torch.device("cpu")


def segment_of_eight() -> Segment:
    streamed = streamplan.compile(nn.Conv2d(3, 2, 1).eval(), SIZE, (8, 16))
    segment = next(iter(streamed._executables.values())).segment
    assert segment.num_tiles == 8, segment.num_tiles
    return segment


class Slow:
    """Transfers whose tensors hold nothing until somebody has waited for them."""

    @dataclass
    class Pending:
        host: Tensor
        tensor: Tensor

        def wait(self) -> Tensor:
            time.sleep(0.002)
            return self.tensor.copy_(self.host)

    def __init__(self) -> None:
        self.num_begun = 0
        self.threads: set[str] = set()

    def begin(self, host: Tensor) -> Slow.Pending:
        self.num_begun += 1
        self.threads.add(threading.current_thread().name)
        return self.Pending(host, torch.zeros_like(host))


def array() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).normal(size=SIZE[1:]).astype(np.float32)


def test_every_tile_gets_its_region() -> None:
    segment, image, slow = segment_of_eight(), array(), Slow()
    order = list(segment.tile_indices())
    with RegionReader(segment, [Source(image)], order, CPU, slow) as reader:
        for done, index in enumerate(order):
            (region,) = reader.take(index)
            assert torch.equal(region, torch.from_numpy(image)[None][Tile(segment, index).slices("input_1")])
            assert slow.num_begun <= done + 3
    assert slow.num_begun == len(order)
    assert all(name.startswith("streamplan-read") for name in slow.threads)


def test_tiles_may_be_left_out() -> None:
    segment, image = segment_of_eight(), array()
    order = list(segment.tile_indices())[::-1]
    with RegionReader(segment, [Source(image)], order, CPU) as reader:
        for index in (order[1], order[5], order[7]):
            (region,) = reader.take(index)
            assert torch.equal(region, torch.from_numpy(image)[None][Tile(segment, index).slices("input_1")])
        with pytest.raises(KeyError):
            reader.take(order[0])


def test_threads_end_early() -> None:
    segment, slow = segment_of_eight(), Slow()
    with RegionReader(segment, [Source(array())], segment.tile_indices(), CPU, slow) as reader:
        reader.take((0, 0))
    assert slow.num_begun <= 3
    assert not [t for t in threading.enumerate() if t.name.startswith("streamplan-read")]


def test_tensors_on_the_device_are_read_in_place() -> None:
    segment, image, slow = segment_of_eight(), torch.randn(SIZE), Slow()
    with RegionReader(segment, [image], segment.tile_indices(), CPU, slow) as reader:
        (region,) = reader.take((3, 0))
    assert region.untyped_storage().data_ptr() == image.untyped_storage().data_ptr()
    assert slow.num_begun == 0
