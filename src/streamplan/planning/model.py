"""What planning needs of a model: its trace at one input size, lowered to the canonical graph."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from streamplan.ir import Graph
from streamplan.planning.arguments import CallArguments
from streamplan.rules import rule_for, user_rule_identity
from streamplan.trace.canonical.lower import lower
from streamplan.trace.facts import Trace
from streamplan.trace.guard.shadow import Shadow
from streamplan.trace.model import guard_call, trace_model
from streamplan.trace.replay.sizes import replay_trace
from streamplan.trace.state.model_state import ModelState, model_state


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
    device: torch.device | None
    """Device it was traced for; None for the model's own."""
    origin: object
    """The same for traces that were replayed from one another."""
    state: ModelState | None = None
    """State of the model when it was traced; None if it was traced in a call, which may have changed it."""

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
    return TracedModel(type(model).__name__, trace, lower(trace), arguments, device, object(), model_state(model))


def guard_and_lower(
    model: nn.Module,
    shadow: Shadow,
    arguments: CallArguments,
    tensors: Sequence[Any],
    device: torch.device | None,
    known: Sequence[TracedModel],
) -> TracedModel:
    """Run a model's code for one call, and take the trace of those known that tells what it does, or a new one.

    Args:
        model: The model.
        shadow: Its shadow, as the model is now.
        arguments: The call.
        tensors: The tensors and sources of the call.
        device: Device of the shadow's tensors.
        known: Traces of such calls; the likeliest in front.

    Raises:
        TracingError: The model cannot be traced, or keeps a tensor from one call to the next.
    """
    traces = [traced.trace for traced in known]
    trace = guard_call(model, shadow, arguments.args, arguments.kwargs, tensors, traces)
    for traced in known:
        if traced.trace is trace:
            return traced
    return TracedModel(type(model).__name__, trace, lower(trace), arguments, device, object())


def is_in_state(traced: TracedModel, model: nn.Module) -> bool:
    """Whether a model is in the state that it was traced in."""
    return traced.state is not None and model_state(model) == traced.state


def resize(traced: TracedModel, arguments: CallArguments, device: torch.device | None = None) -> TracedModel | None:
    """What tracing the model would give, in the state it was traced in; None if that takes another trace.

    It does where the code depends on the sizes in any way, and where the call differs in more than sizes.
    """
    if device != traced.device or arguments.without_sizes() != traced.arguments.without_sizes():
        return None
    trace = replay_trace(traced.trace, tuple(arguments.specs()))
    if trace is None:
        return None
    return dataclasses.replace(traced, trace=trace, graph=lower(trace, traced.graph), arguments=arguments)


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
