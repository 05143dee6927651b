"""Front end: from an `nn.Module` to a graph of canonical operations."""

from streamplan.frontend.facts import NodeFact, Trace
from streamplan.frontend.trace import trace_model

__all__ = ["NodeFact", "Trace", "trace_model"]
