"""`torch.compile` around parts of a model, around the streamed module and around a whole training step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import streamplan
from streamplan.errors import HookError, ModelTypeError, NothingToStreamError
from tests.module.compare import assert_same_step, run_step
from tests.nets.randomize import randomize_

# The compiler reads the gradient of every argument, also with plain nets, and torch warns of that.
pytestmark = pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning")

SIZE = (2, 3, 29, 23)
TILE = (13, 11)


class BodyAndHead(nn.Module):
    """A local body, and a head that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 6), nn.Tanh(), nn.Linear(6, 3))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.body(x))


class Backend:
    """A backend of `torch.compile` that runs what it gets as it is, and remembers the calls it saw."""

    def __init__(self) -> None:
        self.functions: list[str] = []

    def __call__(self, graph: fx.GraphModule, inputs: list[Tensor]) -> Callable[..., Any]:
        self.functions += [
            getattr(n.target, "__name__", str(n.target)) for n in graph.graph.nodes if n.op[:4] == "call"
        ]
        return graph.forward

    def __deepcopy__(self, memo: dict[int, Any]) -> Backend:
        return self  # copies of a compiled module count together


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.fixture
def plain() -> BodyAndHead:
    model = BodyAndHead()
    randomize_(model.double().eval(), 1)
    return model


@pytest.fixture
def image() -> Tensor:
    return torch.randn(SIZE, dtype=torch.float64, requires_grad=True)


def assert_same_tensors(plain: nn.Module, streamed: nn.Module, x: Tensor) -> None:
    """Compare everything by its order: `torch.compile` puts `_orig_mod` into names."""
    expected, found = (list(run_step(net, (x,), {}).values()) for net in (copy.deepcopy(plain), streamed))
    for index, (one, other) in enumerate(zip(expected, found, strict=True)):
        assert one is not None
        assert other is not None
        torch.testing.assert_close(other, one, rtol=1e-10, atol=1e-12, msg=f"tensor {index}")


@pytest.mark.parametrize("when", ["before", "after, on the model", "after, on the streamed module"])
def test_a_compiled_head_is_run_by_what_was_compiled(plain: BodyAndHead, image: Tensor, when: str) -> None:
    backend, model = Backend(), copy.deepcopy(plain)
    if when == "before":
        model.head = torch.compile(model.head, backend=backend)
    streamed = streamplan.compile(model, SIZE, TILE)
    assert not backend.functions, "tracing compiles nothing"
    if when != "before":
        owner = model if when.endswith("model") else streamed
        owner.head = torch.compile(owner.head, backend=backend)
    for _ in range(2):
        assert_same_tensors(plain, streamed, image)
    assert sum("linear" in name for name in backend.functions) == 2, "both layers of the head, once"
    assert not [name for name in backend.functions if "conv" in name]
    assert streamed.plan_for(SIZE).num_tiles > 4
    assert streamed.plan_for(SIZE).cut == ("body_3",)


def test_a_compiled_head_through_aot_autograd(plain: BodyAndHead, image: Tensor) -> None:
    model = copy.deepcopy(plain)
    model.head = torch.compile(model.head, backend="aot_eager")
    assert_same_tensors(plain, streamplan.compile(model, SIZE, TILE), image)


def test_the_plan_says_that_the_head_is_compiled(plain: BodyAndHead) -> None:
    plain.head = torch.compile(plain.head, backend="eager")
    (barrier,) = streamplan.plan(plain, SIZE, TILE).barriers
    assert barrier.where.startswith("head (OptimizedModule)")
    assert "torch.compile" in barrier.reason


def test_a_copy_of_a_streamed_module_with_a_compiled_head(plain: BodyAndHead, image: Tensor) -> None:
    model, backend = copy.deepcopy(plain), Backend()
    model.head = torch.compile(model.head, backend=backend)
    twin = copy.deepcopy(streamplan.compile(model, SIZE, TILE))
    assert_same_tensors(plain, twin, image)
    assert backend.functions
    assert not {id(p) for p in twin.parameters()} & {id(p) for p in model.parameters()}


def test_the_head_follows_the_mode(plain: BodyAndHead, image: Tensor) -> None:
    """A BatchNorm inside what was compiled is in training mode when the model is."""
    plain.head.insert(3, nn.BatchNorm1d(6).double())
    model = copy.deepcopy(plain)
    model.head = torch.compile(model.head, backend="eager")
    streamed = streamplan.compile(model, SIZE, TILE, batch_norm="frozen")
    streamed.train()
    plain.train()
    plain.body.eval()
    assert_same_tensors(plain, streamed, image)
    assert model.head.training
    assert model.head.get_submodule("_orig_mod.3").num_batches_tracked == 1


@pytest.mark.parametrize("how", ["torch.compile(module)", "module.compile()", "a compiled step"])
@pytest.mark.parametrize("backend", ["eager", "aot_eager"])
def test_the_streamed_module_as_a_whole(plain: BodyAndHead, image: Tensor, how: str, backend: str) -> None:
    streamed: Any = streamplan.compile(copy.deepcopy(plain), SIZE, TILE)
    if how == "torch.compile(module)":
        streamed = torch.compile(streamed, backend=backend)
    elif how == "module.compile()":
        streamed.compile(backend=backend)
        streamed = copy.deepcopy(streamed)
        streamed.compile(backend=backend)
    else:
        inner = streamed
        streamed = nn.Sequential(nn.Identity(), inner)
        plain = nn.Sequential(nn.Identity(), plain)
        streamed = torch.compile(streamed, backend=backend)
    for _ in range(2):
        assert_same_tensors(plain, streamed, image)


def test_nothing_of_streamplan_is_compiled(plain: BodyAndHead, image: Tensor) -> None:
    """What the step does around the streamed module is; tiles are computed by a program that is there already."""
    backend = Backend()
    streamed = streamplan.compile(plain, SIZE, TILE)

    @torch.compile(backend=backend)
    def loss_of(x: Tensor) -> Tensor:
        return streamed(x * 2).cos().sum()

    found = loss_of(image)
    torch.testing.assert_close(found, plain(image * 2).cos().sum(), rtol=1e-10, atol=1e-12)
    assert sorted(backend.functions) == ["cos", "mul", "sum"]


def test_a_full_graph_is_an_error_with_the_reason(plain: BodyAndHead, image: Tensor) -> None:
    whole = torch.compile(streamplan.compile(plain, SIZE, TILE), backend="eager", fullgraph=True)
    with pytest.raises(torch._dynamo.exc.Unsupported, match="a program of streamplan's own"):
        whole(image)


def test_a_compiled_function_in_forward_is_traced_into(image: Tensor) -> None:
    class WithFunction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            return squash(self.conv(x))

    squash = torch.compile(lambda x: torch.tanh(x) * 2, backend="eager")
    model = WithFunction().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    assert not streamed.plan.barriers
    assert_same_step(model, streamed, image)


def squashed_by(scale: list[float], x: Tensor) -> Tensor:
    return torch.tanh(x) * scale[0]


def test_a_compiled_function_in_an_attribute_is_followed(image: Tensor) -> None:
    class WithFunction(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.scale = [2.0]
            self.squash = torch.compile(squashed_by, backend="eager")

        def forward(self, x: Tensor) -> Tensor:
            return self.squash(self.scale, self.conv(x))

    model = WithFunction().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    for model.scale[0] in (2.0, 2.0, 3.0):
        assert_same_step(model, streamed, image)
        torch.testing.assert_close(streamed(image), torch.tanh(model.conv(image)) * model.scale[0])
    assert len(streamed._executables) == 2


def test_a_model_that_is_compiled_as_a_whole_is_refused(plain: BodyAndHead) -> None:
    with pytest.raises(ModelTypeError, match=r"compiled by torch\.compile as a whole") as caught:
        streamplan.compile(torch.compile(plain, backend="eager"), SIZE, TILE)
    assert "model.head = torch.compile(model.head)" in caught.value.do


def test_a_compiled_body_is_refused_with_the_reason(plain: BodyAndHead) -> None:
    plain.body = torch.compile(plain.body, backend="eager")
    with pytest.raises(NothingToStreamError, match=r"stream the plain module") as caught:
        streamplan.compile(plain, SIZE, TILE)
    assert "body" in caught.value.where


def test_a_hook_inside_a_compiled_head_runs(plain: BodyAndHead, image: Tensor) -> None:
    plain.head[2].register_forward_hook(lambda module, args, out: out * 3)
    model = copy.deepcopy(plain)
    model.head = torch.compile(model.head, backend="eager")
    streamed = streamplan.compile(model, SIZE, TILE)
    assert_same_tensors(plain, streamed, image)
    plain.head = plain.head[:2]
    model.body[0].register_forward_hook(lambda *args: None)
    with pytest.raises(HookError, match=r"body\.0"):
        streamed(image)
