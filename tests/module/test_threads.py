"""Threads that compile, plan, verify and call, beside threads that train plain nets: every result is a plain net's."""

from __future__ import annotations

import copy
import gc
import logging
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
import torch.utils.checkpoint
from torch import Tensor, nn
from torch._dynamo import eval_frame

import streamplan
from streamplan import LocalRule
from streamplan.trace import switches

Work = Callable[[], Callable[[int], None]]
"""Prepares something in the main thread; what it returns is called with the numbers of the rounds, in a thread."""


class Doubled(torch.autograd.Function):
    """Twice the input, whose gradient is three times what arrives, so that a trace into `forward` would be seen."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 2

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return gradients[0] * 3


def halved(x: Tensor, function: float = 0.5) -> Tensor:
    return x * function


torch.fx.wrap("halved")


def squashed(x: Tensor, *, original: float = 1.0) -> Tensor:
    return torch.tanh(x * original)


class Net(nn.Module):
    """Convolutions, and everything for which something of torch's or the user's is replaced during a trace."""

    def __init__(self, channels: int = 3) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, channels, 3, padding=1)
        self.block = nn.Sequential(nn.Conv2d(channels, channels, 4, padding="same"), nn.BatchNorm2d(channels))
        self.last = nn.Conv2d(channels, 2, 3, stride=2)
        self.scale = nn.Parameter(torch.tensor([1.25]))

    def forward(self, x: Tensor) -> Tensor:
        x = squashed(self.first(x) * self.scale, original=0.75)
        x = x + torch.utils.checkpoint.checkpoint(self.block, x, use_reentrant=x.shape[-1] % 2 == 0)
        return self.last(halved(Doubled.apply(F.relu(x)), function=0.75)).mean((2, 3))


def net(channels: int = 3) -> nn.Module:
    return Net(channels).double().eval()


def image(index: int) -> Tensor:
    """Another size for most numbers."""
    generator = torch.Generator().manual_seed(index)
    size = (1, 2, 17 + index * 7 % 23, 18 + index * 5 % 19)
    return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()


def loss_of(out: Tensor) -> Tensor:
    return (out * torch.linspace(1, 2, out.numel(), dtype=out.dtype).view_as(out)).sum()


def results(module: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and all gradients of a module that other threads may call."""
    out = module(x)
    return [out, *torch.autograd.grad(loss_of(out), [x, *module.parameters()])]


def plain_results(module: nn.Module, index: int) -> list[Tensor]:
    """The same of a copy of a plain net."""
    own, x = copy.deepcopy(module), image(index)
    out = own(x)
    loss_of(out).backward()
    found = [out, x.grad, *(p.grad for p in own.parameters())]
    assert all(x is not None for x in found)
    return found  # type: ignore[return-value]


def check(actual: list[Tensor], expected: list[Tensor]) -> None:
    for found, wanted in zip(actual, expected, strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


def call_one() -> Iterator[Callable[[int], None]]:
    """All threads call one module, at most of the sizes for the first time."""
    plain = net()
    streamed = streamplan.compile(copy.deepcopy(plain), (1, 2, 33, 31), tile_size=8)

    def call(index: int) -> None:
        x = image(index)
        expected = plain_results(plain, index)
        check(results(streamed, x), expected)
        if index % 4 == 0:
            assert streamed.plan_for((1, 2, 40, 40 + index % 7)).input_size == (1, 2, 40, 40 + index % 7)
        if index % 4 == 1:
            with streamed.disabled():
                check([streamed(x)], expected[:1])

    while True:
        yield call


def compile_another() -> Iterator[Callable[[int], None]]:
    def step(index: int) -> None:
        plain, x = net(1 + index % 3), image(index)
        streamed = streamplan.compile(plain, tuple(x.shape), tile_size=8, halo="recompute" if index % 2 else "auto")
        check(results(streamed, x), plain_results(plain, index))

    while True:
        yield step


def verify() -> Iterator[Callable[[int], None]]:
    while True:
        yield lambda index: streamplan.verify(net(), tuple(image(index).shape), tile_size=8) and None


def plan() -> Iterator[Callable[[int], None]]:
    def step(index: int) -> None:
        made = streamplan.plan(net(), tuple(image(index).shape), memory_budget="1 GiB")
        assert made.num_tiles >= 1

    while True:
        yield step


def train() -> Iterator[Callable[[int], None]]:
    """Plain nets; what is expected of them was computed before there was a thread."""
    plain = net()
    expected = [plain_results(plain, index) for index in range(8)]

    def step(index: int) -> None:
        for _ in range(5):
            assert torch.equal(squashed(torch.ones(2), original=0.5), torch.tanh(torch.ones(2) * 0.5))
            check(plain_results(plain, index % 8), expected[index % 8])

    while True:
        yield step


def globals_now() -> dict[str, Any]:
    """Everything that belongs to the whole process and might have been changed."""
    log = logging.getLogger("torch._subclasses.fake_tensor")
    functions = {
        "apply": torch.autograd.Function.__dict__["apply"].__func__,
        "checkpoint": torch.utils.checkpoint._checkpoint_without_reentrant_generator,
        "compiler": eval_frame._callback_from_stance,
        "registered": squashed,
        "wrapped": halved,
    }
    classes = {"Module": nn.Module, "Function": torch.autograd.Function, "ScriptFunction": torch.jit.ScriptFunction}
    return {
        **functions,
        **{f"code of {name}": function.__code__ for name, function in functions.items()},
        **{name: dict(vars(owner)) for name, owner in classes.items()},
        "log": {name: value for name, value in vars(log).items() if name != "_cache"},
        "stance": eval_frame._stance,
        "collector": gc.isenabled(),
        "warnings": list(warnings.filters),
        "switches": dict(switches._SWITCHES),
        "gradient": torch.is_grad_enabled(),
        "dtype": torch.get_default_dtype(),
    }


@pytest.fixture
def registered() -> Iterator[None]:
    streamplan.register_rule(squashed, LocalRule.pointwise(squashed))
    yield
    streamplan.unregister_rule(squashed)


def run_together(works: list[Callable[[int], None]], num_rounds: int) -> None:
    """Run each in a thread of its own, switching as often as possible; raises the first error of any."""
    errors: list[BaseException] = []
    start = threading.Barrier(len(works))

    def run(number: int, work: Callable[[int], None]) -> None:
        try:
            start.wait()
            for index in range(num_rounds):
                if errors:
                    return
                work(index * len(works) + number)
        except BaseException as error:  # noqa: BLE001 - it is raised again
            errors.append(error)

    threads = [threading.Thread(target=run, args=pair) for pair in enumerate(works)]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(before)
    if errors:
        raise errors[0]


def everything_at_once(num_rounds: int) -> None:
    prepared = [begin() for begin in (call_one, call_one, compile_another, verify, plan, train)]
    works = [next(ways) for ways in (*prepared, prepared[0], prepared[2], prepared[5])]
    works[0](0)  # what torch sets up when it is first used is there
    before = globals_now()
    run_together(works, num_rounds)
    after = globals_now()
    assert [name for name in before if before[name] != after[name]] == []


@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.usefixtures("registered")
def test_everything_at_once() -> None:
    everything_at_once(3)


@pytest.mark.fuzz
@pytest.mark.filterwarnings("ignore:Using padding='same'")
@pytest.mark.usefixtures("registered")
def test_everything_at_once_for_long() -> None:
    everything_at_once(300)
