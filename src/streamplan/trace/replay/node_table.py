"""The nodes of a running trace: the graph, and what each of its nodes evaluated to.

Nodes are added after they were executed, each with a `CallRecord` of its fake value, its memory and its place. The
table answers what later nodes ask of earlier ones: their values, whether a gradient flows through them, which of them
made a given aten call.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Any

from torch import fx
from torch.fx.node import map_arg

from streamplan.ir import SourceLocation
from streamplan.trace.facts import tensors_in
from streamplan.trace.records import CallRecord, Extent, StorageTable


class NodeTable:
    """Graph and records of one trace."""

    def __init__(self) -> None:
        self.graph = fx.Graph()
        self.records: dict[fx.Node, CallRecord] = {}
        self._storages = StorageTable()
        self._owned_storages: set[int] = set()
        self._spans: list[tuple[int, fx.Node | None]] = []

    def keep(
        self,
        node: fx.Node,
        value: Any,
        module: tuple[str, str],
        location: SourceLocation | None = None,
        written: list[Extent] | None = None,
    ) -> CallRecord:
        """Write down what a node evaluated to.

        Args:
            node: Node of the graph.
            value: Its fake value.
            module: Path and class name of the innermost module.
            location: Line of the user's code.
            written: Tensors alive before that it wrote.

        Returns:
            The node's record.
        """
        record = CallRecord(value, location, *module, written=written or [])
        record.note_storages(self._storages, is_call=node.op not in ("placeholder", "get_attr"))
        inputs = [self.records[source] for source in node.all_input_nodes]
        record.is_activation = any(source.is_activation for source in inputs)
        differentiable = any(tensor.is_floating_point() or tensor.is_complex() for tensor in tensors_in(value))
        record.carries_gradient = differentiable and any(source.carries_gradient for source in inputs)
        if node.op == "get_attr":
            self._owned_storages.update(record.storages)
        self.records[node] = record
        return record

    def evaluate(self, argument: Any) -> Any:
        """Replace the nodes in a node argument by the fake values they evaluated to."""
        return map_arg(argument, lambda node: self.records[node].value)

    def known_extents(self, tensors: list[Any], kind: str) -> list[Extent]:
        """Extents of those tensors that outlive the call that wrote them.

        What a leaf module (`kind` is call_module) does to the model's own tensors is its own affair.
        """
        extents = [self._storages.extent(tensor) for tensor in tensors if self._storages.knows(tensor)]
        if kind == "call_module":
            extents = [extent for extent in extents if extent.storage not in self._owned_storages]
        return list(dict.fromkeys(extents))

    def note_span(self, first_call: int, node: fx.Node | None) -> None:
        """The aten calls from this index on belong to a node, or to a call that left none."""
        self._spans.append((first_call, node))

    def node_of_call(self, index: int) -> fx.Node | None:
        """Node whose execution made the aten call of this index."""
        position = bisect_right(self._spans, index, key=lambda span: span[0]) - 1
        return self._spans[position][1] if position >= 0 else None

    def gradient_enters(self, node: fx.Node) -> bool:
        """Whether a gradient would flow from a node to one of the nodes it reads."""
        return any(self.records[source].carries_gradient for source in node.all_input_nodes)
