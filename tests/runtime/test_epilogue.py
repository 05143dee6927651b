"""Bias, sum and ReLU behind a convolution: by torch's operations, and moved behind the convolution as on a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.planning.passes import pipeline
from streamplan.planning.passes.fusing import fuse_relus
from streamplan.runtime.epilogue import channel_sum, rectified_gradient, rectify_into
from tests.nets.densenet import DenseNet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18, resnet50
from tests.nets.unet import unet_bilinear
from tests.runtime.comparison import assert_same_results, run
from tests.runtime.epilogue_cases import cases

NETS = {
    "resnet18": (lambda: resnet18(width=4, num_classes=3), (2, 3, 131, 101), (32, 48)),
    "resnet50": (lambda: resnet50(width=4, num_classes=3), (1, 3, 128, 64), (32, 64)),
    "densenet": (lambda: DenseNet((2, 2, 2, 2), 4, 2), (1, 3, 96, 64), (40, 64)),
    "unet": (lambda: unet_bilinear(width=4, depth=2), (1, 3, 64, 44), (24, 20)),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_by_torch(dtype: torch.dtype) -> None:
    for case in cases(torch.device("cpu"), dtype):
        rectify_into(case.out, case.y, case.bias, case.addend)
        torch.testing.assert_close(case.out.double(), case.expected, equal_nan=True, rtol=1e-6, atol=1e-6)
        gradient = torch.randn_like(case.out)
        masked, total = rectified_gradient(gradient, case.out, wants_sum=True)
        expected = torch.where(case.out <= 0, 0, gradient.double())
        assert torch.equal(masked.double(), expected)
        assert total is not None
        torch.testing.assert_close(total.double(), expected.sum((0, 2, 3)), rtol=1e-5, atol=1e-5)
        assert rectified_gradient(gradient, case.out, wants_sum=False)[1] is None


def test_sums_of_narrow_numbers_are_wide() -> None:
    x = torch.ones(1, 2, 64, 64, dtype=torch.bfloat16)
    assert channel_sum(x).tolist() == [4096.0, 4096.0]


@pytest.fixture
def late_bias(monkeypatch: pytest.MonkeyPatch) -> None:
    """Biases are added with the ReLU, as on a GPU."""

    def fuse(*arguments: object, has_late_bias: bool) -> object:
        assert not has_late_bias
        return fuse_relus(*arguments, has_late_bias=True)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "fuse_relus", fuse)


@pytest.mark.usefixtures("late_bias")
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_biases_added_with_the_relu(name: str, halo: str) -> None:
    build, size, tile = NETS[name]
    model = randomize_(build().double().eval(), seed=1)
    cut = "latest" if halo == "reuse" or name == "unet" else {"densenet": "features.conv0"}.get(name, "layer1")
    streamed = streamplan.compile(model, size, tile if halo == "reuse" else 60, halo=halo, cut=cut)  # type: ignore[arg-type]
    assert 'bias=w["' in streamed.source or name == "densenet"
    x = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)


@pytest.mark.usefixtures("late_bias")
@pytest.mark.parametrize("frozen", ["0.bias", "1.bias", "1.weight", "0.weight"])
def test_frozen_parameters(frozen: str) -> None:
    model = randomize_(
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3), nn.ReLU()).eval(), seed=0
    ).double()
    model.get_parameter(frozen).requires_grad_(False)
    x = torch.randn(1, 3, 40, 40, dtype=torch.float64)
    streamed = streamplan.compile(model, x.shape, 16, dtype=torch.float64)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)


class Sums(nn.Module):
    """Sums that can be taken along with a ReLU, and sums that cannot."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Conv2d(4, 4, 3, padding=1) for _ in range(3))

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first = torch.relu(self.a(x) + self.b(x))  # either of them
        y = self.c(first)
        second = torch.relu(y + first)
        third = torch.relu(y + y)  # twice the same, and `y` is read above
        scaled = torch.relu(torch.add(self.b(second), second, alpha=2))
        own = torch.relu(self.c(second) + 1)  # a number
        wide = torch.relu(self.c(second) + second[:, :1])  # broadcast over channels
        return third, scaled, own, wide, first


@pytest.mark.parametrize("is_late", [False, True])
def test_sums(is_late: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    def fuse(*arguments: object, has_late_bias: bool) -> object:
        return fuse_relus(*arguments, has_late_bias=is_late)  # type: ignore[arg-type]

    monkeypatch.setattr(pipeline, "fuse_relus", fuse)
    model = randomize_(Sums().double().eval(), seed=0)
    x = torch.randn(1, 4, 40, 36, dtype=torch.float64, requires_grad=True)
    streamed = streamplan.compile(model, x.shape, (16, 12), dtype=torch.float64)
    assert streamed.source.count("add=") == 1
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)


def test_nan_stays_nan() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 4, 3, padding=1), nn.ReLU()).eval()
    x = torch.randn(1, 3, 64, 64)
    x[0, 1, 31, 40] = float("nan")
    streamed = streamplan.compile(model, x.shape, 16)
    assert torch.equal(streamed(x).isnan(), model(x).isnan())
    streamed(x).sum().backward()
    assert model[0].weight.grad.isnan().any()
