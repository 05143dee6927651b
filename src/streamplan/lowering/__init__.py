"""Lowering passes: the streamed part rewritten so that its tiles are cheaper and compute the same."""

from streamplan.lowering.draws import find_draw
from streamplan.lowering.folding import FoldedNorm
from streamplan.lowering.narrowing import find_narrowed
from streamplan.lowering.pipeline import LoweredPart, lower_part

__all__ = ["FoldedNorm", "LoweredPart", "find_draw", "find_narrowed", "lower_part"]
