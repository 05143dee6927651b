"""`streamplan.input_gradient` against plain autograd on whole tensors, in float64."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from torch import Tensor, nn

import streamplan
from streamplan import Source
from streamplan.errors import SourceError
from tests.module.small_nets import Classifier, Heads, WithImageInHead
from tests.nets.randomize import randomize_
from tests.nets.unet import unet_bilinear

EXTENTS = (72, 60)
SIZE = (2, 3, *EXTENTS)


class OnBytes(nn.Module):
    """Takes bytes, or the same numbers as floating-point numbers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x.double() / 255 - 0.5)


def classifier() -> nn.Module:
    return randomize_(Classifier().double().eval(), seed=1)


def segmenter() -> nn.Module:
    return randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)


def image(batch: int = SIZE[0]) -> Tensor:
    return torch.rand((batch, *SIZE[1:]), generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def image_bytes() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, (*EXTENTS, 3), dtype=np.uint8)


def in_net_order(array: Any) -> Tensor:
    whole = array if isinstance(array, Tensor) else torch.from_numpy(np.array(array))
    return whole.permute(2, 0, 1)[None]


def plain_gradient(model: nn.Module, x: Tensor, target: Callable[[Any], Tensor]) -> Tensor:
    """By torch alone, on a copy of the model."""
    leaf = x.detach().clone().requires_grad_()
    target(copy.deepcopy(model)(leaf)).backward()
    assert leaf.grad is not None
    assert leaf.grad.abs().max() > 0
    return leaf.grad


def assert_near(found: Any, expected: Tensor) -> None:
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    assert float((found - expected).abs().max() / expected.abs().max()) < 1e-10


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("target", [3, (3, 1), torch.tensor([0, 4]), np.array([2, 2])], ids=str)
def test_a_class_of_each_image(halo: str, target: Any) -> None:
    model, x = classifier(), image()
    streamed = streamplan.compile(model, SIZE, 31, halo=halo)  # type: ignore[arg-type]
    found = streamplan.input_gradient(streamed, x, target)
    classes = [int(index) for index in ([target, target] if isinstance(target, int) else target)]
    assert_near(found, plain_gradient(model, x, lambda y: y[0, classes[0]] + y[1, classes[1]]))


@pytest.mark.parametrize("keep_tiles", [0, 2])
def test_a_function_of_a_map(keep_tiles: int) -> None:
    model, x = segmenter(), image()
    streamed = streamplan.compile(model, SIZE, 50, keep_tiles=keep_tiles)

    def target(scores: Tensor) -> Tensor:
        return scores[:, 1, 20:40, 10:50].square().mean()

    assert_near(streamplan.input_gradient(streamed, x, target), plain_gradient(model, x, target))


def test_whatever_the_model_returns() -> None:
    model, x = randomize_(Heads().double().eval(), seed=1), image()
    streamed = streamplan.compile(model, SIZE, 31)

    def target(found: dict[str, Any]) -> Tensor:
        return found["logits"][:, 1].sum() + found["maps"][1].square().mean()

    assert_near(streamplan.input_gradient(streamed, x, target), plain_gradient(model, x, target))


def test_another_size_and_no_autograd_around() -> None:
    model, x = classifier(), image(1)[..., :40]
    streamed = streamplan.compile(model, SIZE, 31)
    expected = plain_gradient(model, x, lambda y: y[0, 3])
    with torch.no_grad():
        assert_near(streamplan.input_gradient(streamed, x, 3), expected)
    with torch.inference_mode():
        assert_near(streamplan.input_gradient(streamed, x, 3), expected)


def test_an_image_that_the_head_reads() -> None:
    model, x = WithImageInHead().double().eval(), image()
    streamed = streamplan.compile(model, SIZE, 31)
    assert_near(streamplan.input_gradient(streamed, x, 2), plain_gradient(model, x, lambda y: y[:, 2].sum()))
    with pytest.raises(SourceError, match="the input 'x' is read as a whole"):
        streamplan.input_gradient(streamed, Source(x.numpy(), batch=True), 2)


def test_parameters_are_left_alone() -> None:
    model, x = classifier(), image()
    model.stem.requires_grad_(False)
    flags = [p.requires_grad for p in model.parameters()]
    streamed = streamplan.compile(model, SIZE, 31)
    streamed(x).square().sum().backward()
    before = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    calls: list[str] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            parameter.register_hook(lambda gradient, name=name: calls.append(name))
    wanted: list[bool] = []
    outside = torch.ones((), dtype=torch.float64, requires_grad=True)

    def target(scores: Tensor) -> Tensor:
        wanted.extend(p.requires_grad for p in model.parameters())
        return scores[:, 0].sum() * outside

    streamplan.input_gradient(streamed, x, target)
    streamplan.input_gradient(streamed, Source(x.numpy(), batch=True), target)
    assert not any(wanted), "gradients of parameters were computed"
    assert calls == []
    assert outside.grad is None
    assert x.grad is None
    assert not x.requires_grad
    assert [p.requires_grad for p in model.parameters()] == flags
    for name, p in model.named_parameters():
        kept = before[name]
        assert (kept is None) == (p.grad is None)
        assert kept is None or torch.equal(kept, p.grad)
    with pytest.raises(ZeroDivisionError):
        streamplan.input_gradient(streamed, x, lambda y: y[:, 0].sum() / (1 // 0))
    assert [p.requires_grad for p in model.parameters()] == flags
    streamed(x).square().sum().backward()
    assert len(calls) == sum(flags)


def test_a_model_without_parameters_that_train() -> None:
    model, x = classifier().requires_grad_(False), image()
    streamed = streamplan.compile(model, SIZE, 31)
    assert_near(streamplan.input_gradient(streamed, x, 2), plain_gradient(model, x, lambda y: y[:, 2].sum()))
    assert not any(p.requires_grad for p in model.parameters())


def test_the_mode_is_left_as_it_is() -> None:
    """In training mode masks are drawn, the same in both passes, and the head's BatchNorm learns from the image."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Dropout2d(0.5), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(*model, nn.BatchNorm1d(4), nn.Linear(4, 2)).double().train()
    x = image()
    streamed = streamplan.compile(model, SIZE, 31)
    found = streamplan.input_gradient(streamed, x, (1, 0))
    assert all(module.training for module in (streamed, *model.modules()))
    assert int(model[5].num_batches_tracked) == 1
    plain = streamplan.testing.reference(streamed)
    leaf = x.clone().requires_grad_()
    scores = plain(leaf)
    (expected,) = torch.autograd.grad(scores[0, 1] + scores[1, 0], leaf)
    assert_near(found, expected)
    streamed.eval()
    streamplan.input_gradient(streamed, x, 0)
    assert not any(module.training for module in (streamed, *model.modules()))


@pytest.mark.parametrize("kind", ["memmap", "zarr", "tensor", "channels first"])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_an_image_of_bytes_into_an_array(kind: str, halo: str, tmp_path: Path) -> None:
    model, array = OnBytes(segmenter()), image_bytes()
    streamed = streamplan.compile(model, (1, 3, *EXTENTS), 56, dtype=torch.uint8, halo=halo)  # type: ignore[arg-type]
    source = Source(array, "HWC")
    out: Any = {
        "memmap": lambda: np.memmap(tmp_path / "gradient", np.float64, "w+", shape=array.shape),
        "zarr": lambda: zarr.create_array(tmp_path / "z", shape=array.shape, chunks=(32, 32, 3), dtype="float64"),
        "tensor": lambda: torch.empty(array.shape, dtype=torch.float64),
        "channels first": lambda: np.empty((3, *EXTENTS)),
    }[kind]()
    out[:] = 7.0  # is replaced, not added to
    given = Source(out) if kind == "channels first" else out

    def target(scores: Tensor) -> Tensor:
        return scores[:, 1].square().sum()

    expected = plain_gradient(model, in_net_order(array).double(), target)
    assert streamplan.input_gradient(streamed, source, target, out=given) is given
    assert_near(torch.from_numpy(out)[None] if kind == "channels first" else in_net_order(out[:]), expected)
    assert_near(streamplan.input_gradient(streamed, source, target), expected)
    assert_near(streamplan.input_gradient(streamed, in_net_order(array), target), expected)
    with streamed.disabled():
        assert_near(streamplan.input_gradient(streamed, source, target), expected)


def test_a_tensor_into_an_array() -> None:
    model, x = classifier(), image(1)
    streamed = streamplan.compile(model, (1, *SIZE[1:]), 31)
    expected = plain_gradient(model, x, lambda y: y[0, 1])
    for out in (np.empty(SIZE[1:]), np.empty((1, *SIZE[1:]))):
        assert streamplan.input_gradient(streamed, x, 1, out=out) is out
        assert_near(torch.from_numpy(out).reshape(x.shape), expected)


def test_an_array_of_its_own_is_left_alone() -> None:
    model, array = segmenter(), image_bytes() / 255
    own = np.zeros_like(array)
    streamed = streamplan.compile(model, (1, 3, *EXTENTS), 56)
    found = streamplan.input_gradient(streamed, Source(array, "HWC", gradient=own), lambda y: y.square().sum())
    assert_near(found, plain_gradient(model, in_net_order(array), lambda y: y.square().sum()))
    assert not own.any()


def test_arrays_that_cannot_be_written(tmp_path: Path) -> None:
    np.zeros((*EXTENTS, 3)).tofile(tmp_path / "gradient")
    streamed = streamplan.compile(segmenter(), (1, 3, *EXTENTS), 56)
    source = Source(image_bytes() / 255, "HWC")
    for out in (
        np.memmap(tmp_path / "gradient", np.float64, "r", shape=(*EXTENTS, 3)),
        np.broadcast_to(0.0, (*EXTENTS, 3)),
    ):
        with pytest.raises(SourceError, match="out cannot be written"):
            streamplan.input_gradient(streamed, source, lambda y: y.sum(), out=out)
