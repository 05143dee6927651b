"""Images and maps that live in arrays: read and written by regions, never as a whole."""

from streamplan.images.differentiated import DifferentiatedSource, gradient_target
from streamplan.images.overlap import check_apart
from streamplan.images.slides import open_slide
from streamplan.images.source import Source, in_net_order, target_for
from streamplan.images.whole import whole_tensor

__all__ = [
    "DifferentiatedSource",
    "Source",
    "check_apart",
    "gradient_target",
    "in_net_order",
    "open_slide",
    "target_for",
    "whole_tensor",
]
