"""Autocast and loss scaling: as near to the exact results as the plain net is."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

import streamplan
from tests.gpu.common import DEVICE
from tests.nets.randomize import randomize_
from tests.nets.unet import unet_bilinear

pytestmark = pytest.mark.gpu
SIZE = (1, 3, 160, 128)
DTYPES = [torch.bfloat16, torch.float16]


def net() -> nn.Module:
    return randomize_(unet_bilinear(width=4, depth=2).eval(), seed=1).to(DEVICE)


def image() -> Tensor:
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(3)).to(DEVICE)


def gradients(call: nn.Module, model: nn.Module, x: Tensor, dtype: torch.dtype | None) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    with torch.autocast("cuda", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        loss = call(x).float().square().mean()
    loss.backward()
    return {name: p.grad.double() for name, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(("halo", "carries"), [("reuse", "device"), ("reuse", "host"), ("recompute", "device")])
@pytest.mark.parametrize("keep_tiles", [0, 3])
@pytest.mark.parametrize("dtype", DTYPES)
def test_autocast(dtype: torch.dtype, keep_tiles: int, carries: str, halo: str) -> None:
    model = net()
    exact_model = copy.deepcopy(model).double()
    streamed = streamplan.compile(model, SIZE, 88, halo=halo, carries=carries, keep_tiles=keep_tiles)  # type: ignore[arg-type]
    assert streamed.plan.num_tiles > 3
    exact = gradients(exact_model, exact_model, image().double(), None)
    plain = gradients(model, model, image(), dtype)
    ours = gradients(streamed, model, image(), dtype)
    assert ours.keys() == plain.keys() == exact.keys()
    eps = torch.finfo(dtype).eps
    for name, expected in exact.items():
        scale = float(expected.norm())
        allowed = 2 * float((plain[name] - expected).norm()) + eps * scale
        assert float((ours[name] - expected).norm()) <= allowed, (name, scale)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_output_has_the_dtype_of_the_plain_net(dtype: torch.dtype) -> None:
    model = net()
    streamed = streamplan.compile(model, SIZE, 88)
    with torch.autocast("cuda", dtype=dtype), torch.no_grad():
        assert streamed(image()).dtype == model(image()).dtype == dtype


@pytest.mark.parametrize(("scale", "is_skipped"), [(2.0**10, False), (2.0**120, True)])
def test_loss_scaling(scale: float, is_skipped: bool) -> None:
    """Gradients that overflow are found, and the optimiser's step is left out, as with the plain net."""
    changes = []
    for is_streamed in (False, True):
        model = net()
        before = [p.detach().clone() for p in model.parameters()]
        call = streamplan.compile(model, SIZE, 88) if is_streamed else model
        optimiser, scaler = torch.optim.SGD(model.parameters(), lr=1.0), torch.amp.GradScaler("cuda", init_scale=scale)
        with torch.autocast("cuda", dtype=torch.float16):
            loss = call(image()).float().square().mean()
        scaler.scale(loss).backward()
        scaler.step(optimiser)
        scaler.update()
        assert (scaler.get_scale() < scale) is is_skipped
        changes.append([p.detach() - old for p, old in zip(model.parameters(), before, strict=True)])
    for plain, ours in zip(*changes, strict=True):
        if is_skipped:
            assert not plain.any()
            assert not ours.any()
        else:
            assert float((ours - plain).norm()) <= 0.02 * float(plain.norm()) + 1e-7
