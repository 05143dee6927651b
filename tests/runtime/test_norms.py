from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import streamplan
from streamplan.options import PASSES
from streamplan.runtime.norms import affine_norm


def tensors(shape: tuple[int, ...]) -> list[Tensor]:
    """A map, mean, variance, weight and bias."""
    generator = torch.Generator().manual_seed(0)

    def random(*size: int) -> Tensor:
        return torch.rand(size, generator=generator, dtype=torch.float64) + 0.5

    channels = shape[1]
    x = random(*shape)
    if x.dim() == 4:
        x = x.to(memory_format=torch.channels_last)
    return [
        x.requires_grad_(),
        *(random(channels) for _ in range(2)),
        *(random(channels).requires_grad_() for _ in range(2)),
    ]


@pytest.mark.parametrize("is_affine", [True, False])
@pytest.mark.parametrize("shape", [(2, 5, 7, 6), (1, 3, 4), (1, 2, 3, 4, 5), (3, 4, 2, 2)])
def test_it_is_torchs_norm(shape: tuple[int, ...], is_affine: bool) -> None:
    x, *statistics = tensors(shape)
    rest = statistics if is_affine else [*statistics[:2], None, None]
    expected = F.batch_norm(x, *rest, eps=1e-3)
    found = affine_norm(x, *rest, 1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-14, atol=1e-14)
    assert found.stride() == expected.stride()
    wanted = [tensor for tensor in (x, *rest) if tensor is not None and tensor.requires_grad]
    seed = torch.randn(shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    gradients = [torch.autograd.grad(y, wanted, seed) for y in (found, expected)]
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-13, atol=1e-13)


def test_a_frozen_weight_gets_no_gradient() -> None:
    x, mean, variance, weight, bias = tensors((1, 3, 4, 4))
    affine_norm(x, mean, variance, weight.requires_grad_(False), bias, 1e-5).sum().backward()
    assert weight.grad is None
    assert bias.grad is not None


@pytest.mark.parametrize("passes", [PASSES, tuple(name for name in PASSES if name != "affine_batch_norm")])
def test_the_pass_decides(passes: tuple[str, ...]) -> None:
    """A norm before its convolution cannot be folded."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(4), nn.Conv2d(4, 4, 3)).eval()
    streamed = streamplan.compile(model, (1, 3, 32, 32), 16, passes=tuple(passes))
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        streamed(torch.randn(1, 3, 32, 32))
    names = {event.key for event in profiler.key_averages()}
    assert ("aten::addcmul" in names) == ("affine_batch_norm" in passes)
    assert ("aten::batch_norm" in names) != ("affine_batch_norm" in passes)
