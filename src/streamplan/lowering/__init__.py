"""Lowering passes: the streamed part rewritten so that its tiles are cheaper and compute the same."""

from streamplan.lowering.folding import FoldedNorm
from streamplan.lowering.pipeline import LoweredPart, lower_part

__all__ = ["FoldedNorm", "LoweredPart", "lower_part"]
