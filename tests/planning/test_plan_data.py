"""Plans as data: JSON, equality, and following a stored plan."""

from __future__ import annotations

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import streamplan
from streamplan import Plan
from streamplan.errors import NothingToStreamError, PlanMismatchError
from streamplan.plot.depth import strides_of
from tests.draws import num_examples
from tests.nets.resnet import resnet18
from tests.nets.unet import unet
from tests.runtime.comparison import assert_same_results, run
from tests.strategies import Recipe, nets

SIZE = (1, 3, 64, 64)


@settings(max_examples=num_examples(30))
@given(nets(), st.integers(0, 3))
def test_a_plan_survives_json(recipe: Recipe, extra: int) -> None:
    model = recipe.build()
    try:
        whole = streamplan.plan(model, recipe.input_size, recipe.extents, halo="recompute", dtype=torch.float64)
    except NothingToStreamError:  # the first window covers the whole map
        return
    plan = streamplan.plan(
        model, recipe.input_size, tuple(size + extra for size in whole.smallest_tile_size), dtype=torch.float64
    )
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert again.to_json() == plan.to_json()
    assert str(again) == str(plan)
    assert hash(again.boundaries) == hash(plan.boundaries)  # tuples all the way down, not lists


class OtherRanks(torch.nn.Module):
    """Some of its maps have more axes than the image, and some fewer."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Conv2d(3, 4, 3, 2, 1), torch.nn.Conv2d(4, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.first(x).unflatten(1, (2, 2)).transpose(1, 2).flatten(1, 2)
        return self.last(x)[:, 0]


def test_cuts_of_other_ranks() -> None:
    model, size = OtherRanks().double(), (1, 3, 32, 40)
    plan = streamplan.plan(model, size, 16, dtype=torch.float64)
    assert {len(shape) for cut in plan.cuts for shape in cut.shapes} == {3, 4, 5}
    assert {cut.extents for cut in plan.cuts} == {(16, 20)}
    again = Plan.from_json(plan.to_json())
    assert again == plan
    assert str(again) == str(plan)
    for cut in plan.cuts:
        assert strides_of(plan, cut) == (2, 2)
        assert streamplan.verify(model, size, 16, cut=cut.values[-1]).passed


def test_equal_inputs_give_equal_plans() -> None:
    plans = [streamplan.plan(resnet18(width=4, num_classes=2).eval(), SIZE, 64) for _ in range(2)]
    assert plans[0] == plans[1]
    assert plans[0].to_json() == plans[1].to_json()


def test_parameter_values_do_not_matter_but_the_net_does() -> None:
    model = resnet18(width=4, num_classes=2).eval()
    before = streamplan.plan(model, SIZE, 64)
    with torch.no_grad():
        model.conv1.weight.zero_()
    assert streamplan.plan(model, SIZE, 64) == before
    assert streamplan.plan(resnet18(width=8, num_classes=2).eval(), SIZE, 64).fingerprint != before.fingerprint
    assert streamplan.plan(model, (1, 3, 64, 96), 96) != before


def test_arguments_of_every_kind_survive_json() -> None:
    class Net(torch.nn.Module):
        def forward(
            self, x: torch.Tensor, *, scale: float, pair: tuple[torch.Tensor, ...], flag: bool = False
        ) -> object:
            return torch.relu(x) * scale + pair[0] + pair[1][:, :, None]

    inputs = {"x": torch.zeros(2, 3, 9), "scale": 2.5, "pair": (torch.zeros(2, 3, 9), torch.zeros(2, 3))}
    plan = streamplan.plan(Net(), tile_size=4, example_inputs=inputs)
    assert Plan.from_json(plan.to_json()) == plan


def test_a_stored_plan_is_followed_to_the_letter() -> None:
    model = unet(width=2, depth=2).double().eval()
    plan = streamplan.plan(model, (1, 3, 60, 40), 44, dtype=torch.float64)
    streamed = streamplan.compile(model, plan=Plan.from_json(plan.to_json()))
    assert streamed.plan == plan
    inputs = [torch.randn(1, 3, 60, 40, dtype=torch.float64)]
    assert_same_results(run(streamed, model, inputs), run(model, model, inputs), 1e-10)


def test_a_plan_for_another_net_is_refused() -> None:
    plan = streamplan.plan(resnet18(width=4, num_classes=2).eval(), SIZE, 64)
    with pytest.raises(PlanMismatchError, match="another model"):
        streamplan.compile(resnet18(width=8, num_classes=2).eval(), plan=plan)


@pytest.mark.parametrize("text", ["", "[]", "{}", "null", '{"format_version": 999}'])
def test_what_is_not_a_plan_is_refused(text: str) -> None:
    with pytest.raises(PlanMismatchError):
        Plan.from_json(text)


def test_json_is_plain() -> None:
    data = json.loads(streamplan.plan(resnet18(width=4, num_classes=2).eval(), SIZE, 64).to_json())
    assert data["format_version"] == 4
    assert data["inputs"][0]["shape"] == list(SIZE)
