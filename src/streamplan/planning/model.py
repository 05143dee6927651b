"""What planning needs of a model: its trace at one input size, lowered to the canonical graph."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import nn

from streamplan.frontend.facts import Trace
from streamplan.frontend.lower import lower
from streamplan.frontend.model_state import ModelState, model_state
from streamplan.frontend.replay import replay_trace
from streamplan.frontend.trace import trace_model
from streamplan.ir import Graph
from streamplan.planning.arguments import CallArguments
from streamplan.rules import rule_for, user_rule_identity


@dataclass(frozen=True, eq=False)
class TracedModel:
    """A model at one input size."""

    name: str
    """Class name of the model."""
    trace: Trace
    """The fx graph and its facts."""
    graph: Graph
    """The canonical graph."""
    arguments: CallArguments
    """The call that was traced."""
    changed_attributes: tuple[str, ...]
    """Plain attributes of modules, by path, that `forward` set to another value; the program does not set them."""
    device: torch.device | None
    """Device it was traced for; None for the model's own."""
    state: ModelState
    """State of the model when it was traced."""

    @cached_property
    def fingerprint(self) -> str:
        """Hash of the graph at this input size: calls, arguments, shapes; not the values of parameters."""
        digest = hashlib.sha256()
        for call in self.graph.calls:
            arguments = repr(dict(call.arguments)) if rule_for(call.op) else ""
            arguments += user_rule_identity(call.op)
            digest.update(repr((call.name, call.op, call.inputs, call.attributes, call.output, arguments)).encode())
        return digest.hexdigest()[:16]


def trace_and_lower(model: nn.Module, arguments: CallArguments, device: torch.device | None = None) -> TracedModel:
    """Trace a model for one call; nothing of the size of an activation is allocated.

    Raises:
        ModelTypeError: `model` is not an `nn.Module`.
        TracingError: It cannot be traced.
    """
    trace = trace_model(model, arguments.args, arguments.kwargs, device=device)
    changed = tuple(_changed_attributes(model, trace.skeleton))
    return TracedModel(type(model).__name__, trace, lower(trace), arguments, changed, device, model_state(model))


def resize(
    traced: TracedModel, model: nn.Module, arguments: CallArguments, device: torch.device | None = None
) -> TracedModel | None:
    """What `trace_and_lower` would give, without running the model's code; None if that takes another trace.

    It does where the code depends on the sizes in any way, where it changes attributes of the model, where the model is
    not as it was, and where the call differs in more than sizes.
    """
    is_same_call = device == traced.device and arguments.without_sizes() == traced.arguments.without_sizes()
    if not is_same_call or traced.changed_attributes or model_state(model) != traced.state:
        return None
    trace = replay_trace(traced.trace, tuple(arguments.specs()))
    if trace is None:
        return None
    return dataclasses.replace(traced, trace=trace, graph=lower(trace, traced.graph), arguments=arguments)


def _changed_attributes(model: nn.Module, skeleton: nn.Module) -> Iterator[str]:
    """Attributes of plain type that differ between a model and the copy of it that was traced."""
    traced = dict(skeleton.named_modules())
    for path, module in model.named_modules():
        if path not in traced:
            continue
        before, after = vars(module), vars(traced[path])
        for name, value in after.items():
            is_new = name not in before and isinstance(value, (*_PLAIN, torch.Tensor))
            is_changed = isinstance(value, _PLAIN) and name in before and before[name] != value
            if is_new or is_changed:
                yield f"{path}.{name}" if path else name


_PLAIN = (bool, int, float, str, tuple, type(None))
"""Types of attribute whose change is noticed."""


def default_dtype(model: nn.Module) -> torch.dtype:
    """Dtype of the model's first floating-point parameter or buffer, else that of the parts of its first complex one.

    If it has neither, torch's default.
    """
    dtypes = [tensor.dtype for tensor in (*model.parameters(), *model.buffers())]
    known = [x for x in dtypes if x.is_floating_point] or [x.to_real() for x in dtypes if x.is_complex]
    return known[0] if known else torch.get_default_dtype()


def default_device(model: nn.Module) -> torch.device:
    """Device of the model's first parameter or buffer, else the CPU."""
    tensors = (*model.parameters(), *model.buffers())
    return next((tensor.device for tensor in tensors), torch.device("cpu"))
