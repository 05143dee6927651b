"""Clusters: a value with the cheap pointwise operations on it.

A cheap operation that reads the same position (ReLU, BatchNorm) is run again on carried samples rather than carried
itself: it belongs to the *cluster* of the value it starts from, the cluster's root, and has the root's frontier.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from streamplan.analysis.regions import StreamedEdge, StreamedPart
from streamplan.geometry import IDENTITY


@dataclass(frozen=True)
class Clusters:
    """Values grouped with the cheap pointwise operations on them."""

    root: Mapping[str, str]
    """Root of every value's cluster; a value computed by anything else is its own root."""

    def is_inside(self, edge: StreamedEdge) -> bool:
        """Whether a read stays within one cluster: it reads all that is at hand."""
        return self.root[edge.reader] == self.root[edge.source] and self.root[edge.reader] != edge.reader

    def reads_between(self, part: StreamedPart) -> dict[str, list[StreamedEdge]]:
        """The reads of every root that is computed, those inside clusters left out."""
        reads: dict[str, list[StreamedEdge]] = {}
        for edge in part.edges:
            if not self.is_inside(edge):
                reads.setdefault(edge.reader, []).append(edge)
        return reads


def find_clusters(part: StreamedPart, cheap: frozenset[str]) -> Clusters:
    """Group values; `cheap` names the calls without arithmetic to speak of."""
    root = {name: name for name in part.input_maps}
    for name in part.order:
        (first, *others) = part.reads[name]
        # Padding or cropping behind the last position has the identity's pull, but other extents.
        same_extents = part.extents[name] == part.extents[first.source]
        same_position = same_extents and not others and all(axis_map == IDENTITY for axis_map in first.axis_maps)
        root[name] = root[first.source] if same_position and name in cheap else name
    return Clusters(root)
