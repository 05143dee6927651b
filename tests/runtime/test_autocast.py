"""Autocast on the CPU: the recomputation runs in the forward's precision, wherever backward() is called."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import streamplan
from tests.runtime.comparison import run

SIZE = (1, 3, 24, 20)
BF16 = torch.finfo(torch.bfloat16).eps


def autocast_net() -> nn.Sequential:
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.GELU(), nn.AvgPool2d(2), nn.Conv2d(4, 4, 3))
    return nn.Sequential(*layers, nn.Flatten(), nn.LazyLinear(3)).eval()


def built() -> nn.Sequential:
    net = autocast_net()
    net(torch.zeros(SIZE))
    return net


def image() -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(3))


class UnderAutocast(nn.Module):
    """Runs a net under autocast; backward comes after the context."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.net(x)


def test_streamed_is_as_near_to_exact_as_plain_is() -> None:
    model = built()
    streamed = streamplan.compile(model, SIZE, 14)
    assert streamed._plan.num_tiles > 1
    exact = run(model, model, [image()])
    plain = run(UnderAutocast(model), model, [image()])
    ours = run(UnderAutocast(streamed), model, [image()])
    for name, expected in plain.items():
        assert expected is not None
        assert ours[name].dtype is expected.dtype, name
        scale = exact[name].abs().max()
        assert (ours[name] - expected).abs().max() <= 8 * BF16 * scale, name
        # Sums over tiles round at other places, but not more.
        assert (ours[name] - exact[name]).norm() <= 2 * (expected - exact[name]).norm() + BF16 * scale, name


def test_recomputation_enters_autocast_again() -> None:
    dtypes: list[torch.dtype] = []
    plain_conv = torch.nn.functional.avg_pool2d

    def recording(x: Tensor, *args: object) -> Tensor:
        dtypes.append(x.dtype)
        return plain_conv(x, *args)

    model = built()
    streamed = streamplan.compile(model, SIZE, 14)
    torch.nn.functional.avg_pool2d = recording
    try:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = streamed(image())
        out.float().sum().backward()
    finally:
        torch.nn.functional.avg_pool2d = plain_conv
    assert len(dtypes) == 2 * streamed._plan.num_tiles - 1  # the last tile is computed once
    assert len(set(dtypes)) == 1
    assert not torch.is_autocast_enabled("cpu")


def test_a_forward_without_autocast_stays_exact_when_backward_is_called_under_it() -> None:
    model = built().double()
    streamed = streamplan.compile(model, SIZE, 14)
    results = []
    for net in (model, streamed):
        model.zero_grad()
        out = net(image().double())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out.sum().backward()
        results.append(model[0].weight.grad.clone())
    assert (results[0] - results[1]).abs().max() <= 1e-12 * results[0].abs().max()


def test_weights_cast_by_the_tiles_keep_their_gradient_in_the_head() -> None:
    class Shared(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            return self.conv(x - x.mean((2, 3), keepdim=True))

    torch.manual_seed(0)
    model = Shared()
    streamed = streamplan.compile(model, SIZE, 10)
    plain = run(UnderAutocast(model), model, [image()])
    ours = run(UnderAutocast(streamed), model, [image()])
    for name in ("gradient of conv.weight", "gradient of input 0"):
        assert (ours[name] - plain[name]).abs().max() <= 8 * BF16 * plain[name].abs().max(), name


class _Skip(torch.nn.Module):
    """A sum of a map that autocast narrows and one that it leaves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.conv(x) + x, x - self.conv(x)


def test_a_sum_in_place_keeps_the_wider_dtype() -> None:
    model, x = _Skip(), torch.randn(1, 3, 24, 20)
    streamed = streamplan.compile(model, (1, 3, 24, 20), (12, 20))  # no tile is so narrow that it runs in float32
    assert "t.add_(" in streamed.source
    assert streamed.plan.num_tiles > 1
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        for found, expected in zip(streamed(x), model(x), strict=True):
            assert found.dtype == expected.dtype == torch.float32
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
