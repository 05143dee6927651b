"""Parameters, buffers, modules and inputs may have any name that torch takes; a name is never code."""

from __future__ import annotations

import copy
import io
import pickle
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import Tensor, nn
from torch.func import functional_call

import streamplan
from streamplan import Plan
from streamplan.codegen.names import renamed_functions
from streamplan.codegen.subgraph import function_source
from streamplan.codegen.writer import GlobalNames, identifier
from streamplan.ir import escaped
from streamplan.module.streamed_module import StreamedModule

SIZE = (1, 3, 20, 18)
EVIL = 'x" if open("{marker}", "w") else "'
OWN = (
    *("plan", "source", "predict", "disabled", "is_streamed", "plan_for", "save_source", "reference_mode"),
    *("_plan", "_options", "_model", "_executables", "_traces", "_lock", "_planned_key", "_call", "_key", "_device"),
)
"""What a streamed module has itself."""
ODD = (
    *("class", "None", "lambda", "t", "t_", "w", "self", "torch", "F", "inf", "head", "scale", "__x", "__debug__"),
    *('say "hi"', "it's", "a\\b", "a\r\nb", "a\tb", " ", "\u200b", "\x00", "0", "1a", "a[0]", "a['b']"),
    *("é", "ﬁ", "日本", "\ud800", "{x}", "%s", "$\\frac$", "[/bold]", "#", '"""', "input", "output", "getattr"),
    *("a" * 300, "x); raise SystemExit(", "\u2028", "\x1b[31m"),
)
"""What is a word of Python, of the program or of rich, or no identifier."""


class WithParameter(nn.Module):
    """Uses a parameter and a buffer of any name in the streamed and in the resident part."""

    def __init__(self, name: str, as_buffer: bool) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.norm = nn.BatchNorm2d(4)
        self.names = [name]
        if as_buffer:
            self.register_buffer(name, torch.rand(4, 1, 1) + 0.5)
        else:
            self.register_parameter(name, nn.Parameter(torch.rand(4, 1, 1) + 0.5))
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        scale = getattr(self, self.names[0])
        x = torch.relu(self.norm(self.convolution(x)) * scale)
        return self.classifier(x.mean((2, 3)) + scale.flatten())


class WithModules(nn.Module):
    """Has a streamed module of some name with a resident one of that name inside."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.names = [name]
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        outer = nn.Module()
        outer.add_module(name, nn.Linear(4, 2))
        outer.norm = nn.BatchNorm2d(4)
        outer.convolution = nn.Conv2d(4, 4, 3)
        self.add_module(name, outer)

    def forward(self, x: Tensor) -> Tensor:
        outer = getattr(self, self.names[0])
        x = torch.relu(outer.norm(outer.convolution(self.convolution(x))))
        return getattr(outer, self.names[0])(x.mean((2, 3)))


class WithKeywords(nn.Module):
    """Takes inputs by any keyword; one is an image, the other is read by the resident part."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3, padding=1)
        self.classifier = nn.Linear(4, 2)

    def forward(self, x: Tensor, **kwargs: Tensor) -> Tensor:
        image, scale = kwargs.values()
        x = self.convolution(x) + self.convolution(image)
        return self.classifier(x.mean((2, 3)) * scale)


def takes(register: Callable[[], Any]) -> bool:
    """Whether torch takes a name."""
    try:
        register()
    except KeyError:
        return False
    return True


def assert_same(model: nn.Module, streamed: nn.Module, *args: Any, **kwargs: Any) -> None:
    """Outputs and gradients of a streamed and a plain module."""
    results = []
    for module in (model, streamed):
        model.zero_grad()
        y = module(*args, **kwargs)
        y.square().sum().backward()
        results.append([y.detach(), *(p.grad for p in model.parameters())])
    for plain, found in zip(*results, strict=True):
        torch.testing.assert_close(found, plain, rtol=1e-9, atol=1e-12)


def assert_readable(streamed: StreamedModule) -> None:
    """Reports of a plan, its JSON and its program are as ever."""
    plan = streamed.plan
    for text in (str(plan), plan.report(verbose=True)):
        assert all(line.isprintable() for line in text.split("\n"))
        assert text.encode("utf-8")
    Console(file=io.StringIO()).print(plan)
    assert Plan.from_json(plan.to_json()) == plan
    source = streamed.source
    assert source.encode("utf-8")
    compile(source, "a program", "exec")
    assert [line for line in source.splitlines() if line.startswith("def ")] == [
        line for line in source.split("\n") if line.startswith("def ")
    ]


def assert_transparent(model: nn.Module, streamed: StreamedModule, x: Tensor) -> None:
    """What belongs to the model is found in the streamed module."""
    assert list(streamed.state_dict()) == list(model.state_dict())
    assert [name for name, _ in streamed.named_parameters()] == [name for name, _ in model.named_parameters()]
    for path, parameter in model.named_parameters():
        assert streamed.get_parameter(path) is parameter
    for path, buffer in model.named_buffers():
        assert streamed.get_buffer(path) is buffer
    for path, module in model.named_modules():
        assert streamed.get_submodule(path) is (module if path else streamed)
    doubled = {path: 2 * value for path, value in model.named_parameters()}
    torch.testing.assert_close(functional_call(streamed, doubled, x), functional_call(model, doubled, x))
    for twin in (copy.deepcopy(streamed), pickle.loads(pickle.dumps(streamed))):
        twin.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items() if value.dim()}, False)
        plain = copy.deepcopy(model)
        plain.load_state_dict({name: 1.5 * value for name, value in model.state_dict().items() if value.dim()}, False)
        torch.testing.assert_close(twin(x), plain(x))


@pytest.mark.parametrize("name", ODD, ids=ascii)
def test_parameters_and_buffers_of_any_name(name: str) -> None:
    for as_buffer in (False, True):
        if not takes(lambda: WithParameter(name, as_buffer)):  # noqa: B023 - called at once
            continue
        model = WithParameter(name, as_buffer).double().eval()
        streamed = streamplan.compile(model, SIZE, 12)
        x = torch.randn(SIZE, dtype=torch.float64)
        assert_same(model, streamed, x)
        assert_readable(streamed)
        assert_transparent(model, streamed, x)


@pytest.mark.parametrize("name", [*OWN, *(pytest.param(name, marks=pytest.mark.more) for name in ODD)], ids=ascii)
def test_modules_of_any_name(name: str) -> None:
    if not takes(lambda: WithModules(name)):
        pytest.skip("torch does not take it")
    model = WithModules(name).double().eval()
    streamed = streamplan.compile(model, SIZE, 12)
    x = torch.randn(SIZE, dtype=torch.float64)
    assert_same(model, streamed, x)
    assert_readable(streamed)
    assert_transparent(model, streamed, x)
    if not hasattr(StreamedModule, name):
        assert getattr(streamed, name) is getattr(model, name)
    assert_same(model, streamplan.compile(model, SIZE, 12, cut=f"{name}.convolution"), x)


@pytest.mark.parametrize("name", [name for name in ("plan", *ODD) if name not in ("self", "x")], ids=ascii)
def test_inputs_of_any_name(name: str) -> None:
    model = WithKeywords().double().eval()
    inputs = {"x": torch.randn(SIZE, dtype=torch.float64), name: torch.randn(SIZE, dtype=torch.float64)}
    inputs[f"{name} scale"] = torch.rand(1, 4, dtype=torch.float64)
    streamed = streamplan.compile(model, tile_size=12, example_inputs=inputs)
    assert_same(model, streamed, **inputs)
    assert_readable(streamed)


def test_a_name_is_never_run(tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    name = EVIL.format(marker=str(marker).replace(".", "_"))
    for plain in (WithParameter(name, False), WithParameter(name, True), WithModules(name)):
        model = plain.double().eval()
        streamed = streamplan.compile(model, SIZE, 12)
        assert_same(model, streamed, torch.randn(SIZE, dtype=torch.float64))
        assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["x\n", '"""\nraise SystemExit\n"""', "a\\", 'a"', "é", "[/b]"], ids=ascii)
def test_classes_of_any_name(name: str) -> None:
    model = type(name, (WithModules,), {})("inner").double().eval()
    streamed = streamplan.compile(model, SIZE, 12)
    assert_same(model, streamed, torch.randn(SIZE, dtype=torch.float64))
    assert_readable(streamed)
    assert escaped(name) in str(streamed.plan)
    assert repr(streamed)


@pytest.mark.parametrize("name", ["x; raise SystemExit", "<lambda>", "class", "head", "tile", "slice", "ﬁ", "a\nb", ""])
def test_registered_functions_of_any_name(name: str) -> None:
    """Two of one name, in the streamed and in the resident part."""

    def streamed_one(x: Tensor) -> Tensor:
        return x * 2

    def resident_one(x: Tensor) -> Tensor:
        return x - 3

    def other(x: Tensor) -> Tensor:
        return x * 5

    functions = (streamed_one, resident_one, other)
    for function in functions:
        function.__name__ = function.__qualname__ = name
        streamplan.register_rule(function, streamplan.LocalRule.pointwise())

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.convolution = nn.Conv2d(3, 4, 3)

        def forward(self, x: Tensor) -> Tensor:
            x = streamed_one(self.convolution(x)).mean((2, 3))
            return other(resident_one(x))

    model = Net().double()
    streamed = streamplan.compile(model, SIZE, 12)
    assert_same(model, streamed, torch.randn(SIZE, dtype=torch.float64))
    assert_readable(streamed)


def test_tracebacks_show_lines_of_programs_with_odd_names() -> None:
    model = WithModules("a\nb").eval()
    streamed = streamplan.compile(model, SIZE, 12)
    handle = model.get_submodule("a\nb.a\nb").register_forward_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError) as caught:
        streamed(torch.randn(SIZE))
    handle.remove()
    lines = [frame.line for frame in traceback.extract_tb(caught.tb) if frame.filename.startswith("<streamplan")]
    assert lines
    assert all(f"    {line}" in streamed.source.split("\n") for line in lines)


def test_keywords_of_any_name() -> None:
    """Of functions and of modules that are one node."""

    def function(x: Tensor, **kwargs: Any) -> Any:
        return x, kwargs

    class Layer(nn.Module):
        def forward(self, x: Tensor, **kwargs: Any) -> Any:
            return x, kwargs

    model = nn.ModuleDict({"layer": Layer(), "a b": Layer()})
    kwargs = {"class": 1, "a b": (2.5, "x"), "__debug__": None, "ok": float("inf")}
    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    calls = [graph.call_function(function, (x,), {**kwargs, "y": x})]
    calls += [graph.call_module(name, (x,), {**kwargs, "y": x}) for name in model]
    emitted = function_source(graph, "head", ("x",), lambda _: True, tuple(calls))
    namespace: dict[str, Any] = {"torch": torch, "inf": float("inf"), **emitted.globals}
    exec(emitted.text, namespace)
    assert namespace["head"](model, 7) == ((7, {**kwargs, "y": 7}),) * 3


def test_values_keep_names_of_their_own() -> None:
    names = ["t", "t_", "t__", "w", "w_", "class", "class_", "x", "x_"]
    assert len({identifier(name) for name in names}) == len(names)


def test_functions_do_not_take_the_names_of_the_program() -> None:
    for name in ("tile", "head", "slice", "torch"):

        def function() -> None: ...

        function.__name__ = name
        assert GlobalNames().name_of(function, "run") != name


def test_functions_of_one_name_are_told_apart() -> None:
    def make(number: int) -> Callable[[Tensor], Tensor]:
        def function(x: Tensor) -> Tensor:
            return x + number

        return function

    graph = torch.fx.Graph()
    x = graph.placeholder("x")
    functions = [make(number) for number in range(3)]
    for function in functions:
        x = graph.call_function(function, (x,))
    renamed = renamed_functions(graph)
    assert set(renamed) == set(functions[1:])
    assert len({other.__name__ for other in renamed.values()}) == 2
    assert [renamed[function](torch.zeros(())).item() for function in functions[1:]] == [1, 2]


def test_a_streamed_module_shows_and_sets_the_models_attributes() -> None:
    model = WithModules("inner").eval()
    model._plan, model.source_of_data, model._call_me = "mine", 3, 4  # type: ignore[assignment]
    streamed = streamplan.compile(model, SIZE, 12)
    assert (streamed._plan, streamed.source_of_data, streamed._call_me) == ("mine", 3, 4)
    assert streamed.plan.num_tiles > 1
    streamed._plan, streamed.source_of_data = "yours", 5
    assert (model._plan, model.source_of_data) == ("yours", 5)  # type: ignore[comparison-overlap]
    assert streamed.plan.num_tiles > 1
    del streamed.source_of_data
    assert not hasattr(model, "source_of_data")
