"""The contract of every registered rule, on every operation, against the plain module alone.

- A streamed operation computes what the plain one computes, forward and backward, at any tile size.
- An output position reads nothing outside the region that its rule pulls: neither a value (NaN elsewhere does not
  reach it) nor a gradient.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from streamplan.analysis.regions import pull_regions
from streamplan.geometry import Interval
from streamplan.options import Options
from streamplan.planning import PreparedPlan, prepare_plan
from streamplan.planning.arguments import CallArguments
from streamplan.rules import registered_ops
from tests.planned import plan_only
from tests.rules.pointwise_examples import POINTWISE
from tests.rules.spellings import Example
from tests.rules.windowed_examples import WINDOWED
from tests.runtime.comparison import assert_near, assert_same_results, assert_streams_like_plain, run, tensors_of

EXAMPLES = (*WINDOWED, *POINTWISE)
pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")  # slower, but right
every_example = pytest.mark.parametrize("sample", EXAMPLES, ids=lambda sample: sample.id)


def prepare(sample: Example, model: nn.Module) -> PreparedPlan:
    return prepare_plan(model, CallArguments.of_tensors(sample.inputs()), Options(halo="recompute"))


def test_every_rule_has_an_example() -> None:
    assert {sample.op for sample in EXAMPLES} == set(registered_ops())


def test_examples_have_names_of_their_own() -> None:
    assert len({sample.id for sample in EXAMPLES}) == len(EXAMPLES)


@every_example
def test_streams_like_the_plain_module(sample: Example) -> None:
    model, inputs = sample.model(), sample.inputs()
    prepared = prepare(sample, model)
    streamed_ops = {prepared.graph[name].op for name in prepared.part.order}
    assert sample.op in streamed_ops
    assert prepared.plan.barriers == ()
    smallest = prepared.plan.smallest_tile_size
    whole = _image_extents(prepared)
    middle = tuple((low + max(low, high)) // 2 for low, high in zip(smallest, whole, strict=True))
    uneven = tuple(low if axis % 2 else high for axis, (low, high) in enumerate(zip(smallest, whole, strict=True)))
    for tile_size in dict.fromkeys((smallest, middle, tuple(map(max, uneven, smallest)))):
        assert_streams_like_plain(model, inputs, tile_size, rtol=1e-12, halo="recompute")
    thirds = tuple(-(-extent // 3) for extent in whole)
    assert_streams_like_plain(model, inputs, thirds, rtol=1e-12, halo="reuse")


def _image_extents(prepared: PreparedPlan) -> tuple[int, ...]:
    part = prepared.part
    return tuple(max(axis) for axis in zip(*(part.extents[name] for name in part.input_maps), strict=True))


@every_example
def test_the_smallest_tile_divides_the_map(sample: Example) -> None:
    prepared = prepare(sample, sample.model())
    part, smallest = prepared.part, prepared.plan.smallest_tile_size
    inputs = tuple(sample.inputs())
    plan = plan_only(sample.model(), tile_size=smallest, example_inputs=inputs, halo="recompute")
    for axis, low in enumerate(smallest):
        has_positions = all(part.extents[name][axis] > 1 for name in part.frontier)
        assert (plan.grid[axis] > 1) == has_positions or low >= _image_extents(prepared)[axis]


def _positions(prepared: PreparedPlan) -> Iterator[tuple[str, int, int, dict[str, Interval]]]:
    """Cut value, axis, position, and what the streamed part says it reads of each input map."""
    part = prepared.part
    for axis in range(part.num_axes):
        for name in part.frontier:
            for position in range(part.extents[name][axis]):
                step = pull_regions(part, axis, _blocks(prepared, name, axis, position))
                yield name, axis, position, {source: step.regions[source] for source in part.input_maps}


def _blocks(prepared: PreparedPlan, name: str, axis: int, position: int) -> dict[str, Interval]:
    """One position of one cut value; of each other one the same position or the last it has."""
    extents = prepared.part.extents
    last = {other: extents[other][axis] - 1 for other in prepared.part.frontier}
    start = {other: position if other == name else min(position, last[other]) for other in last}
    return {other: Interval(at, at + 1) for other, at in start.items()}


def _outputs_by_name(prepared: PreparedPlan, result: object) -> dict[str, Tensor]:
    return dict(zip(prepared.graph.outputs, tensors_of(result), strict=True))


@every_example
def test_reads_nothing_outside_its_region(sample: Example) -> None:
    model, inputs = sample.model(), sample.inputs()
    prepared = prepare(sample, model)
    dims = {name: spec.dims for name, spec in prepared.facts.maps.items()}
    leaves = [x.clone().requires_grad_() for x in inputs]
    outputs = _outputs_by_name(prepared, model(*leaves))
    generator = torch.Generator().manual_seed(3)
    for name, axis, position, regions in _positions(prepared):
        place = f"{name}[{position}] along axis {axis} reads {regions}"
        poisoned = [x.clone() for x in inputs]
        for x, source in zip(poisoned, prepared.part.input_maps, strict=True):
            dim = dims[source][axis]
            for index in set(range(x.shape[dim])) - set(range(regions[source].start, regions[source].stop)):
                x.select(dim, index).fill_(torch.nan)
        with torch.no_grad():
            seen = _outputs_by_name(prepared, model(*poisoned))[name].select(dims[name][axis], position)
        expected = outputs[name].detach().select(dims[name][axis], position)
        assert_near(seen, expected, place, 1e-12)  # NaN is far from everything
        if not outputs[name].requires_grad:
            continue
        picked = outputs[name].select(dims[name][axis], position)
        cotangent = torch.randn(picked.shape, generator=generator, dtype=torch.float64).to(picked.dtype)
        gradients = torch.autograd.grad(picked, leaves, cotangent, retain_graph=True, allow_unused=True)
        for gradient, source in zip(gradients, prepared.part.input_maps, strict=True):
            if gradient is not None:
                dim = dims[source][axis]
                touched = gradient.transpose(0, dim).flatten(1).abs().sum(1).nonzero().flatten().tolist()
                assert set(touched) <= set(range(regions[source].start, regions[source].stop)), place


def test_a_wrong_result_is_noticed() -> None:
    sample = WINDOWED[0]
    model, inputs = sample.model(), sample.inputs()
    expected = run(model, model, inputs)
    off = {name: None if value is None else value + 1e-9 for name, value in expected.items()}
    with pytest.raises(AssertionError, match="output 0: error"):
        assert_same_results(off, expected, 1e-12)
