"""Why well-known operations are not local, in words a report can print."""

from __future__ import annotations

_STATISTICS = "it needs statistics of the whole map"
_MIXES = "it mixes positions of the map, so its output may read the whole map"

REASONS: dict[str, str] = {
    "instance_norm": _STATISTICS,
    "group_norm": _STATISTICS,
    "scaled_dot_product_attention": "attention reads every position",
    "multi_head_attention": "attention reads every position",
    "matmul": _MIXES,
    "unfold": _MIXES,
    "grid_sample": "it reads positions that only the data determine",
}
"""Canonical operation to the reason it is GLOBAL."""
