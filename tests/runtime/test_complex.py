"""Complex numbers: in images, in weights, at the cut, and in between."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import streamplan
from streamplan import Source, errors
from streamplan.features.verify import _tensor_error
from tests.module.compare import assert_same_step

SIZE = (1, 3, 24, 20)
Z = torch.complex128


class Net(nn.Module):
    """A complex and a real convolution, and a head."""

    def __init__(self, function: Callable[[Net, Tensor], Any]) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.function = function
        self.a = nn.Conv2d(3, 4, 3, padding=1, dtype=Z)
        self.b = nn.Conv2d(4, 3, 3, padding=1, stride=2, dtype=Z)
        self.real = nn.Conv2d(3, 4, 3, padding=1, dtype=torch.float64)
        self.head = nn.Linear(4, 2, dtype=torch.float64)

    def forward(self, x: Tensor) -> Any:
        return self.function(self, x)


def image(dtype: torch.dtype = Z) -> Tensor:
    return torch.randn(SIZE, dtype=dtype, generator=torch.Generator().manual_seed(1))


FUNCTIONS: dict[str, tuple[Callable[[Net, Tensor], Any], torch.dtype]] = {
    "abs in the head": (lambda n, x: n.head(n.a(x).mean((2, 3)).abs()), Z),
    "abs": (lambda n, x: n.head(n.a(x).abs().mean((2, 3))), Z),
    "two layers": (lambda n, x: n.b(n.a(x)).abs().square().mean((2, 3)), Z),
    "parts": (lambda n, x: n.a(x).real.tanh() * n.a(x).imag, Z),
    "functions of parts": (lambda n, x: torch.real(n.a(x)) + torch.imag(n.a(x)).relu(), Z),
    "conj": (lambda n, x: n.b(n.a(x).conj() * n.a(x)), Z),
    "conj at the cut": (lambda n, x: n.b(n.a(x)).conj(), Z),
    "imaginary part of a conj": (lambda n, x: n.a(x).conj().imag, Z),
    "conj_physical": (lambda n, x: n.a(x).conj_physical(), Z),
    "angle": (lambda n, x: n.a(x).angle(), Z),
    "tanh": (lambda n, x: n.b(n.a(x).tanh()), Z),
    "made of parts": (lambda n, x: n.b(torch.complex(n.real(x), n.real(x).relu())).abs(), torch.float64),
    "made in polar form": (lambda n, x: torch.polar(n.real(x).abs(), n.real(x)), torch.float64),
    "from real to complex": (lambda n, x: n.a(x.to(Z)), torch.float64),
    "times a complex number": (lambda n, x: n.b(n.real(x) * 1j), torch.float64),
    "real and complex": (lambda n, x: n.a(x) * n.real(x.real), Z),
    "seen as real": (lambda n, x: torch.view_as_real(n.a(x)).square().sum(-1), Z),
    "seen as complex": (lambda n, x: torch.view_as_complex(torch.stack([n.real(x), n.real(x) * 2], -1)), torch.float64),
    "fft in the head": (lambda n, x: torch.fft.fft2(n.a(x)).abs(), Z),
    "complex and real cut": (lambda n, x: (n.a(x), n.a(x).abs(), n.b(n.a(x)).mean()), Z),
    "padding": (lambda n, x: n.a(F.pad(x, (1, 2, 3, 4))), Z),
    "pooling by convolution": (lambda n, x: F.conv2d(n.a(x), torch.full((4, 1, 3, 3), 1j, dtype=Z), groups=4), Z),
    "transposed": (lambda n, x: F.conv_transpose2d(x, n.a.weight.transpose(0, 1), stride=2), Z),
    "concatenated": (lambda n, x: torch.cat([n.a(x), x], 1), Z),
    "mean of channels": (lambda n, x: n.a(x).mean(1, keepdim=True), Z),
}


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_a_training_step_is_that_of_the_plain_net(name: str, halo: str) -> None:
    function, dtype = FUNCTIONS[name]
    plain, x = Net(function), image(dtype).requires_grad_()
    streamed = streamplan.compile(copy.deepcopy(plain), example_inputs=x, tile_size=12, halo=halo)
    assert streamed.plan.num_tiles > 2
    assert_same_step(plain, streamed, x)
    assert_same_step(plain, streamed, x.detach()[:, :, :20].requires_grad_())


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
def test_verify_compares_complex_nets(halo: str) -> None:
    for precision in (torch.complex64, Z):
        plain = Net(lambda n, x: n.b(n.a(x)) * (1 + n.real(x.real).mean()))
        plain = plain._apply(lambda x, to=precision: x.to(to if x.is_complex() else to.to_real()))
        report = streamplan.verify(plain, inputs=image(precision), tile_size=12, halo=halo)
        kinds = {(item.kind, item.name) for item in report.errors}
        assert {("gradient", "a.weight"), ("gradient", "b.bias"), ("input gradient", "input 0")} <= kinds
        assert all(item.scale > 0 for item in report.errors if "head" not in item.name)
    plan = streamplan.plan(plain, example_inputs=image(), tile_size=12)
    assert streamplan.verify(plain, plan=plan).passed


def test_verify_notices_imaginary_parts() -> None:
    ones = torch.ones(3, dtype=Z)
    assert _tensor_error("output", "x", ones, ones + 0.5j, 0.0).error == 0.5
    nan = torch.tensor([complex(float("nan"), 1)])
    assert _tensor_error("output", "x", nan, torch.tensor([complex(float("nan"), 2)]), 0.0).error == 1.0


def test_a_complex_cut_has_no_gradient_if_nothing_wants_one() -> None:
    plain = Net(lambda n, x: n.head(n.a(x).mean((2, 3)).abs())).requires_grad_(False)
    plain.head.requires_grad_()
    streamed = streamplan.compile(copy.deepcopy(plain), example_inputs=image(), tile_size=12)
    x = image()
    streamed(x).sum().backward()
    plain(x).sum().backward()
    torch.testing.assert_close(streamed.get_parameter("head.weight").grad, plain.head.weight.grad)


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
@pytest.mark.parametrize("cut", ["abs", "complex"])
def test_gradients_by_complex_images_in_arrays(cut: str, halo: str) -> None:
    plain = Net(lambda n, x: n.b(n.a(x)).abs() if cut == "abs" else n.b(n.a(x)))
    x = image().requires_grad_()
    plain(x).abs().square().sum().backward()
    streamed = streamplan.compile(copy.deepcopy(plain), example_inputs=image(), tile_size=12, halo=halo)
    array, gradient = image()[0].numpy(), np.zeros(SIZE[1:], "complex128")
    streamed(Source(array, gradient=gradient)).abs().square().sum().backward()
    torch.testing.assert_close(torch.from_numpy(gradient)[None], x.grad, rtol=1e-12, atol=1e-12)
    out = np.zeros(SIZE[1:], "complex128")
    for given in (Source(array), image()):
        streamplan.input_gradient(streamed, given, lambda y: y.abs().square().sum(), out=out)
        torch.testing.assert_close(torch.from_numpy(out)[None], x.grad, rtol=1e-12, atol=1e-12)
    found = streamplan.input_gradient(streamed, image(), lambda y: y.abs().square().sum())
    torch.testing.assert_close(found, x.grad, rtol=1e-12, atol=1e-12)


def test_complex_maps_in_arrays() -> None:
    plain = Net(lambda n, x: n.a(x).tanh())
    streamed = streamplan.compile(plain, example_inputs=image(), tile_size=12)
    out = np.zeros((4, 24, 20), "complex128")
    streamed.predict(Source(image()[0].numpy()), out=out)
    torch.testing.assert_close(torch.from_numpy(out)[None], plain(image()).detach(), rtol=1e-12, atol=1e-12)
    with pytest.raises(errors.SourceError, match="imaginary parts"):
        streamed.predict(image(), out=np.zeros((4, 24, 20)))
    with pytest.raises(errors.SourceError, match="imaginary parts"):
        Source(image()[0].numpy(), gradient=np.zeros(SIZE[1:]))
    with pytest.raises(errors.SourceError, match="imaginary parts"):
        streamplan.input_gradient(streamed, image(), lambda y: y.abs().sum(), out=np.zeros(SIZE[1:]))


def test_precision_may_change_after_compile() -> None:
    plain = nn.Sequential(nn.Conv2d(3, 4, 3, dtype=torch.complex64), nn.Conv2d(4, 2, 3, dtype=torch.complex64))
    streamed = streamplan.compile(plain, SIZE, 12, dtype=torch.complex64)
    plain._apply(lambda x: x.to(Z))
    assert_same_step(plain, streamed, image())
    with pytest.raises(errors.InputMismatchError, match="float64"):
        streamed(image().real.contiguous())


def test_a_gradient_of_complex_zeros_is_skipped_alike() -> None:
    plain = Net(lambda n, x: n.b(n.a(x)))
    streamed = streamplan.compile(copy.deepcopy(plain), example_inputs=image(), tile_size=12)
    for net in (plain, streamed):
        y = net(image())
        cotangent = torch.zeros_like(y)
        cotangent[0, 0, 1, 1] = 1j
        y.backward(cotangent)
    for name, parameter in plain.named_parameters():
        found = streamed.get_parameter(name).grad
        assert (parameter.grad is None) == (found is None)
        if found is not None:
            torch.testing.assert_close(found, parameter.grad, rtol=1e-12, atol=1e-12)


def test_unit_variance_is_for_real_layers() -> None:
    plain = Net(lambda n, x: n.real(n.a(x).abs()[:, :3]))
    streamed = streamplan.compile(plain, example_inputs=image(), tile_size=12)
    before = plain.a.weight.detach().clone()
    with pytest.raises(errors.InitialisationError, match="complex"):
        streamplan.init.lsuv_(streamed, [image()])
    assert torch.equal(plain.a.weight, before)
