"""Example inputs: from the specs the user gives to the arguments of one run.

In: the signature of `forward` and what to call it with, a `TensorSpec` per tensor. Out: positional and keyword
arguments in which each spec has become a fake tensor, or a proxy of one. Everything that is not a tensor is passed as
it is, and an argument that is not given keeps its default, so `mask=None` stays None.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from streamplan.errors import TracingError
from streamplan.ir import TensorSpec
from streamplan.trace.aten_stream import label
from streamplan.trace.containers import mapped


class ExampleInputs:
    """What to call a model with.

    Args:
        model: The model; only its signature is used.
        args: Positional arguments.
        kwargs: Keyword arguments.
        device: Device of the fake inputs.
        like: Tensors whose memory order and wish for a gradient the inputs are to have, in their order; what is no
            tensor among them, or nothing, stands for contiguous ones without.

    Raises:
        TracingError: The arguments do not fit the model's `forward`.
    """

    def __init__(
        self,
        model: nn.Module,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        device: torch.device,
        like: Sequence[Any] = (),
    ) -> None:
        self._signature = inspect.signature(model.forward)
        self._args = tuple(args)
        self._kwargs = dict(kwargs)
        self.device = device
        self._like = tuple(like)
        try:
            self._signature.bind(*self._args, **self._kwargs)
        except TypeError as error:
            raise TracingError(
                "the example inputs do not fit the model's forward",
                where=type(model).__name__,
                why=f"forward{self._signature}: {error}",
                do="give one input per argument without a default",
            ) from error

    def make(self, wrap: Callable[[str, torch.Tensor], Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Arguments of one run. To be called under a fake tensor mode.

        Args:
            wrap: Called with a name and a new fake tensor for each spec; what it returns is passed to the model.

        Returns:
            Positional and keyword arguments.
        """
        bound = self._signature.bind(*self._args, **self._kwargs)
        examples = iter(self._like)

        def build(path: str, value: Any) -> Any:
            if not isinstance(value, TensorSpec | torch.Tensor):
                return value
            fake = _fake(value, next(examples, None), self.device)
            label(fake, f"input {path}")
            return wrap(re.sub(r"\W+", "_", path).strip("_"), fake)

        for name, value in bound.arguments.items():
            if self._signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
                bound.arguments[name] = {key: mapped(build, item, key) for key, item in value.items()}
            else:
                bound.arguments[name] = mapped(build, value, name)
        return bound.args, bound.kwargs


def _fake(value: TensorSpec | torch.Tensor, example: Any, device: torch.device) -> torch.Tensor:
    """A tensor for a spec; its strides and its wish for a gradient are those of an example, if that is a tensor."""
    shape, dtype = tuple(value.shape), value.dtype
    if not isinstance(example, torch.Tensor) or example.layout is not torch.strided:
        return torch.empty(shape, dtype=dtype, device=device)
    return torch.empty_strided(shape, example.stride(), dtype=dtype, device=device).requires_grad_(
        example.requires_grad
    )
