"""Cases for one GPU: whole nets in bfloat16 and channels-last order, as they are trained there.

The larger images are bytes in host memory, of which streamed methods send regions, and which others do not fit.
"""

from __future__ import annotations

from benchmarks.cases import RESNET_CHECKS, Case, runs

GPU_VARIANTS = ("plain", "checkpoint", "reuse", "reuse-graphs")
"""What is run unless variants are named; a case leaves out what does not fit it."""

GPU_CASES = {
    case.name: case
    for case in (
        Case(
            "resnet50-4096",
            "resnet50",
            runs(4096, reuse=(1024, 4096)),
            RESNET_CHECKS,
            is_autocast=True,
            is_channels_last=True,
        ),
        Case(
            "resnet50-16384",
            "resnet50",
            runs(16384, plain=False, reuse=(2048, 8192)),
            RESNET_CHECKS,
            is_autocast=True,
            is_channels_last=True,
            has_host_bytes=True,
        ),
        Case(
            "resnet50-32768",
            "resnet50",
            runs(32768, plain=False, reuse=(2048, 8192)),
            RESNET_CHECKS,
            is_autocast=True,
            is_channels_last=True,
            has_host_bytes=True,
        ),
    )
}
"""By name."""
