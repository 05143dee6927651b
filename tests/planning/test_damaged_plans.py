"""Plans whose JSON was changed end in an error of streamplan's own, or work: read, printed and followed."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Iterator
from contextlib import suppress
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console
from torch import nn

import streamplan
from streamplan import Plan
from streamplan.errors import PlanMismatchError, StreamPlanError

KINDS = ("recompute", "reuse", "budget")
Path = tuple[str | int, ...]
DELETED = object()
ODD = [
    *(None, True, False, -1, 0, 1, 3, 2**31, 2**62, 2**63, 10**400, -(10**400), 0.5, -0.5, 1e308),
    *(math.nan, math.inf, -math.inf, "", "x", "load", "float32", "cuda", "cpu", "meta", "error", "latest"),
    *("a\nb\0\ud800", "[/bold]", [], [[]], [0], [0, 0], [1, 2, 3], [None], ["x"], [10**30] * 2, [2**40] * 4),
    *({}, {"x": 1}, {"tuple": 3}, {"dict": {}}, {"tensor": [1], "dtype": "load"}, {"pairs": [[[], 1]]}),
    *({"tensor": [1, 3, -1, 4], "dtype": "float32"}, {"tensor": [2**62] * 4, "dtype": "float32"}, DELETED),
]


@cache
def example(kind: str) -> tuple[nn.Module, str]:
    """A model and the JSON text of a plan for it."""
    head = (nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.MaxPool2d(2), *head)
    options: dict[str, Any] = {"memory_budget": "1GiB", "max_slowdown": 3.0} if kind == "budget" else {"halo": kind}
    plan = streamplan.plan(model, (2, 3, 32, 24), None if kind == "budget" else 16, **options)
    return model, plan.to_json()


def places(value: Any, path: Path = ()) -> Iterator[Path]:
    """All places in the data of a plan."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        yield from places(item, (*path, key))


def changed(data: Any, path: Path, value: Any) -> Any:
    """The data with another value in one place."""
    data = copy.deepcopy(data)
    inner = data
    for key in path[:-1]:
        inner = inner[key]
    if value is DELETED:
        del inner[path[-1]]
    else:
        inner[path[-1]] = value
    return data


def use(text: str, model: nn.Module) -> bool:
    """Read a plan, print it and follow it; whether it could be read."""
    try:
        plan = Plan.from_json(text)
    except PlanMismatchError:
        return False
    assert str(plan)
    assert plan.report(verbose=True)
    assert all(line.isprintable() for line in plan.report(verbose=True).splitlines())
    Console(quiet=True).print(plan)
    with suppress(StreamPlanError):
        streamplan.compile(model, plan=plan)
    assert Plan.from_json(plan.to_json()) == plan
    return True


def test_the_plans_themselves_can_be_used() -> None:
    for kind in KINDS:
        model, text = example(kind)
        assert use(text, model)


@pytest.mark.parametrize("kind", [KINDS[0], *(pytest.param(kind, marks=pytest.mark.more) for kind in KINDS[1:])])
def test_no_field_may_be_missing_or_none(kind: str) -> None:
    """Every field of every kind, once: whatever can be read can be used."""
    model, text = example(kind)
    data = json.loads(text)
    first = {tuple(0 if isinstance(key, int) else key for key in path): path for path in places(data)}
    for path in first.values():
        for value in (None, DELETED, [], "x", -1):
            use(json.dumps(changed(data, path, value)), model)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_changed_plans_are_refused_or_work(data: st.DataObject) -> None:
    model, text = example(data.draw(st.sampled_from(KINDS)))
    content = json.loads(text)
    for _ in range(data.draw(st.integers(1, 3))):
        path = data.draw(st.sampled_from(list(places(content))))
        content = changed(content, path, data.draw(st.sampled_from(ODD)))
    use(json.dumps(content), model)


@pytest.mark.parametrize("shape", [[1, 3], [1, 3, 0, 4], [1, 3, 2**62, 2**62], [1, 3, 4.0, 4], [1, 3, True, 4]])
def test_inputs_of_no_size_are_refused(shape: list[Any]) -> None:
    model, text = example("reuse")
    data = json.loads(text)
    use(json.dumps(changed(data, ("inputs", 0, "shape"), shape)), model)
    use(json.dumps(changed(data, ("arguments", "args", "tuple", 0, "tensor"), shape)), model)


def test_the_place_is_named() -> None:
    _, text = example("reuse")
    data = json.loads(text)
    with pytest.raises(PlanMismatchError) as caught:
        Plan.from_json(json.dumps(changed(data, ("cuts", 0, "halo", 1), "wide")))
    assert caught.value.where == "cuts[0].halo[1]"
    assert "'wide'" in caught.value.why


@pytest.mark.parametrize("text", ["[" * 100_000, '{"a":' * 100_000, "1" * 10_000, "NaN", '"\\ud800"'])
def test_texts_that_are_no_plan_are_refused(text: str) -> None:
    with pytest.raises(PlanMismatchError):
        Plan.from_json(text)


@pytest.mark.parametrize("depth", [50, 300, 900])
def test_arguments_may_be_nested_up_to_a_depth(depth: int) -> None:
    model, text = example("reuse")
    data = json.loads(text)
    nested: Any = 1
    for _ in range(depth):
        nested = {"list": [nested]}
    data["arguments"]["args"]["tuple"].append(nested)
    try:
        content = json.dumps(data)
    except RecursionError:
        pytest.skip("json cannot write it")
    use(content, model)
