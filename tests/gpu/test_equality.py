"""The same outputs and gradients as the plain net's, wherever images, carried samples and results are."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

import streamplan
from streamplan import Source
from tests.gpu.common import DEVICE, EXTENTS, NETS, SIZE, assert_same, draw, plain_step, step, unet, unet_on_bytes
from tests.runtime.comparison import assert_near

pytestmark = pytest.mark.gpu
TILES = {("unet", "reuse"): (40, 64), ("unet", "recompute"): 88, ("resnet", "reuse"): (32, 64)}
"""With recomputed halos a tile of the ResNet would read all of the image, so it is cut early."""


def tiling(name: str, halo: str) -> dict[str, object]:
    if (name, halo) == ("resnet", "recompute"):
        return {"tile_size": 96, "halo": halo, "cut": "layer1"}
    return {"tile_size": TILES[name, halo], "halo": halo}


@pytest.mark.parametrize("keep_tiles", [0, 1, 3])
@pytest.mark.parametrize("place", ["device", "host"])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_images_on_the_device_and_in_host_memory(name: str, halo: str, place: str, keep_tiles: int) -> None:
    model = NETS[name]()
    streamed = streamplan.compile(model, SIZE, keep_tiles=keep_tiles, **tiling(name, halo))  # type: ignore[arg-type]
    assert streamed.plan.num_tiles > 3
    x = draw().to(DEVICE if place == "device" else "cpu").requires_grad_()
    found = step(streamed, model, x)
    gradient = found["gradient of the image"]
    assert gradient is not None
    assert gradient.device == x.device
    assert_same(found, plain_step(model, x), f"{name} {halo} {place} {keep_tiles}")


@pytest.mark.parametrize("keep_tiles", [0, 1, 3])
@pytest.mark.parametrize("name", NETS)
def test_carried_samples_in_host_memory(name: str, keep_tiles: int) -> None:
    model = NETS[name]()
    streamed = streamplan.compile(model, SIZE, TILES[name, "reuse"], carries="host", keep_tiles=keep_tiles)  # type: ignore[arg-type]
    assert streamed.plan.costs.carry_bytes > 0
    x = draw().to(DEVICE).requires_grad_()
    assert_same(step(streamed, model, x), plain_step(model, x), f"{name} {keep_tiles}")
    loss = streamed(x).square().sum()
    first = torch.autograd.grad(loss, x, retain_graph=True)[0]
    second = torch.autograd.grad(loss, x)[0]  # computes the forward pass again
    assert_near(second, first, "second backward pass", 1e-12)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_bytes_in_host_memory(halo: str, tmp_path: Path) -> None:
    model = unet_on_bytes()
    streamed = streamplan.compile(model, SIZE, 88, dtype=torch.uint8, halo=halo)  # type: ignore[arg-type]
    array = np.random.default_rng(0).integers(0, 255, (*EXTENTS, 3), dtype=np.uint8)
    image = torch.from_numpy(array).permute(2, 0, 1)[None]
    expected = plain_step(model, image)
    assert_same(step(streamed, model, image), expected, "tensor")
    assert_same(step(streamed, model, image.pin_memory()), expected, "pinned tensor")
    mapped = np.memmap(tmp_path / "image", np.uint8, "w+", shape=array.shape)
    mapped[:] = array
    found = step(streamed, model, Source(mapped, "HWC"))
    expected.pop("gradient of the image")
    assert_same(found, expected, "memmap")


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_the_gradient_by_the_image_into_an_array(halo: str) -> None:
    model = unet()
    streamed = streamplan.compile(model, SIZE, 88, halo=halo)  # type: ignore[arg-type]
    x = draw().requires_grad_()
    expected = plain_step(model, x)
    for gradient in (np.zeros(SIZE[1:]), torch.zeros(SIZE[1:], dtype=torch.float64)):
        step(streamed, model, Source(x.detach()[0].numpy(), gradient=gradient))
        wanted = expected["gradient of the image"]
        assert wanted is not None
        assert_near(torch.as_tensor(gradient)[None], wanted.cpu(), "gradient", 1e-10)


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("place", ["device", "host"])
def test_maps_into_arrays(halo: str, place: str, tmp_path: Path) -> None:
    model = unet()
    streamed = streamplan.compile(model, SIZE, 88, halo=halo)  # type: ignore[arg-type]
    image = draw().to(DEVICE if place == "device" else "cpu")
    expected = model(image.to(DEVICE)).detach().cpu()
    out = np.memmap(tmp_path / "map", np.float64, "w+", shape=tuple(expected.shape[1:]))
    out[:] = np.nan
    streamed.predict(image, out=out)
    assert_near(torch.from_numpy(np.array(out))[None], expected, "map", 1e-10)


@pytest.mark.parametrize("rows", [(70, 74), (0, 0), (0, 160)])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_gradients_that_are_zero_almost_everywhere(halo: str, rows: tuple[int, int]) -> None:
    model = unet()
    streamed = streamplan.compile(model, SIZE, 88 if halo == "recompute" else (20, 128), halo=halo, keep_tiles=0)  # type: ignore[arg-type]
    mask = torch.zeros(EXTENTS[0], 1, dtype=torch.float64, device=DEVICE)
    mask[slice(*rows)] = 1.0
    x = draw().to(DEVICE).requires_grad_()
    found = step(lambda image: streamed(image) * mask, model, x)  # type: ignore[arg-type]
    expected = step(lambda image: model(image) * mask, model, x.detach().clone().requires_grad_())  # type: ignore[arg-type]
    assert_same(found, expected, f"{halo} {rows}")
