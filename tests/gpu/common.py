"""Nets, images and one training step on a GPU, compared with the plain net's on the same GPU, in float64."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear
from tests.runtime.comparison import assert_near
from tests.runtime.test_sources import OnBytes

DEVICE = torch.device("cuda", 0)
EXTENTS = (160, 128)
SIZE = (1, 3, *EXTENTS)
Results = dict[str, Tensor | None]


def unet() -> nn.Module:
    """Resizing, whose weights come from the host, and skips that wait long."""
    return randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1).to(DEVICE)


def resnet() -> nn.Module:
    """Folded BatchNorm, strides, a pool and a resident head."""
    return randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1).to(DEVICE)


def unet_on_bytes() -> nn.Module:
    return randomize_(OnBytes(unet_bilinear(width=4, depth=2)).double().eval(), seed=1).to(DEVICE)


NETS = {"unet": unet, "resnet": resnet}


def draw(seed: int = 0) -> Tensor:
    """An image in host memory."""
    return torch.rand(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def step(net: nn.Module, model: nn.Module, image: Any) -> Results:
    """The output, and the gradients by the image, if it is a tensor that needs one, and by `model`'s parameters."""
    model.zero_grad(set_to_none=True)
    out = net(image)
    weights = torch.rand(out.shape, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    (out.square() * weights.to(out)).sum().backward()
    results: Results = {"output": out.detach()}
    if isinstance(image, Tensor):
        results["gradient of the image"] = image.grad
        image.grad = None
    results |= {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    return results


def plain_step(model: nn.Module, image: Tensor) -> Results:
    """By the plain net, from a copy of the image on the GPU."""
    return step(model, model, image.detach().to(DEVICE).requires_grad_(image.requires_grad))


def assert_same(found: Results, expected: Results, context: str = "", rtol: float = 1e-10) -> None:
    """Raise unless all tensors agree, wherever they are."""
    assert list(found) == list(expected)
    for name, value in expected.items():
        actual = found[name]
        scale = 1.0 if value is None else max(1.0, float(value.abs().max()))
        pair = (None if x is None else x.cpu() / scale for x in (actual, value))
        assert_near(*pair, f"{context}: {name}", rtol)
