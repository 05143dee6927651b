"""The traces a streamed module keeps, so that a call need not be traced.

A trace serves every call in which the model's code does the same. Which one serves a call is found out in one of two
ways: by running the code once more, on tensors without data (`of_call`), or by comparing the state of the model with
the state it was traced in (`of_state`). Another size is served by a trace of an earlier one, if it can be replayed.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from streamplan.planning import TracedModel, resize, trace_and_lower
from streamplan.planning.arguments import CallArguments
from streamplan.planning.model import guard_and_lower, is_in_state
from streamplan.trace.guard.shadow import Shadow, make_shadow
from streamplan.trace.replay.sizes import switches

_MAX_TRACES = 4
"""Traces kept that other sizes are replayed from; each may have to be tried before a size is traced anew."""
_MAX_CALLS = 32
"""Kinds of calls whose traces are kept, and traces kept of each; the one not used for longest is dropped."""


class TraceCache:
    """Traces of one model."""

    def __init__(self) -> None:
        self._latest: list[TracedModel] = []
        """The one used last in front."""
        self._of_calls: OrderedDict[Any, list[TracedModel]] = OrderedDict()
        self._shadow: Shadow | None = None

    def of_state(self, model: nn.Module, arguments: CallArguments, device: torch.device | None) -> TracedModel:
        """The model at the sizes of a call, from a trace of the state it is in or from a new one.

        Raises:
            ModelTypeError, TracingError: The model cannot be traced.
        """
        traces = self._of(arguments, device)
        known = next((traced for traced in traces if is_in_state(traced, model)), None)
        if known is None:
            fitting = (traced for traced in self._latest if is_in_state(traced, model))
            resized = (resize(traced, arguments, device) for traced in fitting)
            known = next((traced for traced in resized if traced is not None), None)
        return self._keep(traces, known or trace_and_lower(model, arguments, device))

    def of_call(
        self,
        model: nn.Module,
        arguments: CallArguments,
        tensors: Sequence[Any],
        device: torch.device | None,
    ) -> TracedModel:
        """The model as its code, run once for this call, says.

        Args:
            model: The model.
            arguments: The call.
            tensors: The tensors and sources of the call.
            device: Device to trace for; None takes the model's own.

        Raises:
            TracingError: The model cannot be traced, or keeps a tensor from one call to the next.
        """
        traces = self._of(arguments, device)
        if not traces:
            resized = (resize(traced, arguments, device) for traced in self._latest)
            traces.extend(traced for traced in resized if traced is not None)
        shadow, self._shadow = self._shadow, None  # an error in the run leaves none behind
        if shadow is None or not shadow.is_current(model, device):
            shadow = make_shadow(model, device)
        traced = guard_and_lower(model, shadow, arguments, tensors, device, traces)
        self._shadow = shadow
        return self._keep(traces, traced)

    def _of(self, arguments: CallArguments, device: torch.device | None) -> list[TracedModel]:
        """Traces of such calls, the one used last in front."""
        key = arguments.key, device, switches()
        traces = self._of_calls.setdefault(key, [])
        self._of_calls.move_to_end(key)
        while len(self._of_calls) > _MAX_CALLS:
            self._of_calls.popitem(last=False)
        return traces

    def _keep(self, traces: list[TracedModel], used: TracedModel) -> TracedModel:
        """Put a trace in front."""
        traces[:] = [used, *(traced for traced in traces if traced is not used)][:_MAX_CALLS]
        self._latest = [used, *(traced for traced in self._latest if traced.origin is not used.origin)][:_MAX_TRACES]
        return used
