"""Statistics and LSUV on a GPU: the numbers of whole activations, with the image on the device or in host memory."""

from __future__ import annotations

import pytest
import torch

import streamplan
from tests.features.whole_activations import whole_activations
from tests.gpu.common import DEVICE, NETS, SIZE, draw
from tests.gpu.test_equality import tiling

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_statistics(name: str, halo: str, place: str) -> None:
    model = NETS[name]()
    streamed = streamplan.compile(model, SIZE, **tiling(name, halo))  # type: ignore[arg-type]
    image = draw()
    found = streamplan.activation_statistics(streamed, [image.to(DEVICE) if place == "device" else image])
    whole = whole_activations(streamed, [image.to(DEVICE)])
    for key, item in found.items():
        value = whole[item.value]
        assert item.mean.device.type == "cuda"
        scale = 1e-10 * float(value.abs().max())
        torch.testing.assert_close(item.mean, value.mean((0, 2, 3)), rtol=0, atol=scale, msg=key)
        torch.testing.assert_close(item.std, value.std((0, 2, 3), correction=0), rtol=0, atol=scale, msg=key)


def test_lsuv() -> None:
    model = NETS["resnet"]()
    streamed = streamplan.compile(model, SIZE, (32, 64))
    report = streamplan.init.lsuv_(streamed, [draw(seed).to(DEVICE) for seed in range(6)], tol=1e-6)
    assert report.is_converged
    assert all(parameter.device.type == "cuda" for parameter in model.parameters())
