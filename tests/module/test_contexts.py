"""Context managers in `forward`: those that change no number are followed, those that do are refused."""

from __future__ import annotations

import contextlib
import cProfile
import sys
import warnings
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import streamplan
from streamplan.errors import TracingError

SIZE = (2, 3, 21, 18)


class Dispatched(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


class Functions(TorchFunctionMode):
    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@contextlib.contextmanager
def default_dtype(dtype: torch.dtype) -> Iterator[None]:
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


HARMLESS: dict[str, Callable[[], Any]] = {
    "profiler.record_function": lambda: torch.profiler.record_function("block"),
    "autograd.record_function": lambda: torch.autograd.profiler.record_function("block"),
    "autograd.profile": torch.autograd.profiler.profile,
    "emit_nvtx": lambda: torch.autograd.profiler.emit_nvtx(enabled=False),
    "detect_anomaly": lambda: torch.autograd.detect_anomaly(check_nan=False),
    "set_detect_anomaly": lambda: torch.autograd.set_detect_anomaly(True),
    "set_multithreading": lambda: torch.autograd.set_multithreading_enabled(False),
    "cudnn.flags": lambda: torch.backends.cudnn.flags(enabled=False),
    "mkldnn.flags": lambda: torch.backends.mkldnn.flags(enabled=False),
    "sdpa_kernel": lambda: sdpa_kernel(SDPBackend.MATH),
    "catch_warnings": warnings.catch_warnings,
    "nullcontext": contextlib.nullcontext,
    "suppress": lambda: contextlib.suppress(KeyError),
    "exit_stack": contextlib.ExitStack,
    "dispatch_mode": Dispatched,
    "function_mode": Functions,
    "device": lambda: torch.device("cpu"),
    "enable_grad": torch.enable_grad,
    "inference_mode_off": lambda: torch.inference_mode(False),
    "autocast_off": lambda: torch.autocast("cpu", enabled=False),
    "same_default_dtype": lambda: default_dtype(torch.get_default_dtype()),
    "save_on_cpu": torch.autograd.graph.save_on_cpu,
    "parametrize.cached": torch.nn.utils.parametrize.cached,
}
REFUSED: dict[str, tuple[Callable[[], Any], str]] = {
    "other_default_dtype": (lambda: default_dtype(torch.float16), "another default dtype"),
    "saved_tensors_hooks": (
        lambda: torch.autograd.graph.saved_tensors_hooks(lambda x: x * 0, lambda x: x),
        "hooks on the tensors that autograd saves",
    ),
    "fork_rng": (lambda: torch.random.fork_rng(devices=[]), "seeds torch's random numbers"),
    "no_grad": (torch.no_grad, "torch.no_grad"),
    "inference_mode": (torch.inference_mode, "torch.inference_mode"),
    "autocast": (lambda: torch.autocast("cpu", dtype=torch.bfloat16), "another torch.autocast"),
}


class Net(nn.Module):
    """One convolution inside a context, streamed or resident, and a tensor made in it."""

    def __init__(self, context: Callable[[], Any], *, is_streamed: bool) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 2, 3), nn.Linear(2, 2)
        self.context = context
        self.inside = is_streamed

    def forward(self, x: Tensor) -> Tensor:
        if not self.inside:
            x = self.second(torch.relu(self.first(x))).mean((2, 3))
            with self.context():
                return self.head(x) + torch.arange(2) * 0.5
        with self.context():
            x = torch.relu(self.first(x))
        return self.head(self.second(x).mean((2, 3)))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("name", HARMLESS)
def test_contexts_that_change_no_number_are_followed(name: str, is_streamed: bool) -> None:
    net = Net(HARMLESS[name], is_streamed=is_streamed).double()
    x = torch.randn(SIZE, dtype=torch.float64)
    expected = net(x)
    expected.sum().backward()
    gradients = {name: p.grad for name, p in net.named_parameters()}
    net.zero_grad()
    actual = streamplan.compile(net, SIZE, 8)(x)
    actual.sum().backward()
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close({n: p.grad for n, p in net.named_parameters()}, gradients, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("is_streamed", [True, False])
@pytest.mark.parametrize("name", REFUSED)
def test_contexts_that_change_numbers_are_refused(name: str, is_streamed: bool) -> None:
    context, words = REFUSED[name]
    with pytest.raises(TracingError, match=words):
        streamplan.compile(Net(context, is_streamed=is_streamed).double(), SIZE, 8)


def test_profilers_of_python_go_on_after_a_trace() -> None:
    model = Net(contextlib.nullcontext, is_streamed=True).double()
    x = torch.randn(SIZE, dtype=torch.float64)
    called: list[str] = []

    def note(frame: FrameType, event: str, argument: object) -> None:
        called.append(frame.f_code.co_name)

    def after() -> None:
        pass

    with cProfile.Profile() as profile:
        streamed = streamplan.compile(model, SIZE, 8)
        found = streamed(x)
        after()
    sys.setprofile(note)
    try:
        streamed(x)
        after()
    finally:
        sys.setprofile(None)
    torch.testing.assert_close(found, model(x), rtol=1e-10, atol=1e-10)
    assert "after" in {getattr(entry.code, "co_name", "") for entry in profile.getstats()}
    assert {"forward", "after"} <= set(called)


def test_a_default_dtype_set_in_forward_is_put_back() -> None:
    class Sets(Net):
        def forward(self, x: Tensor) -> Tensor:
            torch.set_default_dtype(torch.float16)
            return super().forward(x)

    with pytest.raises(TracingError, match="another default dtype"):
        streamplan.compile(Sets(contextlib.nullcontext, is_streamed=True).double(), SIZE, 8)
    assert torch.get_default_dtype() is torch.float32
