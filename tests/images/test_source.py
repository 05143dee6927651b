"""Arrays as images: what is read, written and refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from streamplan import Source
from streamplan.errors import SourceError
from streamplan.images import target_for

LAYOUTS = {
    "CHW": ((3, 20, 30), False, (1, 3, 20, 30)),
    "HWC": ((20, 30, 3), False, (1, 3, 20, 30)),
    "HW": ((20, 30), False, (1, 1, 20, 30)),
    "WHC": ((30, 20, 3), False, (1, 3, 30, 20)),
    "DHWC": ((8, 20, 30, 3), False, (1, 3, 8, 20, 30)),
    "CL": ((3, 50), False, (1, 3, 50)),
}


def array_of(shape: tuple[int, ...], dtype: str = "uint8") -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).integers(0, 255, shape).astype(dtype)


def in_net_order(array: np.ndarray[Any, Any], layout: str, batch: bool) -> torch.Tensor:
    """By `moveaxis`, unlike what is tested."""
    found = array if batch else array[None]
    found = np.moveaxis(found, layout.index("C") + 1, 1) if "C" in layout else found[:, None]
    return torch.from_numpy(np.ascontiguousarray(found))


@pytest.mark.parametrize("batch", [False, True])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_read_and_write(layout: str, batch: bool) -> None:
    shape, _, expected_shape = LAYOUTS[layout]
    array = array_of((2, *shape) if batch else shape)
    source = Source(array, layout, batch=batch)
    assert source.shape == ((2, *expected_shape[1:]) if batch else expected_shape)
    assert source.dtype == torch.uint8
    whole = in_net_order(array, layout, batch)
    assert torch.equal(source.read(()), whole)
    region = (slice(None), slice(None), *(slice(3, 7) for _ in source.shape[2:]))
    assert torch.equal(source.read(region), whole[region])
    copy = np.zeros_like(array)
    target = Source(copy, layout, batch=batch)
    target.write((), whole)
    assert np.array_equal(copy, array)
    target.write(region, torch.zeros_like(whole[region]))
    whole[region] = 0
    assert np.array_equal(in_net_order(copy, layout, batch).numpy(), whole.numpy())


def test_what_is_read_is_not_the_array_itself(tmp_path: Path) -> None:
    array = np.memmap(tmp_path / "image", np.float32, "w+", shape=(20, 30, 3))
    Source(array, "HWC").read(()).fill_(1.0)
    assert not array.any()


@pytest.mark.parametrize("dtype", ["uint8", "int16", "uint16", ">i2", "float16", ">f4", "float64"])
def test_dtypes(dtype: str) -> None:
    array = array_of((3, 4, 5), dtype)
    read = Source(array).read(())
    assert read.dtype == Source(array).dtype
    assert np.array_equal(read[0].numpy().astype(np.float64), array.astype(np.float64))


def test_a_tensor_is_an_array() -> None:
    image = torch.rand(20, 30, 3)
    assert torch.equal(Source(image, "HWC").read(()), image.permute(2, 0, 1)[None])


@pytest.mark.parametrize("as_tensor", [False, True])
def test_gradients_add_up(as_tensor: bool) -> None:
    image, gradient = np.zeros((4, 5, 3), np.float32), np.zeros((4, 5, 3), np.float32)
    pair = (torch.from_numpy(image), torch.from_numpy(gradient)) if as_tensor else (image, gradient)
    source = Source(pair[0], "HWC", gradient=pair[1])
    assert source.requires_grad
    region = (slice(None), slice(None), slice(1, 3), slice(0, 5))
    for _ in range(2):
        source.add_gradient(region, torch.ones(1, 3, 2, 5))
    assert gradient.sum() == 2 * 30
    assert gradient[1:3].min() == 2.0


@pytest.mark.parametrize("layout", ["", "hwc", "HHC", "C", "NCHW", "H W", 3, None])
def test_layouts_that_are_none(layout: Any) -> None:
    with pytest.raises(SourceError, match="is not the layout of an image"):
        Source(np.zeros((3, 4, 5)), layout)


def test_refusals() -> None:
    with pytest.raises(SourceError, match="is not an array"):
        Source([[1, 2], [3, 4]])
    with pytest.raises(SourceError, match="the array has 2 dimensions"):
        Source(np.zeros((4, 5)), "HWC")
    with pytest.raises(SourceError, match="cannot become a tensor"):
        Source(np.zeros((3, 4, 5), "datetime64[s]"))
    with pytest.raises(SourceError, match="the gradient's array has shape"):
        Source(np.zeros((3, 4, 5)), gradient=np.zeros((3, 4, 4)))
    with pytest.raises(SourceError, match="has no gradient"):
        Source(np.zeros((3, 4, 5), np.uint8), gradient=np.zeros((3, 4, 5)))
    with pytest.raises(SourceError, match="the gradient's array holds int64"):
        Source(np.zeros((3, 4, 5)), gradient=np.zeros((3, 4, 5), np.int64))
    with pytest.raises(SourceError, match="the gradient's array cannot be written"):
        Source(np.zeros((3, 4, 5)), gradient=read_only(np.zeros((3, 4, 5))))


def read_only(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    array.flags.writeable = False
    return array


class Lying:
    """An array that gives something else than it says it has."""

    def __init__(self, shape: tuple[int, ...], dtype: str, given: Any) -> None:
        self.shape, self.dtype, self._given = shape, np.dtype(dtype), given

    def __getitem__(self, index: Any) -> Any:
        return self._given[index]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (np.zeros((15, 20, 3), np.uint8), r"gave \(1, 3, 3, 20\) numbers of uint8"),
        (np.zeros((16, 20, 3), np.float32), r"gave \(1, 3, 4, 20\) numbers of float32"),
        (np.zeros((16, 20, 3, 1), np.uint8), r"gave \(1, 4, 20, 3, 1\) numbers of uint8"),
    ],
)
def test_an_array_that_gives_something_else(given: Any, said: str) -> None:
    source = Source(Lying((16, 20, 3), "uint8", given), "HWC")
    with pytest.raises(SourceError, match=said) as caught:
        source.read((slice(None), slice(None), slice(12, 16)))
    assert "[:, :, 12:16, :]" in str(caught.value)


@pytest.mark.parametrize("is_tensor", [False, True])
def test_bfloat16_maps_are_widened(is_tensor: bool) -> None:
    """Numpy has no bfloat16."""
    out = np.zeros((2, 4, 5), np.float32)
    block = torch.rand(1, 2, 4, 5).bfloat16()
    Source(torch.from_numpy(out) if is_tensor else out).write((), block)
    assert np.array_equal(out, block[0].float().numpy())
    gradient = np.zeros((2, 4, 5), np.float32)
    Source(block[0], gradient=gradient).add_gradient((), block)
    assert np.array_equal(gradient, out)


def test_targets() -> None:
    shape = (1, 2, 4, 5)
    for extents in (shape, shape[1:]):
        assert target_for(np.zeros(extents), shape, torch.float32).shape == shape
    target = Source(np.zeros((4, 5, 2), np.uint8), "HWC")
    assert target_for(target, shape, torch.int64) is target
    with pytest.raises(SourceError, match="fractions would be lost"):
        target_for(target, shape, torch.float32)
    with pytest.raises(SourceError, match="out has 2 dimensions"):
        target_for(np.zeros((4, 5)), shape, torch.float32)
    with pytest.raises(SourceError, match="out cannot be written"):
        target_for(read_only(np.zeros(shape)), shape, torch.float32)
    with pytest.raises(SourceError, match="out has 0 dimensions"):
        target_for("file.zarr", shape, torch.float32)
    with pytest.raises(SourceError, match="the output has"):
        target_for(np.zeros((2, 4, 6)), shape, torch.float32)
