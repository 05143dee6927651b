"""Nothing silent: whatever changes between two calls, each call does what the plain net does, or is refused.

A plain and a streamed net of the same kind live in two copies of one module, so that they share no global, class or
function. Drawn changes are made to both, and after every call outputs, gradients, buffers, random numbers and the
Python state of the two are compared in float64. A `StreamPlanError` ends a run; any other error must be the plain
net's as well.

    pytest tests/module/test_silent_changes.py -m fuzz
"""

from __future__ import annotations

import importlib.util
import itertools
import random
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import streamplan
from streamplan.errors import StreamPlanError
from tests.draws import num_examples
from tests.module import changing_nets
from tests.module.changes import FORWARD, MODEL, Change
from tests.module.compare import assert_same_results, run_step

SIZES = ((1, 2, 20, 18), (1, 2, 26, 18), (2, 2, 20, 18))
TILE = 12
_TABLES = ("_parameters", "_buffers", "_modules")
_NUMBERS = itertools.count()
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)
_SETTINGS: dict[str, Any] = {"phases": _PHASES, "suppress_health_check": list(HealthCheck), "deadline": None}
_FUZZED = 500
"""Runs of each of the four tests that the fuzz has."""


def new_world() -> ModuleType:
    """A copy of `changing_nets`, which shares nothing with others."""
    spec = importlib.util.spec_from_file_location(f"{changing_nets.__name__}_{next(_NUMBERS)}", changing_nets.__file__)
    assert spec is not None
    assert spec.loader is not None
    world = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(world)
    return world


class Pair:
    """A plain net and a streamed one, made alike.

    Args:
        name: Their class.
    """

    def __init__(self, name: str) -> None:
        self.worlds = new_world(), new_world()
        self.nets = []
        for world in self.worlds:
            torch.manual_seed(1)
            self.nets.append(getattr(world, name)().double().eval())
        self.plain, self.model = self.nets
        self.streamed = streamplan.compile(self.model, SIZES[0], TILE)
        self.num_calls = 0

    def change(self, change: Change) -> None:
        """Make a change to both."""
        for net, world in zip(self.nets, self.worlds, strict=True):
            torch.manual_seed(7)
            change(net, world)

    def compare(self, x: Tensor, surroundings: Callable[[], Any] = nullcontext) -> bool:
        """Call both, and raise if they differ; returns whether there may be further calls."""
        self.num_calls += 1
        expected, expected_state = _outcome(self.plain, x, surroundings, self.num_calls)
        found, found_state = _outcome(self.streamed, x, surroundings, self.num_calls)
        if isinstance(found, StreamPlanError):
            return False
        if isinstance(expected, Exception) or isinstance(found, Exception):
            assert type(found) is type(expected), f"plain: {expected!r}, streamed: {found!r}"
            return False
        assert_same_results(expected, found)
        assert found_state == expected_state
        assert _state(self.model) == _state(self.plain)
        assert _world_state(self.worlds[1]) == _world_state(self.worlds[0])
        return True


def _outcome(net: nn.Module, x: Tensor, surroundings: Callable[[], Any], seed: int) -> tuple[Any, Any]:
    """What a step gives, or its error; and the random numbers that come next."""
    random.seed(seed)
    np.random.seed(seed)
    try:
        with surroundings():
            result: Any = run_step(net, (x,), {})
    except Exception as error:  # noqa: BLE001 - compared by the caller
        result = error
    return result, (random.random(), np.random.rand())


def _state(net: nn.Module) -> Any:
    """The Python state of a net's modules that can be compared."""
    return {
        (path, name): len(value) if "_hooks" in name else _comparable(value)
        for path, module in net.named_modules()
        for name, value in vars(module).items()
        if name not in _TABLES
    }


def _world_state(world: ModuleType) -> Any:
    names = ("COUNTS", "TICKS", "SEEN", "NUMBERS", "GENERATOR", "GRIDS")
    classes = [
        value for value in vars(world).values() if isinstance(value, type) and value.__module__ == world.__name__
    ]
    items = [(c.__name__, name, value) for c in classes for name, value in vars(c).items() if "__" not in name]
    members = {(owner, name): _comparable(value) for owner, name, value in items}
    return {name: _comparable(getattr(world, name)) for name in names}, members, vars(world.LOCAL), world.CONTEXT.get()


def _comparable(value: Any) -> Any:
    """A value in terms of plain ones; None for what cannot be told apart, or is compared elsewhere.

    Tensors that depend on nothing may be made anew at each call instead of being kept.
    """
    if isinstance(value, dict):
        return {key: _comparable(item) for key, item in value.items() if not isinstance(item, Tensor)}
    if isinstance(value, list | tuple | deque):
        return [_comparable(item) for item in value]
    if isinstance(value, set | bool | int | float | str):
        return value
    if isinstance(value, Tensor):
        return type(value), value.tolist()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.random.Generator):
        return repr(value.bit_generator.state)
    if isinstance(value, itertools.count):
        return repr(value)
    return _comparable(vars(value)) if isinstance(value, SimpleNamespace) else None


@contextmanager
def _patched(owner: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


SURROUNDINGS: dict[str, Callable[[], Any]] = {
    "none": nullcontext,
    "no_grad": torch.no_grad,
    "autocast": lambda: torch.autocast("cpu", torch.bfloat16, enabled=False),
    "ReLU.forward": lambda: _patched(nn.ReLU, "forward", lambda self, x: x * 2),
    "Conv2d._conv_forward": lambda: _patched(
        nn.Conv2d, "_conv_forward", lambda self, x, w, b: nn.functional.conv2d(x, w * 2, b, 1, self.padding)
    ),
    "Linear.forward": lambda: _patched(nn.Linear, "forward", lambda self, x: x @ self.weight.T),
}


def draw_image(data: st.DataObject) -> Tensor:
    size = data.draw(st.sampled_from(SIZES))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 9)))
    return torch.randn(size, generator=generator, dtype=torch.float64, requires_grad=data.draw(st.booleans()))


def run_changes(data: st.DataObject, changes: dict[str, Change]) -> None:
    """Change a net and call it, some times over."""
    pair = Pair("Changing")
    for _ in range(data.draw(st.integers(1, 4))):
        for name in data.draw(st.lists(st.sampled_from(sorted(changes)), max_size=2)):
            pair.change(changes[name])
        if not pair.compare(draw_image(data)):
            return


def run_state(data: st.DataObject) -> None:
    """Call a net that does something else at every call."""
    try:
        pair = Pair(data.draw(st.sampled_from(changing_nets.KINDS)))
    except StreamPlanError:
        return
    for _ in range(data.draw(st.integers(2, 6))):
        if data.draw(st.booleans()):
            pair.change(lambda net, world: net.first.requires_grad_(not net.first.weight.requires_grad))
        if not pair.compare(draw_image(data)):
            return


def run_surroundings(data: st.DataObject) -> None:
    """Call a net under other switches, and with torch's own classes changed and changed back."""
    pair = Pair("Changing")
    for _ in range(data.draw(st.integers(2, 4))):
        surroundings = SURROUNDINGS[data.draw(st.sampled_from(sorted(SURROUNDINGS)))]
        if not pair.compare(draw_image(data), surroundings):
            return


RUNS: dict[str, Callable[[st.DataObject], None]] = {
    "model": lambda data: run_changes(data, MODEL),
    "forward": lambda data: run_changes(data, {**FORWARD, "global": MODEL["global"]}),
    "state": run_state,
    "surroundings": run_surroundings,
}


@pytest.mark.parametrize("kind", RUNS)
def test_drawn_changes(kind: str) -> None:
    @settings(max_examples=num_examples(20), **_SETTINGS)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        RUNS[kind](data)

    run()


@pytest.mark.fuzz
@pytest.mark.parametrize("kind", RUNS)
def test_fuzz_changes(kind: str) -> None:
    @settings(max_examples=_FUZZED, **_SETTINGS)
    @given(st.data())
    def run(data: st.DataObject) -> None:
        RUNS[kind](data)

    run()


def image(size: tuple[int, ...] = SIZES[0]) -> Tensor:
    return torch.randn(size, dtype=torch.float64, requires_grad=True)


@pytest.mark.more
@pytest.mark.parametrize("name", sorted({**MODEL, **FORWARD}))
def test_each_change(name: str) -> None:
    pair = Pair("Changing")
    assert pair.compare(image())
    pair.change({**MODEL, **FORWARD}[name])
    for size in SIZES[:2]:
        if not pair.compare(image(size)):
            return


REFUSED = {"KeepsTheFrame", "KeepsTheFrameOutside", "Swallows", "ReadsItsTable", "Seeds", "SetsAfter", "Freezes"}
REFUSED |= {"SetsAndSetsBack", "CallsALayerTwice", "Clamps"}
"""Nets that are refused when they are compiled."""


@pytest.mark.parametrize("name", changing_nets.KINDS)
def test_state_of_every_kind(name: str) -> None:
    if name in REFUSED:
        with pytest.raises(StreamPlanError):
            Pair(name)
        return
    pair, allowed = Pair(name), 1 if name == "Hooks" else 4
    for index in range(allowed):
        assert pair.compare(image(SIZES[index % 2])), "refused"
    assert name != "Hooks" or not pair.compare(image())
