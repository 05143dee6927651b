"""The traces a streamed module keeps, so that another image size need not be traced.

A trace serves every size for which the model's code does the same. The last few are kept: a net that does one thing for
small images and another for large ones needs two.
"""

from __future__ import annotations

import torch
from torch import nn

from streamplan.planning import TracedModel, resize, trace_and_lower
from streamplan.planning.arguments import CallArguments

_MAX_TRACES = 4
"""Traces kept; each may have to be tried before a size is traced anew."""


class TraceCache:
    """Traces of one model, the one used last in front."""

    def __init__(self) -> None:
        self._traces: list[TracedModel] = []

    def traced(self, model: nn.Module, arguments: CallArguments, device: torch.device | None) -> TracedModel:
        """The model at the sizes of a call, from a trace that serves them or from a new one.

        Raises:
            ModelTypeError, TracingError: The model cannot be traced.
        """
        for index, kept in enumerate(self._traces):
            resized = resize(kept, model, arguments, device)
            if resized is not None:
                self._traces.insert(0, self._traces.pop(index))
                return resized
        fresh = trace_and_lower(model, arguments, device)
        self._traces = [fresh, *self._traces[: _MAX_TRACES - 1]]
        return fresh
