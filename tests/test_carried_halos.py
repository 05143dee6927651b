"""Carried halos: the plain net's outputs and gradients, and every position of every value computed once per pass."""

from __future__ import annotations

from collections import Counter
from itertools import product

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import streamplan
from streamplan.errors import NothingToStreamError
from streamplan.options import Options
from streamplan.planning import prepare_plan
from streamplan.planning.arguments import CallArguments
from tests.draws import draw_until, num_examples
from tests.nets.densenet import densenet121
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear
from tests.planned import plan_only
from tests.runtime.comparison import assert_same_results, run, run_plain
from tests.strategies import ALL, Recipe, nets

_MOST_STEPS = {1: 9, 2: 4, 3: 2}
"""Steps along each axis, by number of axes."""


def draw_tile_size(recipe: Recipe, data: st.DataObject) -> tuple[int, ...]:
    steps = [data.draw(st.integers(1, min(extent, _MOST_STEPS[recipe.ndim]))) for extent in recipe.extents]
    return tuple(-(-extent // count) for extent, count in zip(recipe.extents, steps, strict=True))


@pytest.mark.parametrize("family", ALL)
def test_random_nets_are_exact(family: str) -> None:
    tiles: list[int] = []

    @settings(max_examples=num_examples(14), phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
    @given(nets((family,)), st.data())
    def stream(recipe: Recipe, data: st.DataObject) -> None:
        tiles.append(compare(recipe, data))

    draw_until(stream, lambda: sum(count > 1 for count in tiles) >= max(1, num_examples(14) // 3))


@pytest.mark.fuzz
@given(nets(), st.data())
def test_fuzz(recipe: Recipe, data: st.DataObject) -> None:
    compare(recipe, data)


def compare(recipe: Recipe, data: st.DataObject) -> int:
    """Compare one random net with itself streamed; returns the number of tiles, 0 if nothing of it is local."""
    model, inputs = recipe.build(), [recipe.draw_input()]
    size = draw_tile_size(recipe, data)
    try:
        streamed = streamplan.compile(model, recipe.input_size, size, halo="reuse", dtype=torch.float64)
    except NothingToStreamError:
        return 0
    assert_same_results(run(streamed, model, inputs), run_plain(model, inputs), 1e-10, f"tile size {size}")
    return streamed._plan.num_tiles


@settings(max_examples=num_examples(40), phases=(Phase.generate,), suppress_health_check=[HealthCheck.too_slow])
@given(nets(), st.data())
def test_every_position_is_computed_once(recipe: Recipe, data: st.DataObject) -> None:
    """Counted tile by tile; cheap pointwise operations are run again on carried samples and are not counted."""
    model = recipe.build()
    arguments = CallArguments.of_size(recipe.input_size, torch.float64)
    options = Options(tile_size=draw_tile_size(recipe, data), halo="reuse")
    try:
        prepared = prepare_plan(model, arguments, options)
    except NothingToStreamError:
        return
    roots = set(prepared.schedules[0].steps[0].carried_in)
    for name in prepared.part.order:
        if name not in roots:
            continue
        counts: Counter[tuple[int, ...]] = Counter()
        for steps in product(*(schedule.steps for schedule in prepared.schedules)):
            counts.update(product(*(range(s.computed[name].start, s.computed[name].stop) for s in steps)))
        assert set(counts.values()) <= {1}, name
        if name in prepared.part.frontier:
            assert set(counts) == set(product(*map(range, prepared.part.extents[name]))), name


@pytest.fixture
def chain() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 4, 3, stride=2, padding=1), nn.MaxPool2d(3, 2, 1)]
    return nn.Sequential(*layers).double()


SIZE = (2, 2, 29, 23)


def image() -> Tensor:
    return torch.randn(SIZE, dtype=torch.float64)


@pytest.mark.parametrize(
    ("model", "size", "tile_size"),
    [
        (resnet18(width=4), (2, 3, 149, 131), (50, 33)),
        pytest.param(densenet121(width=2), (1, 3, 97, 83), 32, marks=pytest.mark.more),
        (unet_bilinear(3, 2, 2), (1, 3, 61, 53), 24),
    ],
    ids=["resnet18", "densenet121", "unet"],
)
def test_nets(model: nn.Module, size: tuple[int, ...], tile_size: int | tuple[int, ...]) -> None:
    """Among them DenseNet-121, whose receptive field exceeds the image many times: no halo is computed twice."""
    plan = plan_only(randomize_(model, 0).eval(), size, tile_size, halo="reuse")
    assert plan.num_tiles >= 9
    assert plan.costs.computed_flops <= plan.costs.streamed_flops
    assert streamplan.verify(model, plan=plan).passed


def test_second_backward_through_one_forward(chain: nn.Module) -> None:
    """What was carried is used up by the first backward pass; the second makes it again."""
    streamed = streamplan.compile(chain, SIZE, 9, halo="reuse", dtype=torch.float64)
    x = image()
    loss = streamed(x).square().sum()
    loss.backward(retain_graph=True)
    loss.backward()
    found = [parameter.grad.clone() for parameter in chain.parameters()]
    chain.zero_grad()
    (2 * chain(x).square().sum()).backward()
    for gradient, parameter in zip(found, chain.parameters(), strict=True):
        torch.testing.assert_close(gradient, parameter.grad, rtol=1e-12, atol=1e-12)


def test_nothing_is_kept_without_gradients(chain: nn.Module) -> None:
    streamed = streamplan.compile(chain, SIZE, 9, halo="reuse", dtype=torch.float64)
    x = image()
    with torch.no_grad():
        out = streamed(x)
    assert out.grad_fn is None
    torch.testing.assert_close(out, chain(x), rtol=1e-12, atol=1e-12)


def test_plan_survives_json(chain: nn.Module) -> None:
    plan = plan_only(chain, SIZE, 9, halo="reuse", dtype=torch.float64)
    assert plan.halo == "reuse"
    stored = streamplan.Plan.from_json(plan.to_json())
    assert stored == plan
    streamed = streamplan.compile(chain, plan=stored)
    assert streamed._plan == plan
    x = image()
    assert_same_results(run(streamed, chain, [x]), run(chain, chain, [x]), 1e-10, "stored plan")


def test_steps_advance_by_the_tile_size(chain: nn.Module) -> None:
    plan = plan_only(chain, SIZE, (8, 23), halo="reuse", dtype=torch.float64)
    assert len(set(plan.boundaries[0])) == 5  # four steps in which the image arrives; more may follow
    assert max(plan.inputs[0].max_step) <= 23
    assert plan.inputs[0].max_step[0] <= 8
