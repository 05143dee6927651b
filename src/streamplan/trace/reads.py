"""What the code of a model learned about its tensors as plain values: the conditions under which a trace holds.

A trace is a record of one run. Python code that asks a tensor for its shape may go on differently for another size;
code that never asks cannot. So the tracer writes every question down, twice:

    guards     question and answer in terms of nodes: `add.shape == (1, 64, 32, 32)`. If a run of the graph on another
               size gives the same answers, the model would make the same calls there.
    entries    the same questions in terms of labels, to be compared with those of a plain run (`ReadMode`). A model
               that asks only where it is not traced (`type(x) is Tensor and x.shape[-1] > 100`) is found out that way.

Where neither can tell, such as behind an error that the model catches, the log gives up, and every other size is traced
anew.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.overrides import TorchFunctionMode, _get_current_function_mode, _pop_mode_temporarily

from streamplan.trace.aten_stream import label_of
from streamplan.trace.facts import tensors_in
from streamplan.trace.fake_proxy import FakeProxy, contains_proxy
from streamplan.trace.tensor_uses import METADATA_METHODS, property_name

_ANSWERS = (bool, int, float, complex, str, type(None))
_TORCH_ANSWERS = (torch.dtype, torch.device, torch.layout, torch.memory_format)


class Guard(NamedTuple):
    """A question that a model asked of its tensors, and the answer."""

    kind: str
    """`property`, or as for a node: call_function, call_method, call_module."""
    target: Any
    """Name of the property or method, or the function."""
    args: Any
    """Arguments, with nodes."""
    kwargs: Any
    answer: Any


class ReadLog:
    """The questions of one run.

    Attributes:
        guards: Those about nodes of the graph.
        entries: All, as name, labels of the tensors asked, and answer.
        is_complete: Whether they are all that the run depends on.
    """

    def __init__(self) -> None:
        self.guards: list[Guard] = []
        self.entries: list[tuple[Any, ...]] = []
        self.is_complete = True

    def give_up(self) -> None:
        """Something happened whose outcome at another size nobody can tell."""
        self.is_complete = False

    def add_guard(self, guard: Guard) -> None:
        """Note a question about nodes; one whose answer cannot be compared ends the log."""
        self.guards.append(guard)
        if not _is_comparable(guard.answer):
            self.give_up()

    def add_metadata(
        self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any], answer: Any, owned: Container[int]
    ) -> None:
        """Note a property that was read, or a method that tells metadata.

        Args:
            name: Its name.
            args: The tensor, and arguments of the method.
            kwargs: Keyword arguments of the method.
            answer: What it told.
            owned: `id`s of the model's own tensors, whose metadata depend on no input.
        """
        tensor = args[0]
        if isinstance(tensor, FakeProxy) and not contains_proxy((args[1:], kwargs)):
            kind = "call_method" if name in METADATA_METHODS else "property"
            self.add_guard(Guard(kind, name, (tensor.node, *args[1:]), kwargs, answer))
        elif isinstance(tensor, FakeProxy) or id(tensor) not in owned:
            self.give_up()

    def add_entry(self, func: Callable[..., Any], tensors: list[torch.Tensor], answer: Any) -> None:
        """Note a use of tensors that returned no tensor."""
        if answer is not None and not tensors_in(answer):
            name = property_name(func) if (name := getattr(func, "__name__", "")) == "__get__" else name
            known = answer if _is_comparable(answer) else type(answer).__name__
            self.entries.append((name, tuple(map(label_of, tensors)), known))


class ReadMode(TorchFunctionMode):
    """Writes down what a plain run asks of its tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.log = ReadLog()
        self._is_suspended = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        answer = func(*args, **(kwargs or {}))
        if not self._is_suspended:
            self.log.add_entry(func, tensors_in([args, kwargs or {}]), answer)
        return answer

    @contextmanager
    def suspended(self) -> Iterator[None]:
        """While it is open, nothing is written down: torch's own layers are one node of a trace."""
        before, self._is_suspended = self._is_suspended, True
        try:
            if _get_current_function_mode() is self:  # type: ignore[no-untyped-call]
                with _pop_mode_temporarily():
                    yield
            else:
                yield
        finally:
            self._is_suspended = before


def _is_comparable(answer: Any) -> bool:
    if isinstance(answer, tuple | list):
        return all(map(_is_comparable, answer))
    return type(answer) in _ANSWERS or isinstance(answer, _TORCH_ANSWERS)
