"""Plans, image sizes and steps leave nothing behind, and a model that is gone is gone."""

from __future__ import annotations

import gc
import linecache
import traceback
import weakref
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

import streamplan
from streamplan.errors import StreamPlanError
from streamplan.module import streamed_module, traces
from streamplan.trace import patches
from tests.module.small_nets import Classifier

_EXTENT = 20


class Refused(nn.Module):
    """Decides on values, so that no trace of it succeeds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        return x if x.sum() > 0 else -x


class Failing(nn.Module):
    """A layer of its resident part can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)
        self.last = nn.Linear(2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.conv(x).mean((2, 3)))

    def fail(self) -> None:
        self.last.register_forward_hook(fail)


def fail(*_: Any) -> None:
    raise RuntimeError("told to")


def size(index: int) -> tuple[int, ...]:
    """An image size; all within a test are different."""
    return (1, 3, _EXTENT + index % 15, _EXTENT + index // 15)


def small() -> nn.Module:
    """The least that is streamed."""
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU())


def plan() -> Callable[[int], None]:
    """One model and new ones in turn, in many sizes."""
    model = small()

    def plan_one(index: int) -> None:
        assert str(streamplan.plan(model if index % 2 else small(), size(index), tile_size=16))

    return plan_one


def compile_many_models() -> Callable[[int], None]:
    def compile_one(_: int) -> None:
        streamplan.compile(small(), size(0), tile_size=16)(torch.randn(size(0))).sum().backward()

    return compile_one


def step_sizes() -> Callable[[int], None]:
    streamed = streamplan.compile(small(), size(0), tile_size=16)
    return lambda index: streamed(torch.randn(size(index))).sum().backward()


def step_one_size() -> Callable[[int], None]:
    streamed = streamplan.compile(small(), size(0), tile_size=16, halo="recompute")
    x = torch.randn(size(0))
    return lambda _: streamed(x).sum().backward()


def refuse() -> Callable[[int], None]:
    def try_it(_: int) -> None:
        with pytest.raises(StreamPlanError):
            streamplan.compile(Refused(), size(0), tile_size=16)

    return try_it


def fail_in_a_step() -> Callable[[int], None]:
    model = Failing()
    streamed = streamplan.compile(model, size(0), tile_size=16)
    model.fail()

    def try_it(_: int) -> None:
        with pytest.raises(RuntimeError, match="told to"):
            streamed(torch.randn(size(0)))

    return try_it


WAYS = {
    "plans": (plan, 200),
    "compiled models": (compile_many_models, 50),
    "sizes": (step_sizes, 200),
    "steps": (step_one_size, 200),
    "refused models": (refuse, 50),
    "failures": (fail_in_a_step, 200),
}


@pytest.mark.parametrize("name", WAYS)
def test_nothing_grows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(streamed_module, "_MAX_EXECUTABLES", 3)  # so that they are reached early
    monkeypatch.setattr(traces, "_MAX_CALLS", 3)
    monkeypatch.setattr(patches, "_MAX_KNOWN_CALLS", 0)
    begin, num_times = WAYS[name]
    do_once, last = begin(), range(num_times - 10, num_times)
    for index in last:
        do_once(index)
    before, resident = counts(), resident_mib()
    for index in range(num_times):
        do_once(index)
    allowed = num_times // 2  # caches fill up
    grown = {name: (before[name], count) for name, count in counts().items() if count > before[name] + allowed}
    assert not grown
    assert resident_mib() < resident + 40  # allocators keep some; 0.2 MiB kept each time would be more


def counts() -> Counter[str]:
    """What is there: objects by type, programs that tracebacks can show, callbacks for the death of objects."""
    gc.collect()
    found = Counter(str(type(thing)) for thing in gc.get_objects())
    found["lines of programs"] = sum(name.startswith("<streamplan") for name in linecache.cache)
    found["finalizers"] = len(weakref.finalize._registry)  # type: ignore[attr-defined]
    return found


def resident_mib() -> float:
    """Memory of this process."""
    statm = Path("/proc/self/statm")
    return int(statm.read_text().split()[1]) * 4096 / 2**20 if statm.exists() else 0.0


def everything(model: nn.Module) -> Any:
    """Do with a model what the API offers."""
    x = torch.randn(size(0))
    streamed = streamplan.compile(model, size(0), tile_size=16)
    streamed(x.requires_grad_()).sum().backward()
    streamed(torch.randn(size(3)))
    with streamed.disabled(), torch.no_grad():
        streamed(x)
    texts = [str(streamed.plan), streamed.source, str(streamed.plan_for(size(5)))]
    streamplan.verify(model, size(0), tile_size=16)
    streamplan.compile(model, size(0), memory_budget="1 GiB")
    streamplan.compile(model, size(0), tile_size=16, halo="recompute")(x)
    return [weakref.ref(streamed)], texts


def test_a_model_that_is_gone_is_gone() -> None:
    model = Classifier().eval()
    refs, texts = everything(model)
    refs += [weakref.ref(thing) for thing in (*model.modules(), *model.parameters(), *model.buffers())]
    del model
    gc.collect()
    assert texts
    assert len(refs) > 10
    assert [ref() for ref in refs if ref() is not None] == []


def test_a_refused_model_is_gone() -> None:
    model = Refused()
    refs = [weakref.ref(thing) for thing in (*model.modules(), *model.parameters())]
    with pytest.raises(StreamPlanError):
        streamplan.compile(model, size(0), tile_size=16)
    del model
    gc.collect()
    assert [ref() for ref in refs if ref() is not None] == []


def test_tracebacks_show_the_program_as_long_as_it_lives() -> None:
    model = Failing()
    kept, dropped = (streamplan.compile(model, size(0), tile_size=16) for _ in range(2))
    model.fail()
    del dropped  # an equal program
    gc.collect()
    with pytest.raises(RuntimeError) as caught:
        kept(torch.randn(size(0)))
    frames = [frame for frame in traceback.extract_tb(caught.tb) if frame.filename.startswith("<streamplan")]
    assert frames
    lines = set(kept.source.splitlines())
    assert all(f"    {frame.line}" in lines for frame in frames)
    filename = frames[0].filename
    del kept, caught
    gc.collect()
    assert filename not in linecache.cache


def test_what_torch_remembers_of_calls_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patches, "_MAX_KNOWN_CALLS", 100)
    for index in range(30):
        streamplan.plan(Classifier().eval(), size(index), tile_size=16)
        assert len(FakeTensorMode.cache) <= 100
