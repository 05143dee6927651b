"""An array as an image: anything with a shape, a dtype and slices, read where and when a tile needs it."""

from __future__ import annotations

import threading
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor

from streamplan.checks import check_flag
from streamplan.dtypes import is_differentiable
from streamplan.errors import SourceError
from streamplan.images.layout import ArrayLayout, Slices
from streamplan.images.overlap import check_apart


class Source:
    """An image in an array that need not fit in memory, to be passed to a streamed module in place of a tensor.

    Tiles are read by slicing, in threads of their own, and keep the array's dtype until they are on the device: for an
    image of bytes the model says `x.float() / 255` itself, which is streamed like everything else.

    The array must not change between forward and backward pass: that is noticed of a tensor, and of no other array.
    """

    def __init__(self, array: Any, layout: str = "CHW", *, batch: bool = False, gradient: Any = None) -> None:
        """Describe an array.

        Args:
            array: Anything with `shape`, `dtype` and slicing: numpy array or memmap, zarr array, tensor on the CPU.
            layout: One letter for each dimension of an image: C for channels, others for image axes, in their order.
            batch: Whether a batch dimension comes first; without one the batch is 1.
            gradient: A writable array of floating-point numbers of the same shape; a backward pass adds the gradient
                by the image to it, region by region. For images of floating-point numbers only.

        Raises:
            SourceError: It is not such an array, has another number of dimensions than the layout, or a dtype that
                torch does not know; is a tensor that requires a gradient; or the gradient's array is of no use.
        """
        _check_array(array, "tiles are read from its slices")
        check_flag("batch", batch)
        _check_no_graph(array)
        self._array = array
        self._gradient = gradient
        self._layout = ArrayLayout.parse(layout, batch=batch)
        letters = self._layout.letters
        if len(array.shape) != len(letters):
            raise SourceError(
                f"the array has {len(array.shape)} dimensions: {tuple(array.shape)}",
                why=f"layout={layout!r}{' with a batch' if batch else ''} has {len(letters)}: {letters}",
                do='name every dimension, as in layout="HWC"; batch=True for a batch dimension in front',
            )
        self.shape: tuple[int, ...] = self._layout.shape(array.shape)
        """As the model sees it: batch, channels, image axes."""
        self.dtype: torch.dtype = _torch_dtype(array.dtype)
        """As the model sees it."""
        if gradient is not None:
            self._check_gradient(gradient)
        self.anchor: Tensor | None = None if gradient is None else torch.zeros((), requires_grad=True)
        """What autograd takes for the image, as it calls backward passes for tensors alone; None without gradient."""

    def __repr__(self) -> str:
        return f"Source({type(self._array).__name__} {self._layout.letters}, {self.shape}, {self.dtype})"

    @property
    def ndim(self) -> int:
        """Number of dimensions, batch and channels included."""
        return len(self.shape)

    @property
    def requires_grad(self) -> bool:
        """Whether a backward pass is to leave a gradient."""
        return self.anchor is not None

    @property
    def version(self) -> int | None:
        """Number of changes in place of a tensor, None of other arrays."""
        is_counted = isinstance(self._array, Tensor) and not self._array.is_inference()
        return self._array._version if is_counted else None

    @property
    def contents(self) -> Any:
        """The array that is read."""
        return self._array

    @property
    def written(self) -> Any:
        """The array that a backward pass adds to; None if there is none."""
        return self._gradient

    def read(self, region: Slices) -> Tensor:
        """A region as a tensor in host memory, in the dtype of the array; a copy unless the array is a tensor itself.

        Args:
            region: Slices, one for each dimension of `shape`; those left out stand for all of it.

        Raises:
            SourceError: The array gave something else than it was asked for.
        """
        self._check_steady()
        _check_no_graph(self._array)
        with nullcontext() if _is_shareable(self._array) else _ONE_READER:
            block = self._as_tensor(self._array[self._index(region)])
        if block.dim() == len(self._layout.order):
            block = block.permute(self._layout.order)
        for dim in self._layout.absent:
            block = block.unsqueeze(dim)
        slices = (*region, *(slice(None) for _ in self.shape[len(region) :]))
        expected = tuple(len(range(*along.indices(n))) for along, n in zip(slices, self.shape, strict=True))
        if tuple(block.shape) != expected or block.dtype != self.dtype:
            raise SourceError(
                f"an array gave {tuple(block.shape)} numbers of {_name(block.dtype)}",
                where=f"{self!r}, region {_describe(slices)}",
                why=f"{expected} of {_name(self.dtype)} were asked for, by its own shape and dtype",
                do="check that the array is complete and that its slices have its dtype",
            )
        return block

    def write(self, region: Slices, block: Tensor) -> None:
        """Write a region; values are converted to the dtype of the array."""
        self._check_steady()
        _assign(self._array, self._index(region), self._as_block(block))

    def add_gradient(self, region: Slices, gradient: Tensor) -> None:
        """Add to a region of the gradient."""
        index, block = self._index(region), self._as_block(gradient)
        found = self._gradient[index]
        _assign(self._gradient, index, found + (block if isinstance(found, Tensor) else _as_numpy(block)))

    def check_writable(self, what: str) -> None:
        """Raise if the array says that it cannot be written, as those of numpy and zarr do.

        Args:
            what: The array, for the message.

        Raises:
            SourceError: It says so.
        """
        _check_writable(self._array, what)

    def fill(self, value: float) -> None:
        """Write one number everywhere."""
        self._array[self._index(())] = value

    def like(self, array: Any) -> Source:
        """Another array whose dimensions lie as this one's do."""
        letters = self._layout.letters
        return Source(_detached(array), letters.removeprefix("N"), batch=letters.startswith("N"))

    def _index(self, region: Slices) -> Slices:
        return self._layout.index((*region, *(slice(None) for _ in self.shape[len(region) :])))

    def _as_block(self, x: Tensor) -> Tensor:
        """A region of the model's map as the array has it."""
        x = x.detach().to("cpu")
        for dim in reversed(self._layout.absent):
            x = x.squeeze(dim)
        order = self._layout.order
        return x.permute([order.index(dim) for dim in range(len(order))])

    def _check_steady(self) -> None:
        """Refuse an array whose shape has changed.

        Raises:
            SourceError: It has.
        """
        shape = tuple(self._array.shape)
        if len(shape) != len(self._layout.letters) or self._layout.shape(shape) != self.shape:
            raise SourceError(
                f"the array has changed its shape to {shape}",
                where=repr(self),
                why="regions are read and written by the shape that it had when the source was made",
                do="make a new Source of it",
            )

    def _as_tensor(self, block: Any) -> Tensor:
        """What slicing gave; a copy but of a tensor, unless the array is known to give new arrays."""
        if isinstance(block, Tensor):
            return block.detach() if isinstance(self._array, Tensor) else block.detach().clone()
        import numpy as np  # noqa: PLC0415 - not needed unless there is an array

        found = np.asarray(block)
        is_new = _is_zarr(self._array) and found.flags.owndata and found.flags.writeable
        found = found.astype(found.dtype.newbyteorder("="), copy=not is_new)
        return torch.from_numpy(found)

    def _check_gradient(self, gradient: Any) -> None:
        _check_array(gradient, "the gradient is added to its slices")
        shape = tuple(gradient.shape)
        if shape != tuple(self._array.shape):
            raise SourceError(
                f"the gradient's array has shape {shape}",
                why=f"the image's has {tuple(self._array.shape)}; a gradient is laid out as its image",
                do="make it like the image, in a floating-point dtype, filled with zeros",
            )
        if not is_differentiable(self.dtype):
            raise SourceError(
                f"an image of {_name(self.dtype)} has no gradient",
                why="only floating-point and complex numbers are differentiated",
                do="convert the array, or leave the gradient out",
            )
        check_holds_gradient(_torch_dtype(gradient.dtype), self.dtype, "the gradient's array")
        _check_writable(gradient, "the gradient's array")
        check_apart("the gradient's array", gradient, {"the image": self._array})


_ONE_READER = threading.RLock()
"""Objects of other libraries are read by one thread at a time, as they may give one buffer again and again."""


def _is_zarr(array: Any) -> bool:
    return type(array).__module__.partition(".")[0] == "zarr"


def _is_shareable(array: Any) -> bool:
    """Whether several threads may read an array at once."""
    return isinstance(array, Tensor) or _is_zarr(array) or type(array).__module__.partition(".")[0] == "numpy"


def _check_array(array: Any, why: str) -> None:
    """Refuse what has no slices that are regions of an image.

    Raises:
        SourceError: It has none, or is a tensor without an array of numbers in host memory.
    """
    missing = ""
    if isinstance(array, Tensor):
        is_plain = not array.is_nested and array.layout is torch.strided and not array.is_quantized
        missing = "array of numbers" if not is_plain else "data in host memory" if array.device.type != "cpu" else ""
    else:
        missing = next((name for name in ("shape", "dtype", "__getitem__") if not hasattr(array, name)), "")
    if missing or isinstance(array, type):
        raise SourceError(
            f"an object of type {type(array).__name__} is not an array",
            why=f"it has no {missing}; {why}",
            do="pass a numpy array or memmap, a zarr array, or a tensor in host memory",
        )


def _check_no_graph(array: Any) -> None:
    """Refuse a tensor to read whose gradient would be lost.

    Raises:
        SourceError: It requires one.
    """
    if isinstance(array, Tensor) and array.requires_grad:
        raise SourceError(
            "a tensor that requires a gradient would get none",
            why="what tiles read from a source is no part of autograd's graph",
            do="pass the tensor itself to the net, or Source(tensor.detach(), gradient=array)",
        )


def check_holds_gradient(dtype: torch.dtype, image: torch.dtype, what: str) -> None:
    """Raise if an array of a dtype would lose what a gradient is made of.

    Args:
        dtype: Of the array.
        image: Dtype of the image.
        what: The array, for the message.

    Raises:
        SourceError: It would.
    """
    if image.is_complex and not dtype.is_complex:
        raise SourceError(
            f"{what} holds {_name(dtype)}",
            why="the gradient by complex numbers is complex; imaginary parts would be lost",
            do="make an array of complex numbers",
        )
    if not is_differentiable(dtype):
        raise SourceError(
            f"{what} holds {_name(dtype)}",
            why="a gradient is made of fractions, which would be lost",
            do="make an array of floating-point numbers",
        )


def _check_writable(array: Any, what: str) -> None:
    is_writable = getattr(getattr(array, "flags", None), "writeable", True)
    if not is_writable or getattr(array, "read_only", False) is True:
        raise SourceError(
            f"{what} cannot be written", why="it is read-only", do='open it for reading and writing, as mode="r+" does'
        )
    if not hasattr(array, "__setitem__"):
        raise SourceError(
            f"{what} cannot be written",
            why=f"an object of type {type(array).__name__} has no __setitem__",
            do="pass a numpy array or memmap, a zarr array, or a tensor",
        )


def target_for(out: Any, shape: tuple[int, ...], dtype: torch.dtype) -> Source:
    """An array that a map can be written to.

    Args:
        out: A source, or an array with batch and channels first, or channels first without batch.
        shape: Shape of the map, batch and channels included.
        dtype: Its dtype.

    Raises:
        SourceError: It is neither, or has another shape, or fractions would be lost.
    """
    target = out if isinstance(out, Source) else in_net_order(out, len(shape))
    if target.shape != shape:
        raise SourceError(
            f"out has shape {target.shape}, batch and channels included",
            why=f"the output has {shape}",
            do="make an array of that shape",
        )
    if dtype.is_complex and not target.dtype.is_complex:
        raise SourceError(
            f"out holds {_name(target.dtype)}",
            why=f"the output is {_name(dtype)}; imaginary parts would be lost",
            do="make an array of complex numbers",
        )
    if dtype.is_floating_point and not is_differentiable(target.dtype):
        raise SourceError(
            f"out holds {_name(target.dtype)}",
            why=f"the output is {_name(dtype)}; fractions would be lost",
            do="make an array of floating-point numbers, or let the model end in argmax or a conversion",
        )
    target.check_writable("out")
    return target


def _detached(out: Any) -> Any:
    """What is written without autograd: a tensor may require a gradient."""
    return out.detach() if isinstance(out, Tensor) else out


def in_net_order(out: Any, rank: int, what: str = "the output") -> Source:
    """An array with batch and channels first, or channels first without batch, that is to hold a map.

    Args:
        out: The array.
        rank: Number of dimensions of the map, batch and channels included.
        what: The map, for the message.

    Raises:
        SourceError: It has another number of dimensions.
    """
    out = _detached(out)
    if isinstance(out, Tensor):
        _check_array(out, "the map is written to its slices")
    letters = "C" + "DHW"[-(rank - 2) :] if rank <= 5 else ""
    num_dims = len(getattr(out, "shape", ()))
    if letters and num_dims in (rank, rank - 1):
        return Source(out, letters, batch=num_dims == rank)
    raise SourceError(
        f"out has {num_dims} dimensions",
        why=f"{what} has {rank}, batch and channels included",
        do=f"pass an array of {rank} dimensions, of {rank - 1} without the batch, or a Source with another layout",
    )


def _assign(array: Any, index: Slices, block: Any) -> None:
    if isinstance(array, Tensor):
        array[index] = block if isinstance(block, Tensor) else torch.from_numpy(block)
    else:
        array[index] = _as_numpy(block) if isinstance(block, Tensor) else block


def _as_numpy(block: Tensor) -> Any:
    """As numpy has it; it has no bfloat16, so that is widened."""
    return (block.float() if block.dtype is torch.bfloat16 else block).numpy(force=True)


def _describe(region: Slices) -> str:
    """Slices as they are written."""
    written = (f"{'' if s.start is None else s.start}:{'' if s.stop is None else s.stop}" for s in region)
    return f"[{', '.join(written)}]"


def _torch_dtype(dtype: Any) -> torch.dtype:
    if isinstance(dtype, torch.dtype):
        return dtype
    import numpy as np  # noqa: PLC0415 - not needed unless there is an array

    try:
        return torch.from_numpy(np.empty(0, np.dtype(dtype).newbyteorder("="))).dtype
    except TypeError as error:
        raise SourceError(
            f"an array of {dtype} cannot become a tensor",
            why=f"torch says: {error}",
            do="convert the array to a dtype that torch has",
        ) from error


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
