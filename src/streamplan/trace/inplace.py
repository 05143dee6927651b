"""In-place writes, expressed as data flow.

In: the traced graph, whose order of execution matters. Out: the same graph, in which whoever reads a tensor after it
was written in place reads the writing node instead, so that order no longer matters:

    y = conv(x); z = relu_(y); return y + z      becomes      y = conv(x); z = relu_(y); return z + z

It works where the call returns the very tensor it writes. It gives up on a write through part of a tensor (`x[:, :3]
+= 1`, `x[0] = y`) while other views of the memory are read later, on `out=`, and on writes to the model's own inputs,
parameters or buffers. Then the node that made the memory gets an `unsafe_write`, and later stages do not stream it.
"""

from __future__ import annotations

from torch import fx

from streamplan.trace.records import CallRecord, Extent


def functionalize(graph: fx.Graph, records: dict[fx.Node, CallRecord]) -> None:
    """Redirect reads after in-place writes, and mark what cannot be redirected.

    Args:
        graph: Traced graph; changed in place.
        records: What each node did; `unsafe_write` of the producers is set.
    """
    order = {node: index for index, node in enumerate(graph.nodes)}
    holders: dict[int, list[fx.Node]] = {}
    for node in graph.nodes:
        record = records[node]
        for extent in record.written:
            reason = _redirect(node, extent, records, holders[extent.storage], order)
            producer = records[holders[extent.storage][0]]
            if reason and not producer.unsafe_write:
                location = f" ({record.location})" if record.location else ""
                producer.unsafe_write = f"written in place by {node.name}{location}: {reason}"
        for storage in record.storages:
            holders.setdefault(storage, []).append(node)


def _redirect(
    writer: fx.Node,
    extent: Extent,
    records: dict[fx.Node, CallRecord],
    holders: list[fx.Node],
    order: dict[fx.Node, int],
) -> str:
    """Let later readers of a written tensor read the writer. Returns why that is not enough, or ""."""
    if "out" in writer.kwargs:
        return "the result goes to out="
    if not _is_tensor_node(records[writer]) or records[writer].extents != [extent]:
        return "the call does not return the tensor it writes"
    stale = ""
    for holder in holders:
        readers = [user for user in holder.users if order[user] > order[writer]]
        if readers and records[holder].extents == [extent] and _is_tensor_node(records[holder]):
            for reader in readers:
                reader.replace_input_with(holder, writer)
        elif readers:
            stale = f"{holder.name}, another view of the same memory, is read after it"
    origin = holders[0].op
    if origin == "placeholder":
        return "it belongs to the caller of the model"
    if origin == "get_attr":
        return "it belongs to the model"
    return stale


def _is_tensor_node(record: CallRecord) -> bool:
    return not isinstance(record.value, tuple | list | dict) and len(record.extents) == 1


def drop_unused_reads(graph: fx.Graph, needed: set[str]) -> None:
    """Erase items of tuples and attributes of the model that nobody reads.

    Args:
        graph: Traced graph; changed in place.
        needed: Names of nodes to keep all the same.
    """
    for node in reversed(list(graph.nodes)):
        is_item = node.op == "call_function" and getattr(node.target, "__name__", "") == "getitem"
        if (is_item or node.op == "get_attr") and not node.users and node.name not in needed:
            graph.erase_node(node)
