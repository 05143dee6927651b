"""Bias, sum and ReLU in one kernel."""

from __future__ import annotations

import pytest
import torch

import streamplan
from streamplan.runtime import epilogue
from streamplan.runtime.epilogue import rectified_gradient, rectify_into
from tests.gpu.common import DEVICE, draw, resnet, step, unet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet50
from tests.runtime.comparison import assert_near
from tests.runtime.epilogue_cases import cases

pytestmark = pytest.mark.gpu
ROUNDING = {torch.float32: 1e-6, torch.bfloat16: 4e-3, torch.float16: 5e-4}


@pytest.mark.parametrize("dtype", ROUNDING, ids=str)
def test_kernels(dtype: torch.dtype) -> None:
    pytest.importorskip("triton")
    for case in cases(DEVICE, dtype):
        has_kernels = epilogue._kernels_for(case.out, case.y) is not None
        assert has_kernels or case.y.shape[1] == 1  # a single channel has no order of its own
        rectify_into(case.out, case.y, case.bias, case.addend)
        torch.testing.assert_close(case.out.double(), case.expected, equal_nan=True, rtol=ROUNDING[dtype], atol=1e-6)
        gradient = torch.randn_like(case.out)
        masked, total = rectified_gradient(gradient, case.out, wants_sum=True)
        expected = torch.where(case.out <= 0, 0, gradient.double())
        assert torch.equal(masked.double(), expected)
        assert total is not None
        torch.testing.assert_close(total.double(), expected.sum((0, 2, 3)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("has_kernels", [True, False])
@pytest.mark.parametrize("name", ["resnet", "resnet50", "unet"])
def test_gradients_in_float32(name: str, has_kernels: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With and without the kernels, against the plain net in float64."""
    if not has_kernels:
        monkeypatch.setattr(epilogue, "_kernels", lambda: None)
    build = {"resnet": resnet, "unet": unet, "resnet50": lambda: randomize_(resnet50(width=8).eval(), 1).to(DEVICE)}
    model = build[name]().double()
    image = draw().to(DEVICE)
    exact = step(model, model, image)
    model.float()
    with torch.backends.cudnn.flags(allow_tf32=False):
        streamed = streamplan.compile(model, image.shape, (40, 64), dtype=torch.float32)
        found = step(streamed, model, image.float())
        plain = step(model, model, image.float())
    for key, value in exact.items():
        if value is not None and key != "gradient of the image":
            scale = float(value.abs().max())
            allowed = max(1e-4, 3 * float((plain[key].double() - value).abs().max()) / scale)
            assert_near(found[key].double() / scale, value / scale, f"{name}: {key}", allowed)


def test_the_same_numbers_each_time() -> None:
    model = resnet().float()
    streamed = streamplan.compile(model, (1, 3, 160, 128), (32, 64), dtype=torch.float32)
    image = draw().float().to(DEVICE)
    with torch.backends.cudnn.flags(deterministic=True):
        one, other = (step(streamed, model, image) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one if one[name] is not None)
