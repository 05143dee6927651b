"""Lowering passes: the streamed part rewritten so that its tiles are cheaper and compute the same."""

from streamplan.planning.passes.draws import find_draw
from streamplan.planning.passes.folding import FoldedNorm
from streamplan.planning.passes.narrowing import find_narrowed
from streamplan.planning.passes.pipeline import LoweredPart, lower_part

__all__ = ["FoldedNorm", "LoweredPart", "find_draw", "find_narrowed", "lower_part"]
