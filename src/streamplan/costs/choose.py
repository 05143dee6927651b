"""Two dual questions: the fastest plan within a memory budget, and the least memory within a slowdown.

    candidates -> estimates from shapes -> Pareto front, fastest first -> the first whose exact projection fits

The front does not depend on the budget. So a larger budget never gives a slower plan, and the least budget that is
feasible is the least exact projection on it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import nn

from streamplan.analysis.cuts import Cut, cut_at
from streamplan.costs.budget import Budget, free_budget
from streamplan.costs.calibration import Calibration
from streamplan.costs.candidates import Candidate, candidates, telling_cuts, tile_sizes
from streamplan.costs.circumstances import circumstances_of, count_optimizer_bytes
from streamplan.costs.estimator import Estimate, Estimator, rounded
from streamplan.costs.front import FrontPoint, pareto_front
from streamplan.costs.phases import Circumstances, least_step_bytes, project_step
from streamplan.costs.step import StepSimulator
from streamplan.costs.times import Clock
from streamplan.errors import InfeasibleBudgetError, StreamPlanError, TileSizeError
from streamplan.options import Options
from streamplan.planning import PreparedPlan, TracedModel, prepare_plan
from streamplan.planning.arguments import CallArguments
from streamplan.planning.projection import MemoryProjection
from streamplan.planning.text import format_bytes
from streamplan.trace.skeleton import meta_skeleton

_SURE = 0.6
"""An exact projection is never less than this share of the estimate without kept tiles, which may be small ones."""


@dataclass(frozen=True)
class Question:
    """A model, a call, and what the user left open."""

    model: nn.Module
    arguments: CallArguments
    options: Options
    device: torch.device
    traced: TracedModel
    calibration: Calibration


class Search:
    """Candidates of a question; estimates and exact projections of them, each made once.

    Args:
        question: The question.
        known: A plan of the same model and call that is there already.
    """

    def __init__(self, question: Question, known: PreparedPlan | None = None) -> None:
        self.question, self._known = question, known
        self._simulators: dict[tuple[tuple[str, ...], tuple[int, ...], str], StepSimulator | None] = {}
        self._prepared: dict[Options, PreparedPlan] = {}

    def know(self, prepared: PreparedPlan) -> None:
        """There is a plan of the same model and call, which may serve to estimate from."""
        self._known = self._known or prepared

    @cached_property
    def reference(self) -> PreparedPlan:
        """A plan with carried halos and the latest cut that can be streamed; candidates are estimated from it."""
        known, options = self._known, replace(self.question.options.settled(), halo="reuse")
        if known is not None and known.carrying is not None and known.cut == known.cuts[-1]:
            return known
        try:
            return self.prepare(replace(options, cut="latest"))
        except StreamPlanError:
            return self.prepare(options)

    def prepare(self, options: Options) -> PreparedPlan:
        """The plan that options make; where carried samples wait and how many tiles are kept is only noted in it."""
        options, question = options.settled(), self.question
        key = replace(options, carries=None, keep_tiles=None)
        if key not in self._prepared:
            self._prepared[key] = prepare_plan(
                question.model, question.arguments, options, question.device, traced=question.traced
            )
        found = self._prepared[key]
        assert options.carries is not None
        assert options.keep_tiles is not None
        return replace(found, plan=replace(found.plan, carries=options.carries, keep_tiles=options.keep_tiles))

    @cached_property
    def estimator(self) -> Estimator:
        """Estimates candidates."""
        reference = self.reference
        is_last = "channels_last" in reference.lowered.passes
        clock = Clock(self.question.calibration, ((reference.lowered.graph, is_last), (reference.graph, False)))
        return Estimator(reference, self.simulator(reference), clock)

    def simulator(self, prepared: PreparedPlan) -> StepSimulator:
        """The parts of a plan, to be run without data."""
        key = (prepared.cut.frontier, prepared.plan.tile_size, prepared.plan.halo)
        found = self._simulators.get(key)
        if found is None:
            found = StepSimulator(self.skeleton, prepared, self.question.calibration.reserve)
            self._simulators[key] = found
        return found

    @cached_property
    def skeleton(self) -> nn.Module:
        """The model without its data."""
        return meta_skeleton(self.question.model)

    @cached_property
    def optimizer_bytes(self) -> int:
        """State that the optimiser keeps."""
        return count_optimizer_bytes(self.question.options, self.question.model)

    @cached_property
    def front(self) -> tuple[FrontPoint, ...]:
        """The candidates that no other one beats, fastest first."""
        return pareto_front(self._points())

    def _points(self) -> Iterator[FrontPoint]:
        reference, options = self.reference, self.question.options
        extents = self.estimator.image_extents
        if options.cut_names:
            cuts: tuple[Cut, ...] = (cut_at(reference.graph, reference.facts, options.cut_names),)
        else:
            found = reference.cuts
            cuts = telling_cuts(found, [reference.facts.maps[cut.frontier[-1]].extents for cut in found])
        along_axes = zip(*reference.part.extents.values(), strict=True)
        least = [extent // min(along) for extent, along in zip(extents, along_axes, strict=True)]
        sizes = (reference.plan.tile_size,) if options.tile_size is not None else tile_sizes(extents, least)
        for candidate in candidates(options, cuts, sizes, self.question.device.type):
            tiling = self.estimator.tiling(candidate.cut, candidate.tile_size, candidate.halo)
            if tiling is not None:
                estimate = self.estimator.estimate(candidate.cut, tiling, self._circumstances(candidate))
                yield FrontPoint(candidate, estimate)

    def options_of(self, candidate: Candidate) -> Options:
        """The options that make a candidate's plan."""
        is_latest = candidate.cut.frontier == self.reference.cuts[-1].frontier
        cut = self.question.options.cut if self.question.options.cut_names or is_latest else candidate.cut.frontier
        return replace(
            self.question.options,
            cut=cut,
            tile_size=candidate.tile_size,
            halo=candidate.halo,  # type: ignore[arg-type]
            keep_tiles=candidate.keep_tiles,
            carries=candidate.carries,  # type: ignore[arg-type]
            memory_budget=None,
            max_slowdown=None,
        )

    def project(self, candidate: Candidate, most: int | None = None) -> MemoryProjection | None:
        """The exact projection of a candidate.

        Args:
            candidate: The candidate.
            most: Bytes beyond which it is of no use.

        Returns:
            The projection; None if the candidate's tiles are not possible, or if it takes more memory than is of use.
        """
        key = (candidate.cut.frontier, candidate.tile_size, candidate.halo)
        if key not in self._simulators:
            try:
                self.simulator(self.prepare(self.options_of(candidate)))
            except TileSizeError:
                self._simulators[key] = None
        simulator, around = self._simulators[key], self._circumstances(candidate)
        if simulator is None or (most is not None and least_step_bytes(simulator, around) > most):
            return None
        projected = project_step(simulator, around)
        return projected if most is None or projected.peak_bytes <= most else None

    def _circumstances(self, candidate: Candidate) -> Circumstances:
        options = self.question.options
        return circumstances_of(options, self.optimizer_bytes, candidate.keep_tiles, candidate.carries)

    def ratio(self, estimate: Estimate) -> float:
        """Estimated time over that of the plain net."""
        plain = self.estimator.plain_time
        return rounded(estimate.time / plain) if plain else 1.0

    def within_budget(self, num_bytes: int, source: str) -> FrontPoint:
        """The fastest candidate that fits.

        Raises:
            InfeasibleBudgetError: None does.
        """
        for point in self.front:
            if least_bytes(point) <= num_bytes and self.project(point.candidate, num_bytes) is not None:
                return point
        smallest = self._smallest(self.front)
        if smallest is not None and smallest[1].peak_bytes <= num_bytes:  # its estimate was far too large
            return smallest[0]
        raise _infeasible(num_bytes, source, smallest, self.reference.cuts[-1])

    def _smallest(self, points: Sequence[FrontPoint]) -> tuple[FrontPoint, MemoryProjection] | None:
        """The one with the least exact projection; of equals the fastest."""
        best: tuple[FrontPoint, MemoryProjection] | None = None
        for point in reversed(points):
            most = None if best is None else best[1].peak_bytes
            if most is None or least_bytes(point) <= most:
                projected = self.project(point.candidate, most)
                best = best if projected is None else (point, projected)
        return best

    def within_slowdown(self, factor: float) -> FrontPoint:
        """The candidate with the least memory that is fast enough.

        Raises:
            InfeasibleBudgetError: None is.
        """
        smallest = self._smallest([point for point in self.front if self.ratio(point.estimate) <= factor])
        if smallest is not None:
            return smallest[0]
        fastest = self.ratio(self.front[0].estimate)
        raise InfeasibleBudgetError(
            f"no plan is within {factor:g}x of the plain net's time",
            why=f"the fastest is estimated at {fastest:.2f}x",
            do=f"pass max_slowdown={fastest + 0.005:.2f} or more",
        )


def choose_options(search: Search) -> tuple[Options, Budget | None]:
    """Options with nothing left open, and the budget they were chosen for.

    Raises:
        InfeasibleBudgetError: No plan is small or fast enough.
    """
    options = search.question.options
    if options.max_slowdown is not None and options.memory_budget is None:
        return search.options_of(search.within_slowdown(options.max_slowdown).candidate), None
    if options.memory_budget is not None:
        budget: Budget | None = Budget(options.memory_budget, "")
    elif options.tile_size is None:
        budget = free_budget(search.question.device)
    else:
        return options.settled(), None
    if budget is None:
        return options.settled(), None
    point = search.within_budget(budget.num_bytes, budget.source)
    ratio = search.ratio(point.estimate)
    if options.max_slowdown is not None and ratio > options.max_slowdown:
        raise InfeasibleBudgetError(
            f"no plan that takes {format_bytes(budget.num_bytes)} is within {options.max_slowdown:g}x of plain",
            why=f"the fastest that fits is estimated at {ratio:.2f}x",
            do=f"pass a larger memory_budget, or max_slowdown={ratio + 0.005:.2f}",
        )
    return search.options_of(point.candidate), budget


def least_bytes(point: FrontPoint) -> float:
    """What a candidate takes at least."""
    return _SURE * point.estimate.bytes_without_kept


def _infeasible(
    num_bytes: int, source: str, smallest: tuple[FrontPoint, MemoryProjection] | None, latest: Cut
) -> InfeasibleBudgetError:
    """With the least feasible budget, what sets it and what would help."""
    what = f"no plan fits into {format_bytes(num_bytes)}{f' ({source})' if source else ''}"
    if smallest is None:
        return InfeasibleBudgetError(what, why="no candidate has tiles that can be had", do="pass a tile size")
    point, projection = smallest
    least = projection.peak_bytes
    phase = projection.peak
    size, cut = " x ".join(map(str, point.candidate.tile_size)), ", ".join(point.candidate.cut.frontier)
    items = ", ".join(f"{item.what} {format_bytes(item.num_bytes)}" for item in phase.items[:3])
    operation = f", at {phase.operation}" if phase.operation else ""
    return InfeasibleBudgetError(
        what,
        where=f"{phase.phase} phase of the smallest plan: tiles of {size}, cut at {cut}",
        why=f"it takes {least} bytes ({format_bytes(least)}){operation}: {items}",
        do=f"pass memory_budget={least} or more{_help(phase.items[0].what, point.candidate.cut, latest)}",
        least_budget=least,
    )


_HELPS = {
    "image": "; a Source in the place of the tensor keeps the image out of memory",
    "cut": "; another cut has a smaller map",
    "gradient of the cut": "; another cut has a smaller map",
    "parameters": "; the net itself is most of it",
    "optimiser state": "; the optimiser is most of it",
    "carried samples": '; halo="recompute" carries none',
}


def _help(what: str, cut: Cut, latest: Cut) -> str:
    """What makes the largest item smaller."""
    if what == "resident part":
        is_latest = cut.frontier == latest.frontier
        return "; no more of it can be streamed" if is_latest else "; a later cut leaves less to the resident part"
    return _HELPS.get(what, "")
