"""Arrays that overlap, are filled again, or change: what is refused, and what is right nevertheless."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr
from numpy.lib.stride_tricks import as_strided
from torch import nn

import streamplan
from streamplan import Source
from streamplan.errors import SourceError, StaleStateError

SIZE = (1, 3, 24, 20)


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, padding=1)).double()


def image() -> np.ndarray[Any, Any]:
    return np.random.default_rng(1).standard_normal(SIZE[1:])


def streamed(model: nn.Module, halo: str = "auto") -> nn.Module:
    return streamplan.compile(model, SIZE, 12, halo=halo)


def wide() -> np.ndarray[Any, Any]:
    return np.zeros((3, 25, 40))


class Wrapper:
    """An array of another library, around one of numpy."""

    def __init__(self, array: np.ndarray[Any, Any]) -> None:
        self.array, self.shape, self.dtype = array, array.shape, array.dtype

    def __getitem__(self, index: Any) -> Any:
        return self.array[index]

    def __setitem__(self, index: Any, value: Any) -> None:
        self.array[index] = value


def maps_of_one_file(folder: Path, shift: int) -> tuple[Any, Any]:
    """Two maps, made one after the other, whose first positions are some apart."""
    path, count = folder / "image.raw", 3 * 24 * 20
    np.zeros(count + shift).tofile(path)
    maps = [np.memmap(path, np.float64, "r+", offset, (3, 24, 20)) for offset in (0, 8 * shift)]
    return maps[0], maps[1]


def zarr_arrays(folder: Path) -> tuple[Any, Any]:
    """One array, opened by its path and by that of its group."""
    made = zarr.open_group(folder / "group", mode="w").create_array("image", shape=SIZE[1:], dtype="f8")
    return made, zarr.open_array(folder / "group" / "image", mode="r+")


SHARED: dict[str, Callable[[Path], tuple[Any, Any]]] = {
    "itself": lambda _: (a := image(), a),
    "view": lambda _: ((a := wide())[:, :24, :20], a[:, 1:, :20]),
    "every second": lambda _: ((a := wide())[:, :24, ::2], a[:, :24, 10:30]),
    "flipped": lambda _: (a := image(), a[:, ::-1, ::-1]),
    "one byte": lambda _: ((a := np.zeros(3 * 24 * 20 * 2))[:1440].reshape(3, 24, 20), a[1439:2879].reshape(3, 24, 20)),
    "tensor of it": lambda _: (a := image(), torch.from_numpy(a)),
    "tensors": lambda _: ((a := torch.zeros(3, 25, 20).double())[:, 1:], a[:, :24]),
    "detached": lambda _: (a := torch.zeros(3, 24, 20).double(), a.detach().view(3, 24, 20)),
    "wrapped": lambda _: (Wrapper(a := image()), a[:]),
    "written through a wrapper": lambda _: (a := image(), Wrapper(a)),
    "file": lambda folder: maps_of_one_file(folder, 0),
    "parts of a file": lambda folder: maps_of_one_file(folder, 17),
    "views of a file": lambda folder: tuple(np.asarray(x)[::-1] for x in maps_of_one_file(folder, 0)),
    "zarr": zarr_arrays,
}
"""What is read, and what is to be written."""


@pytest.mark.parametrize("name", SHARED)
def test_what_shares_memory_with_the_image_is_not_written(name: str, tmp_path: Path) -> None:
    read, written = SHARED[name](tmp_path)
    before = np.asarray(read[:]).copy()
    with pytest.raises(SourceError, match="shares memory with the input"):
        streamed(net()).predict(Source(read), out=written)
    with pytest.raises(SourceError, match="shares memory with the image"):
        streamplan.input_gradient(streamed(net()), Source(read), lambda y: y.sum(), out=written)
    if tuple(written.shape) == tuple(read.shape):
        with pytest.raises(SourceError, match="shares memory with the image"):
            Source(read, gradient=written)
    assert np.array_equal(np.asarray(read[:]), before)


def test_other_layouts_of_the_image_are_the_image() -> None:
    array = np.zeros((24, 24, 24))
    model = nn.Conv2d(24, 24, 3, padding=1).double()
    compiled = streamplan.compile(model, (1, 24, 24, 24), 12)
    with pytest.raises(SourceError, match="shares memory"):
        compiled.predict(Source(array, "HWC"), out=Source(array, "CHW"))


def test_a_tensor_is_not_written_over_itself_either() -> None:
    x = torch.from_numpy(image())[None]
    with pytest.raises(SourceError, match="shares memory"):
        streamed(net()).predict(x, out=x)
    with pytest.raises(SourceError, match="shares memory"):
        streamplan.input_gradient(streamed(net()), x, lambda y: y.sum(), out=x[0].numpy())


def test_parameters_are_not_written() -> None:
    model = nn.Conv2d(3, 3, 3, padding=1).double()
    model.register_buffer("scratch", torch.zeros(3, 24, 20).double())
    with pytest.raises(SourceError, match="the model's scratch"):
        streamplan.compile(model, SIZE, 12).predict(Source(image()), out=model.scratch.numpy())


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
def test_arrays_that_lie_between_each_other_are_apart(halo: str, tmp_path: Path) -> None:
    model = net()
    expected = model(torch.from_numpy(image())[None]).detach()[0]
    both = np.zeros((3, 24, 40))
    both[..., ::2] = image()
    streamed(model, halo).predict(Source(both[..., ::2]), out=both[..., 1::2])
    torch.testing.assert_close(torch.from_numpy(both[..., 1::2].copy()), expected, rtol=1e-12, atol=1e-12)
    read, written = maps_of_one_file(tmp_path, 3 * 24 * 20)
    read[:] = image()
    streamed(model, halo).predict(Source(read), out=written[:, ::-1])
    torch.testing.assert_close(torch.from_numpy(written[:, ::-1].copy()), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "array",
    [
        as_strided(np.zeros((24, 20)), (3, 24, 20), (0, 160, 8)),
        as_strided(np.zeros(5000), (3, 24, 20), (8 * 480, 8 * 10, 8)),
        as_strided(np.zeros(5000), (3, 24, 20), (8 * 480, 8 * 20, 4)),
        torch.zeros(24, 20).double().expand(3, 24, 20),
        torch.zeros(1440).double().as_strided((3, 24, 20), (480, 1, 1)),
    ],
    ids=["stride 0", "rows overlap", "numbers overlap", "expanded", "as_strided"],
)
def test_arrays_that_overlap_themselves_are_not_written(array: Any) -> None:
    with pytest.raises(SourceError, match="several positions in one place"):
        streamed(net()).predict(Source(image()), out=array)
    with pytest.raises(SourceError, match="several positions in one place"):
        Source(image(), gradient=array)
    with pytest.raises(SourceError, match="several positions in one place"):
        streamplan.input_gradient(streamed(net()), Source(image()), lambda y: y.sum(), out=array)


class Two(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.b = (nn.Conv2d(3, 2, 3, padding=1, dtype=torch.float64) for _ in range(2))

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return self.a(x).tanh() * self.b(y)


def two() -> nn.Module:
    return streamplan.compile(Two(), (SIZE, SIZE), 12)


def test_gradients_of_two_inputs_do_not_share_an_array() -> None:
    x, y, gradient = image(), image() + 1, np.zeros(SIZE[1:])
    with pytest.raises(SourceError, match="shares memory with the gradient of"):
        two()(Source(x, gradient=gradient), Source(y, gradient=gradient[:, ::-1]))
    with pytest.raises(SourceError, match="shares memory with the input"):
        two()(Source(x, gradient=gradient), Source(gradient))
    with pytest.raises(SourceError, match="shares memory with the input"):
        two()(Source(x, gradient=gradient), torch.from_numpy(gradient)[None])


def test_one_source_given_twice_collects_both_gradients() -> None:
    x = torch.from_numpy(image())[None].requires_grad_()
    Two()(x, x).square().sum().backward()
    gradient = np.zeros(SIZE[1:])
    source = Source(image(), gradient=gradient)
    two()(source, source).square().sum().backward()
    torch.testing.assert_close(torch.from_numpy(gradient)[None], x.grad, rtol=1e-12, atol=1e-12)


class Refilling:
    """A reader that gives one buffer again and again, and fills it bit by bit."""

    def __init__(self, array: np.ndarray[Any, Any], as_tensor: bool) -> None:
        self._array, self._as_tensor = (array,), as_tensor
        self.shape, self.dtype = array.shape, array.dtype
        self._buffers: dict[tuple[int, ...], np.ndarray[Any, Any]] = {}

    def __getitem__(self, index: Any) -> Any:
        wanted = self._array[0][index]
        buffer = self._buffers.setdefault(wanted.shape, np.zeros(wanted.shape))
        for row in range(wanted.shape[1]):
            buffer[:, row] = wanted[:, row]
            np.linalg.inv(np.eye(40))  # another thread gets its turn
        return torch.from_numpy(buffer) if self._as_tensor else buffer


@pytest.mark.parametrize("as_tensor", [False, True])
def test_a_reader_may_give_one_buffer_again(as_tensor: bool) -> None:
    plain = net()
    compiled = streamed(copy.deepcopy(plain))
    x = torch.from_numpy(image())[None]
    expected = plain(x)
    expected.square().sum().backward()
    for _ in range(5):
        compiled.zero_grad()
        found = compiled(Source(Refilling(image(), as_tensor)))
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        found.square().sum().backward()
        torch.testing.assert_close(
            compiled.get_parameter("0.weight").grad, plain[0].weight.grad, rtol=1e-12, atol=1e-12
        )


def test_two_inputs_of_one_reader() -> None:
    reader = Refilling(image(), as_tensor=False)
    x = torch.from_numpy(image())[None]
    torch.testing.assert_close(two()(Source(reader), Source(reader)), Two()(x, x), rtol=1e-12, atol=1e-12)


def test_an_array_that_changes_its_shape() -> None:
    array = zarr.zeros(SIZE[1:], dtype="f8")
    source, compiled = Source(array), streamed(net())
    compiled(source)
    array.resize((3, 30, 20))
    with pytest.raises(SourceError, match="changed its shape"):
        compiled(source)
    with pytest.raises(SourceError, match="changed its shape"):
        compiled.predict(Source(image()), out=source)


def test_a_tensor_that_wants_a_gradient_is_no_source() -> None:
    x = torch.from_numpy(image()).requires_grad_()
    with pytest.raises(SourceError, match="requires a gradient"):
        Source(x)
    with pytest.raises(SourceError, match="requires a gradient"):
        Source(x * 2)
    late = torch.from_numpy(image())
    source = Source(late)
    late.requires_grad_()
    with pytest.raises(SourceError, match="requires a gradient"):
        streamed(net())(source)


def test_a_parameter_may_be_written() -> None:
    out = nn.Parameter(torch.zeros(SIZE[1:]).double())
    streamed(net()).predict(Source(image()), out=out)
    expected = net()(torch.from_numpy(image())[None])[0]
    torch.testing.assert_close(out.detach(), expected.detach(), rtol=1e-12, atol=1e-12)


def test_a_tensor_changed_between_the_passes_is_noticed() -> None:
    x = torch.from_numpy(image())
    loss = streamed(net())(Source(x)).sum()
    x[0, 0, 0] += 1
    with pytest.raises(StaleStateError, match="changed between forward and backward"):
        loss.backward()


def test_an_array_changed_between_the_passes_is_not_noticed() -> None:
    """As the page of limits says."""
    changed, x = streamed(net()), image()
    loss = changed(Source(x)).square().sum()
    x += 1
    loss.backward()
    page = Path(__file__).parents[2] / "docs" / "limits.md"
    assert "A change of an array between forward and backward pass is not noticed" in page.read_text("utf-8")
    kept = streamed(net())
    kept(Source(image())).square().sum().backward()
    assert not torch.equal(changed.get_parameter("0.weight").grad, kept.get_parameter("0.weight").grad)
