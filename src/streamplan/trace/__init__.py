"""Front end: from an `nn.Module` to a graph of canonical operations."""

from streamplan.trace.facts import NodeFact, Trace
from streamplan.trace.model import trace_model

__all__ = ["NodeFact", "Trace", "trace_model"]
