"""The intermediate representation: a frozen graph of op calls in canonical form."""

from streamplan.ir.graph import (
    INPUT,
    Argument,
    AttributeRef,
    Graph,
    OpCall,
    SourceLocation,
    TensorSpec,
    ValueRef,
    references,
)
from streamplan.ir.printable import escaped

__all__ = [
    "INPUT",
    "Argument",
    "AttributeRef",
    "Graph",
    "OpCall",
    "SourceLocation",
    "TensorSpec",
    "ValueRef",
    "escaped",
    "references",
]
