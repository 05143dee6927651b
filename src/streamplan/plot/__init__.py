"""Pictures of plans: what they cost, where the memory goes, how the image is divided, and how far a cut sees.

    save_pareto_front   memory against time of the plans that no other one beats
    save_memory         memory of a training step, phase by phase, projected and measured
    save_tiles          the image and its tiles, one of them with its halo
    save_depth          receptive field, halo and map size of every cut

Each `save_*` writes a PNG; the `draw_*` beside it returns the matplotlib `Figure`. Nothing is shown, and the state of
pyplot is not touched. Needs matplotlib: `pip install 'streamplan[plot]'`.
"""

from streamplan.plot.refusals import NoMatplotlibError, NotDrawableError

try:
    import matplotlib as _matplotlib  # noqa: F401 - said in one place that it is an extra
except ImportError as error:
    raise NoMatplotlibError(
        f"pictures cannot be drawn: {error}",
        why="they are drawn by matplotlib, which is not a dependency of streamplan alone",
        do="pip install 'streamplan[plot]'",
    ) from error

from streamplan.plot.depth import draw_depth, save_depth
from streamplan.plot.front import draw_pareto_front, save_pareto_front
from streamplan.plot.measured import MeasuredMemory, MeasuredPhase, measure_memory
from streamplan.plot.memory import draw_memory, save_memory
from streamplan.plot.tiles import draw_tiles, save_tiles

__all__ = [
    "MeasuredMemory",
    "MeasuredPhase",
    "NoMatplotlibError",
    "NotDrawableError",
    "draw_depth",
    "draw_memory",
    "draw_pareto_front",
    "draw_tiles",
    "measure_memory",
    "save_depth",
    "save_memory",
    "save_pareto_front",
    "save_tiles",
]
