"""Images to pass through a streamed module one after the other, as its calls."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from streamplan.errors import BatchesError, ModelTypeError
from streamplan.images import Source
from streamplan.module.executable import Executable
from streamplan.module.requests import bind_call
from streamplan.module.streamed import plain_model
from streamplan.module.streamed_module import StreamedModule


@dataclass(frozen=True, eq=False)
class Call:
    """One call of a streamed module."""

    executable: Executable
    """What carries it out."""
    inputs: list[Tensor | Source]
    """The tensors and sources of the call, in order."""


def check_streamed(streamed: object) -> StreamedModule:
    """The streamed module, if it is one.

    Raises:
        ModelTypeError: It is something else.
    """
    if isinstance(streamed, StreamedModule):
        return streamed
    raise ModelTypeError(
        f"an object of type {type(streamed).__name__} is not a streamed module",
        why="the images are to pass through it tile by tile",
        do="pass what streamplan.compile(model, ...) returned",
    )


def check_batches(batches: Any, *, is_repeated: bool = False) -> Iterable[Any]:
    """The batches, if they can be iterated over.

    Args:
        batches: What the user passed.
        is_repeated: Whether that is done more than once.

    Raises:
        BatchesError: They cannot.
    """
    if isinstance(batches, Tensor | Source | Mapping | str | bytes) or not isinstance(batches, Iterable):
        raise BatchesError(
            f"batches of type {type(batches).__name__} are not a series of images",
            why="each item is what one call of the model takes; a single image would be taken apart",
            do="pass [image], or a DataLoader that gives images",
        )
    if is_repeated and isinstance(batches, Iterator):
        raise BatchesError(
            f"batches of type {type(batches).__name__} can be gone through only once",
            why="every layer needs passes of its own over the same images",
            do="pass a list, a DataLoader, or an object whose __iter__ begins anew",
        )
    return batches


def calls(streamed: StreamedModule, batches: Iterable[Any]) -> Iterator[Call]:
    """Every batch as a call.

    Args:
        streamed: The streamed module.
        batches: Tensors or sources; tuples or lists of positional arguments; mappings of keyword arguments.

    Raises:
        BatchesError: There is none.
        InputMismatchError, HookError: One does not fit; a hook would not run.
    """
    is_empty = True
    for batch in batches:
        is_empty = False
        positional = tuple(batch) if isinstance(batch, tuple | list) else () if isinstance(batch, Mapping) else (batch,)
        arguments = bind_call(plain_model(streamed), positional, batch if isinstance(batch, Mapping) else {})
        streamed._check_call(*arguments)
        yield Call(*streamed._resolve_call(*arguments))
    if is_empty:
        raise BatchesError(
            "there are no images",
            why="batches gave none when it was gone through",
            do="pass at least one image; an iterator that was used before is empty",
        )
