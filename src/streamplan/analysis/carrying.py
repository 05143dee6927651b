"""The schedule with carried halos: every streamed value is computed once, in steps that the image drives.

One axis at a time. After step i value v exists up to its frontier E_v(i); the step computes the new block
[E_v(i-1), E_v(i)) and nothing else, and finds [K_v(i-1), E_v(i-1)) carried over from the step before:

    conv k3 p1 on 8 samples, two steps of 4:   step 1 computes [0, 3) from [0, 4), carries [2, 4) of its input
                                               step 2 computes [3, 8) from [2, 8)

    E_v(i)  the longest prefix computable from what exists after step i
    K_v(i)  the first position that any later step reads, or E_v(i) if none reads back

When the image has ended, all that is left could be computed at once: borders need no further samples. In a deep net
that is a large last step. Steps without new samples, whose boundaries repeat the extent, spread it: up to the last one
every value advances as if the image went on.
"""

from __future__ import annotations

from dataclasses import dataclass

from streamplan.analysis.carried_axis import CarriedAxis
from streamplan.analysis.clusters import Clusters
from streamplan.analysis.frontiers import Frontiers, find_frontiers
from streamplan.analysis.regions import AxisStep, EdgeKey, StreamedPart, read_region
from streamplan.analysis.schedule import AxisSchedule
from streamplan.geometry import AxisRead, Interval

Blocks = dict[str, Interval]
"""Positions of every root."""
Reads = dict[EdgeKey, AxisRead]
"""What each edge between clusters reads in one step."""
KnownReads = dict[tuple[Interval, ...], Reads]
"""The same by the blocks of the step."""
_EMPTY = AxisRead(Interval(0, 0), before=0, after=0)


def schedule_carried_axis(
    axis: CarriedAxis, boundaries: tuple[int, ...], known: KnownReads | None = None
) -> AxisSchedule:
    """The steps that follow when the image arrives in the given pieces.

    Args:
        axis: The axis.
        boundaries: Positions of the first input map that end each step, from 0 to its extent; the extent again for
            every further step that computes what is left.
        known: Reads of steps that other schedules of the axis have left, and where to leave those of this one.
    """
    known = {} if known is None else known
    frontiers = find_frontiers(axis, boundaries)
    num_steps = len(boundaries) - 1
    blocks = [_new_blocks(frontiers, step) for step in range(1, num_steps + 1)]
    reads = []
    for new in blocks:
        key = tuple(new.values())
        if key not in known:
            known[key] = _reads(axis, new)
        reads.append(known[key])
    carries = _carries(axis, frontiers, reads)
    steps = (_axis_step(axis, blocks[i], reads[i], carries[i], carries[i + 1]) for i in range(num_steps))
    return AxisSchedule(boundaries, tuple(steps))


def _new_blocks(frontiers: Frontiers, step: int) -> Blocks:
    """What a step computes anew; steps count from 1."""
    return {name: Interval(stops[step - 1], stops[step]) for name, stops in frontiers.items()}


def _reads(axis: CarriedAxis, new: Blocks) -> Reads:
    """What the new blocks of one step read, for edges between clusters."""
    reads: Reads = {}
    for name, windows in axis.windows.items():
        block = new[name]
        for window in windows:
            read = _EMPTY if block.is_empty else read_region(window.axis_map, block, window.extent)
            for key in window.keys:
                reads[key] = read
    return reads


def _carries(axis: CarriedAxis, frontiers: Frontiers, reads: list[Reads]) -> list[Blocks]:
    """[K_v(i), E_v(i)) of every root, for i = 0 to the last step; the image is read directly and carries nothing."""
    root = axis.clusters.root
    first_read = {name: stops[-1] for name, stops in frontiers.items()}
    carries: list[Blocks] = []
    for step in range(len(reads), -1, -1):
        carries.append({n: Interval(min(first_read[n], stops[step]), stops[step]) for n, stops in frontiers.items()})
        if step > 0:
            for (_, source), read in reads[step - 1].items():
                span = read.span
                if span.start < first_read[root[source]] and not span.is_empty:
                    first_read[root[source]] = span.start
    carries.reverse()
    return carries


def _axis_step(axis: CarriedAxis, new: Blocks, reads: Reads, carried_in: Blocks, carried_out: Blocks) -> AxisStep:
    """One step in the form the runtime reads."""
    part, root = axis.part, axis.clusters.root
    at_hand = {name: Interval(carried_in[name].start, block.stop) for name, block in new.items()}
    regions = {name: at_hand[root[name]] for name in (*part.input_maps, *part.order)}
    inside = {edge.key: AxisRead(regions[edge.source], before=0, after=0) for edge in axis.inside}
    return AxisStep(
        blocks={name: new[root[name]] for name in part.frontier},
        regions=regions,
        reads={**reads, **inside},
        computed={**regions, **new},
        carried_in={name: carried_in[name] for name in axis.windows},
        carried_out={name: carried_out[name] for name in axis.windows},
    )


@dataclass(frozen=True)
class Carrying:
    """What the program of a tile must do about carried halos."""

    whole_reads: frozenset[EdgeKey]
    """Reads of all that is at hand of a value."""
    carried: frozenset[str]
    """Values of which some step hands samples on."""
    sometimes_empty: frozenset[str]
    """Values of which some tile computes nothing."""


def find_carrying(part: StreamedPart, clusters: Clusters, schedules: tuple[AxisSchedule, ...]) -> Carrying:
    """Collect what schedules of all axes have in common."""
    steps = [step for schedule in schedules for step in schedule.steps]
    return Carrying(
        whole_reads=frozenset(edge.key for edge in part.edges if clusters.is_inside(edge)),
        carried=frozenset(name for step in steps for name, out in step.carried_out.items() if not out.is_empty),
        sometimes_empty=frozenset(name for step in steps for name in part.order if step.computed[name].is_empty),
    )
