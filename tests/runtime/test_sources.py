"""Streaming from and into arrays, against the plain net on whole tensors."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan import Source
from streamplan.errors import InputMismatchError, SourceError
from tests.module.small_nets import WithImageInHead
from tests.nets.randomize import randomize_
from tests.nets.unet import unet_bilinear
from tests.runtime.comparison import assert_near

EXTENTS = (96, 80)


class OnBytes(nn.Module):
    """A net that takes an image of bytes."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("mean", torch.tensor([0.4, 0.5, 0.6]).view(1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.to(self.mean.dtype) / 255 - self.mean)


def net() -> nn.Module:
    return randomize_(OnBytes(unet_bilinear(width=4, depth=2)).double().eval(), seed=1)


def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (*EXTENTS, 3), dtype=np.uint8)


def as_tensor(array: np.ndarray[Any, Any]) -> Tensor:
    return torch.from_numpy(array).permute(2, 0, 1)[None]


class Recording:
    """An array that tells which thread reads how much, and that fails when told to."""

    def __init__(self, array: np.ndarray[Any, Any], fail_at: int | None = None) -> None:
        self.shape, self.dtype, self._array, self._fail_at = array.shape, array.dtype, array, fail_at
        self.num_reads = 0
        self.largest = 0
        self.threads: set[str] = set()

    def __getitem__(self, index: Any) -> Any:
        self.num_reads += 1
        if self.num_reads == self._fail_at:
            raise OSError("the disk is gone")
        block = self._array[index]
        self.largest = max(self.largest, block.size)
        self.threads.add(threading.current_thread().name)
        return block


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("keep_tiles", [0, 1])
def test_training_step_from_an_array(halo: str, keep_tiles: int) -> None:
    model, array = net(), image()
    streamed = streamplan.compile(
        model,
        (1, 3, *EXTENTS),
        60,
        dtype=torch.uint8,
        halo=halo,
        keep_tiles=keep_tiles,  # type: ignore[arg-type]
    )
    expected = model(as_tensor(array))
    expected.square().sum().backward()
    gradients = {name: p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    recording = Recording(array)
    found = streamed(Source(recording, "HWC"))
    found.square().sum().backward()
    assert_near(found.detach(), expected.detach(), "output", 1e-12)
    for name, p in model.named_parameters():
        assert_near(p.grad, gradients[name], name, 1e-10)
    num_tiles = streamed._plan.num_tiles
    assert recording.num_reads == 2 * num_tiles - keep_tiles
    assert recording.largest < array.size
    assert all(name.startswith("streamplan-read") for name in recording.threads)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_gradient_by_the_image_into_an_array(halo: str, tmp_path: Path) -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1).requires_grad_(False)
    array = image() / 255
    gradient = np.memmap(tmp_path / "gradient", np.float64, "w+", shape=array.shape)
    x = as_tensor(array).requires_grad_()
    model(x).square().sum().backward()
    streamed = streamplan.compile(model, x.shape, 60, halo=halo)  # type: ignore[arg-type]
    streamed(Source(array, "HWC", gradient=gradient)).square().sum().backward()
    assert x.grad is not None
    assert_near(as_tensor(np.array(gradient)), x.grad, "image", 1e-10)
    gradient[:] = 0
    with streamed.disabled():
        streamed(Source(array, "HWC", gradient=gradient)).square().sum().backward()
    assert_near(as_tensor(np.array(gradient)), x.grad, "image by the plain net", 1e-10)


def test_predict_into_an_array(tmp_path: Path) -> None:
    model, array = net(), image()
    streamed = streamplan.compile(model, (1, 3, *EXTENTS), 40, dtype=torch.uint8)
    expected = model(as_tensor(array)).detach()
    found = np.memmap(tmp_path / "map", np.float64, "w+", shape=tuple(expected.shape[1:]))
    result = streamed.predict(Source(array, "HWC"), out=found)
    assert result is found
    assert_near(torch.from_numpy(np.array(found))[None], expected, "map", 1e-12)
    last = np.zeros((*EXTENTS, expected.shape[1]))
    streamed.predict(as_tensor(array), out=Source(last, "HWC"))
    assert_near(as_tensor(last), expected, "channels last", 1e-12)
    whole = streamed.predict(Source(array, "HWC"))
    assert not whole.requires_grad
    assert_near(whole, expected, "tensor", 1e-12)
    with streamed.disabled():
        last.fill(0)
        streamed.predict(Source(array, "HWC"), out=Source(last, "HWC"))
    assert_near(as_tensor(last), expected, "plain net", 1e-12)


def test_a_label_map_into_bytes() -> None:
    class Labels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = net()

        def forward(self, x: Tensor) -> Tensor:
            return self.net(x).argmax(1, keepdim=True)

    model, array = Labels(), image()
    labels = np.full((1, *EXTENTS), 255, np.uint8)
    streamplan.compile(model, (1, 3, *EXTENTS), 40, dtype=torch.uint8).predict(Source(array, "HWC"), out=labels)
    assert np.array_equal(labels, model(as_tensor(array))[0].numpy())


def test_another_size_and_a_batch() -> None:
    model = net()
    streamed = streamplan.compile(model, (1, 3, *EXTENTS), 40, dtype=torch.uint8)
    batch = np.random.default_rng(1).integers(0, 255, (2, 64, 72, 3), dtype=np.uint8)
    expected = model(torch.from_numpy(batch).permute(0, 3, 1, 2))
    example = Source(batch, "HWC", batch=True)
    assert streamplan.plan(model, None, 40, example_inputs=example).input_size == example.shape
    assert_near(streamed(Source(batch, "HWC", batch=True)).detach(), expected.detach(), "output", 1e-12)


@pytest.mark.parametrize("fail_at", [1, 3, 7])
def test_an_error_while_reading_arrives_and_leaves_nothing_behind(fail_at: int) -> None:
    model, array = net(), image()
    streamed = streamplan.compile(model, (1, 3, *EXTENTS), 40, dtype=torch.uint8)
    with pytest.raises(OSError, match="the disk is gone"):
        streamed(Source(Recording(array, fail_at), "HWC")).sum().backward()
    assert not [t for t in threading.enumerate() if t.name.startswith("streamplan-read")]
    assert_near(streamed(Source(array, "HWC")).detach(), model(as_tensor(array)).detach(), "output", 1e-12)


def test_refusals() -> None:
    streamed = streamplan.compile(net(), (1, 3, *EXTENTS), 40, dtype=torch.uint8)
    with pytest.raises(InputMismatchError, match="has 1 channels"):
        streamed(Source(image()[..., 0], "HW"))
    with pytest.raises(InputMismatchError, match="is float64"):
        streamed(Source(image() / 255, "HWC"))
    head = streamplan.compile(WithImageInHead().double().eval(), (1, 3, *EXTENTS), 40)
    with pytest.raises(SourceError, match="the input 'x' is read as a whole"):
        head(Source(image() / 255, "HWC"))
    with pytest.raises(SourceError, match="the output is not computed by tiles alone"):
        head.predict(torch.zeros(1, 3, *EXTENTS, dtype=torch.float64), out=np.zeros((1, 4)))
