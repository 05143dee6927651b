"""Every option of every public function, with a value of every kind: it is taken, or refused by a `StreamPlanError`."""

from __future__ import annotations

import datetime
import inspect
import warnings
from collections.abc import Callable, Iterator
from decimal import Decimal
from fractions import Fraction
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import streamplan
from streamplan import LocalRule, Source
from streamplan.errors import StreamPlanError
from streamplan.trace.registered import TARGETS

SIZE = (1, 3, 20, 21)


class Hostile:
    """Equal to nothing, not to be hashed or written."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise RuntimeError("it cannot be compared")

    def __repr__(self) -> str:
        raise RuntimeError("it cannot be written")


ITSELF: list[Any] = []
ITSELF.append(ITSELF)
VALUES: dict[str, Any] = {
    "none": None,
    "empty_text": "",
    "text": "abc",
    "long_text": "1" * 400,
    "surrogate": "\ud800",
    "nul": "a\0b",
    "numpy_text": np.str_("abc"),
    "bytes": b"abc",
    "nan": float("nan"),
    "inf": float("inf"),
    "fraction": 1.5,
    "complex": 1j,
    "rational": Fraction(1, 3),
    "decimal": Decimal("NaN"),
    "huge": 10**400,
    "huge_negative": -(10**400),
    "two_to_63": 2**63,
    "minus_one": -1,
    "zero": 0,
    "true": True,
    "false": False,
    "numpy_integer": np.int64(7),
    "numpy_fraction": np.float32(2.5),
    "numpy_array": np.ones(3),
    "list": [],
    "list_of_none": [None],
    "nested_list": [[[]]],
    "list_in_itself": ITSELF,
    "dict": {},
    "dict_with_item": {"a": 1},
    "set": {1},
    "range": range(3),
    "slice": slice(3),
    "size": SIZE,
    "object": object(),
    "class": Hostile,
    "function": lambda *args: None,
    "hostile": Hostile(),
    "ellipsis": ...,
    "not_implemented": NotImplemented,
    "date": datetime.date(2024, 1, 1),
    "exception": ValueError("x"),
    "module": nn.ReLU(),
    "dtype": torch.float32,
    "integer_dtype": torch.int32,
    "complex_dtype": torch.complex64,
    "device": torch.device("cpu"),
    "no_device": "cuda:99",
    "tensor_number": torch.tensor(3),
    "tensor_fraction": torch.tensor(2.5),
    "tensor_row": torch.ones(3),
    "tensor_image": torch.ones(SIZE),
    "tensor_empty": torch.empty(0),
    "tensor_meta": torch.empty(SIZE, device="meta"),
    "tensor_sparse": torch.ones(SIZE).to_sparse(),
}
with warnings.catch_warnings(action="ignore"):  # torch: quantised tensors are deprecated
    VALUES["tensor_quantised"] = torch.quantize_per_tensor(torch.ones(SIZE), 1.0, 0, torch.quint8)
    VALUES["tensor_nested"] = torch.nested.nested_tensor([torch.ones(3), torch.ones(2)])


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1))


def with_option(function: Callable[..., Any], given: Callable[[], dict[str, Any]], name: str, value: Any) -> Any:
    arguments = given() | {name: value}
    if name in ("example_inputs", "inputs", "plan"):
        del arguments["input_size"]
    if name == "plan":
        del arguments["tile_size"]
    return function(**arguments)


def planned() -> dict[str, Any]:
    return {"model": net(), "input_size": SIZE, "tile_size": 8}


def streamed() -> streamplan.StreamedModule:
    return streamplan.compile(net(), SIZE, 8)


def run(x: torch.Tensor) -> torch.Tensor:
    return x * 2


class Doubling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return run(x)


IMAGE = torch.ones(SIZE)
FUNCTIONS: dict[str, tuple[Callable[..., Any], Callable[[], dict[str, Any]]]] = {
    "compile": (streamplan.compile, planned),
    "plan": (streamplan.plan, planned),
    "verify": (streamplan.verify, planned),
    "receptive_field": (streamplan.receptive_field, planned),
    "lsuv_": (streamplan.init.lsuv_, lambda: {"streamed": streamed(), "batches": [IMAGE]}),
    "activation_statistics": (
        streamplan.activation_statistics,
        lambda: {"streamed": streamed(), "batches": [IMAGE]},
    ),
    "input_gradient": (
        streamplan.input_gradient,
        lambda: {"streamed": streamed(), "image": IMAGE, "target": lambda y: y.sum()},
    ),
    "Source": (Source, lambda: {"array": torch.ones(3, 20, 21), "layout": "CHW"}),
    "pointwise": (LocalRule.pointwise, lambda: {"run": run}),
    "windowed": (LocalRule.windowed, lambda: {"run": run, "kernel": 3}),
    "register_rule": (streamplan.register_rule, lambda: {"target": Doubling, "rule": LocalRule.pointwise(run)}),
    "reference": (streamplan.testing.reference, lambda: {"streamed": streamed()}),
    "from_json": (streamplan.Plan.from_json, dict),
}
CASES: dict[str, Callable[[Any], Any]] = {
    f"{function}-{option}": partial(with_option, *FUNCTIONS[function], option)
    for function in FUNCTIONS
    for option in inspect.signature(FUNCTIONS[function][0]).parameters
} | {
    "pareto_front-passes": lambda value: streamplan.pareto_front(net(), SIZE, passes=value),
    "pareto_front-halo": lambda value: streamplan.pareto_front(net(), SIZE, halo=value),
    "call": lambda value: streamplan.StreamedModule.__call__(streamed(), value),
    "call_with_one_more": lambda value: streamed()(IMAGE, value),
    "predict-out": lambda value: streamed().predict(IMAGE, out=value),
    "plan_for": lambda value: streamed().plan_for(value),
    "batch": lambda value: streamplan.activation_statistics(streamed(), [value]),
    "batch_item": lambda value: streamplan.activation_statistics(streamed(), [(value,)]),
    "target_value": lambda value: streamplan.input_gradient(streamed(), IMAGE, lambda y: value),
    "extent": lambda value: streamplan.plan(net(), (1, 3, 20, value), 8),
    "size_of_sizes": lambda value: streamplan.plan(net(), (SIZE, value), 8),
    "tile_extent": lambda value: streamplan.plan(net(), SIZE, (8, value)),
    "cut_name": lambda value: streamplan.plan(net(), SIZE, 8, cut=("0", value)),
    "pass_name": lambda value: streamplan.plan(net(), SIZE, 8, passes=("inplace", value)),
    "example": lambda value: streamplan.plan(net(), tile_size=8, example_inputs=(value,)),
    "example_by_name": lambda value: streamplan.plan(net(), tile_size=8, example_inputs={"input": value}),
    "unregister_rule": streamplan.unregister_rule,
}
PAIRS = [(case, value) for case in CASES for value in VALUES if (case, value) != ("input_gradient-target", "class")]
"""A class as a target is the user's own function, and raises the user's own error."""


@pytest.fixture(autouse=True)
def _registered_rules() -> Iterator[None]:
    """Take back what a case has registered."""
    before = set(TARGETS)
    yield
    for target in set(TARGETS) - before:
        streamplan.unregister_rule(target)


def check(case: str, value: str) -> None:
    refusal = None
    try:
        CASES[case](VALUES[value])
    except StreamPlanError as error:
        refusal = error
    if refusal is not None:
        assert refusal.what
        assert refusal.why
        assert refusal.do
        assert len(str(refusal)) < 3000


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "value"), PAIRS[::19])
def test_some_bad_values(case: str, value: str) -> None:
    check(case, value)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("case", "value"), PAIRS)
def test_every_bad_value(case: str, value: str) -> None:
    check(case, value)


@pytest.mark.parametrize(
    ("budget", "num_bytes"),
    [("1.5 GiB", 1610612736), ("20GB", 20 * 10**9), (4096, 4096), (2e9, 2 * 10**9), (np.int64(7), 7), ("7.25KB", 7250)],
)
def test_budgets_are_read_to_the_byte(budget: Any, num_bytes: int) -> None:
    from streamplan.options import resolve_budget

    assert resolve_budget(budget) == num_bytes
