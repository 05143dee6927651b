"""Bias, sum and ReLU in one kernel."""

from __future__ import annotations

from itertools import repeat
from math import isfinite
from statistics import median

import pytest
import torch

import streamplan
from streamplan.runtime import epilogue
from streamplan.runtime.epilogue import rectified_gradient, rectify_into
from tests.gpu.common import DEVICE, Results, draw, resnet, step, unet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet50
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
    """With and without the kernels, against the plain net in float64.

    Of three images, each gradient's median error counts: rounding may put one sample on the other side of a ReLU, which
    moves a gradient by far more than rounding does, in the plain net too.
    """
    if not has_kernels:
        monkeypatch.setattr(epilogue, "_kernels", lambda: None)
    build = {"resnet": resnet, "unet": unet, "resnet50": lambda: randomize_(resnet50(width=8).eval(), 1).to(DEVICE)}
    model = build[name]()
    images = [draw(seed).to(DEVICE) for seed in range(3)]
    exact = [step(model.double(), model, image) for image in images]
    streamed = streamplan.compile(model.float(), images[0].shape, (40, 64), dtype=torch.float32)
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = [step(streamed, model, image.float()) for image in images]
        plain = [step(model, model, image.float()) for image in images]
    for key in exact[0]:
        if key == "gradient of the image" or exact[0][key] is None:
            continue
        ours, theirs = (list(map(error, results, exact, repeat(key))) for results in (found, plain))
        assert all(map(isfinite, ours)), (name, key, ours)
        if key == "output":
            assert all(one <= max(1e-4, 3 * other) for one, other in zip(ours, theirs, strict=True)), (name, ours)
        assert median(ours) <= max(1e-4, 3 * median(theirs)), (name, key, ours, theirs)


def error(found: Results, exact: Results, key: str) -> float:
    """The largest difference, over the largest value."""
    value, exact_value = found[key], exact[key]
    assert value is not None
    assert exact_value is not None
    return float((value.double() - exact_value).abs().max() / exact_value.abs().max())


def test_the_same_numbers_each_time() -> None:
    model = resnet().float()
    streamed = streamplan.compile(model, (1, 3, 160, 128), (32, 64), dtype=torch.float32)
    image = draw().float().to(DEVICE)
    with torch.backends.cudnn.flags(enabled=True, deterministic=True):
        one, other = (step(streamed, model, image) for _ in range(2))
    assert all(torch.equal(one[name], other[name]) for name in one if one[name] is not None)
