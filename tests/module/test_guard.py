"""The guard run: each call of a streamed module runs the model's own code once, and does to it what the plain net does.

Oracle: a deep copy of the net, called with the same arguments in float64; outputs, gradients, buffers and the Python
state of the model are compared after every call.
"""

from __future__ import annotations

import copy
import functools
import random
import threading
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.errors import TracingError
from tests.module.compare import assert_same_results, run_step
from tests.module.test_contexts import HARMLESS

SIZE = (1, 3, 20, 18)
OTHER_SIZE = (2, 3, 26, 16)


class Base(nn.Module):
    """Two convolutions; what a test is about is done in `middle`."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(torch.relu(self.middle(self.first(x))))

    def middle(self, x: Tensor) -> Tensor:
        return x


def image(size: tuple[int, ...] = SIZE, *, needs_gradient: bool = True) -> Tensor:
    return torch.randn(size, dtype=torch.float64, requires_grad=needs_gradient)


def images() -> list[Tensor]:
    return [image(), image(needs_gradient=False), image(OTHER_SIZE), image(), image(OTHER_SIZE)]


def assert_same_calls(
    build: Callable[[], nn.Module], state: Callable[[Any], Any] = lambda model: None, guard: Any = "full"
) -> None:
    """Raise if any of some calls differs from the plain net's, or leaves another state in the model."""
    model = build().double()
    plain = copy.deepcopy(model)
    streamed = streamplan.compile(model, SIZE, 16, guard=guard)
    for x in images():
        assert_same_results(run_step(plain, (x,), {}), run_step(streamed, (x,), {}))
        assert state(model) == state(plain)


@pytest.mark.filterwarnings("ignore")  # some contexts warn when they are made
@pytest.mark.parametrize("name", HARMLESS)
def test_tensor_made_in_a_context_call_after_call(name: str) -> None:
    class Net(Base):
        def middle(self, x: Tensor) -> Tensor:
            with HARMLESS[name]():
                return x * torch.arange(1, 5, dtype=x.dtype).view(4, 1, 1)

    assert_same_calls(Net)


@pytest.mark.parametrize("guard", ["full", "state"])
def test_helper_without_gradient_call_after_call(guard: str) -> None:
    class Net(Base):
        @torch.no_grad()
        def weights(self) -> Tensor:
            return torch.arange(1.0, 5.0, dtype=torch.float64).view(4, 1, 1) / torch.arange(4).sum()

        def middle(self, x: Tensor) -> Tensor:
            return x * self.weights()

    assert_same_calls(Net, guard=guard)


class Heads(Base):
    """Keeps what it has computed in a list that had tensors before, and another tensor elsewhere."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.heads = [torch.rand(1), torch.rand(1)]
        self.named = {"head": torch.rand(1)}
        self.grown: list[Tensor] = []

    def middle(self, x: Tensor) -> Tensor:
        if self.kind == "read before":
            return x + self.heads[0]
        self.heads[1] = x * 2
        self.named["head"] = x.mean((2, 3), keepdim=True)
        if self.kind == "grown":
            self.grown.append(x)
        return x + self.heads[1] + self.named["head"]


def test_tensors_kept_in_the_place_of_others_have_no_data() -> None:
    torch.manual_seed(0)
    model = Heads("written").double()
    plain = copy.deepcopy(model)
    streamed = streamplan.compile(model, SIZE, 16)
    first = model.heads[0]
    for x in images():
        assert_same_results(run_step(plain, (x,), {}), run_step(streamed, (x,), {}))
        assert model.heads[0] is first
        assert model.heads[1].is_meta
        assert model.named["head"].is_meta
        assert model.heads[1].shape == plain.heads[1].shape
    plain_again = copy.deepcopy(model)
    assert_same_results(run_step(plain, (x,), {}), run_step(plain_again, (x,), {}))


@pytest.mark.parametrize(("kind", "what"), [("read before", "plain Python container"), ("grown", "keeps a tensor")])
def test_other_kept_tensors_are_refused(kind: str, what: str) -> None:
    with pytest.raises(TracingError, match=what):
        streamplan.compile(Heads(kind).double(), SIZE, 16)
    model = Heads("written").double()
    streamed = streamplan.compile(model, SIZE, 16)
    streamed(image())
    model.kind = kind
    with pytest.raises(TracingError, match=what):
        streamed(image())
    assert not model.grown
    model.kind = "written"
    streamed(image())


class Scaled(Base):
    """Scales by a number that it increases in each call, and that it reads in some roundabout way."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = 1.0
        self.prepare()

    def prepare(self) -> None:
        pass

    def read(self, x: Tensor) -> Tensor:
        return x * self.scale

    def middle(self, x: Tensor) -> Tensor:
        self.scale += 1
        return self.read(x)


class ByFunction(Scaled):
    def prepare(self) -> None:
        self.read = lambda x: x * self.scale


class ByFunctionInAList(Scaled):
    def prepare(self) -> None:
        self.reads = [lambda x: x * self.scale]

    def read(self, x: Tensor) -> Tensor:
        return self.reads[0](x)


class ByDefaultArgument(Scaled):
    def prepare(self) -> None:
        def read(x: Tensor, *, of: Scaled = self) -> Tensor:
            return x * of.scale

        self.read = read


class ByTwoFunctions(Scaled):
    def prepare(self) -> None:
        def scale() -> float:
            return self.scale

        self.read = lambda x: x * scale()


class ByBoundMethod(Scaled):
    def prepare(self) -> None:
        self.reads = {"own": self.scaled, "partial": functools.partial(Scaled.read, self)}

    def scaled(self, x: Tensor) -> Tensor:
        return x * self.scale

    def read(self, x: Tensor) -> Tensor:
        return self.reads["own"](x) + self.reads["partial"](x)


class ByWeakReference(Scaled):
    def prepare(self) -> None:
        self.me = weakref.ref(self)

    def read(self, x: Tensor) -> Tensor:
        me = self.me()
        assert me is not None
        return x * me.scale


class ByFunctionOfForward(Scaled):
    def read(self, x: Tensor) -> Tensor:
        if not hasattr(self, "late"):
            self.late = lambda x: x * self.scale
        return self.late(x)


class ByListOfForward(Scaled):
    def read(self, x: Tensor) -> Tensor:
        if not hasattr(self, "scales"):
            self.scales: list[float] = []
        self.scales.append(self.scale)
        return x * sum(self.scales)


class WithOwnCopy(Scaled):
    def __deepcopy__(self, memo: dict[int, Any]) -> WithOwnCopy:
        made = type(self)().double()
        made.load_state_dict(self.state_dict())
        return made


class WithOwnState(Scaled):
    """What is pickled and copied of it is not what it is."""

    def prepare(self) -> None:
        self.lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "lock"} | {"scale": -1.0}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self.lock = threading.Lock()

    def read(self, x: Tensor) -> Tensor:
        with self.lock:
            return x * self.scale


ROUNDABOUT = [
    *(ByFunction, ByFunctionInAList, ByDefaultArgument, ByTwoFunctions, ByBoundMethod, ByWeakReference),
    *(ByFunctionOfForward, ByListOfForward, WithOwnCopy, WithOwnState),
]


@pytest.mark.parametrize("net", ROUNDABOUT, ids=lambda net: net.__name__)
def test_state_is_read_where_forward_reads_it(net: type[Scaled]) -> None:
    models = []
    for _ in range(2):  # not copied, since copies share functions
        torch.manual_seed(0)
        models.append(net().double())
    model, plain = models
    streamed = streamplan.compile(model, SIZE, 16)
    for x in images():
        assert_same_results(run_step(plain, (x,), {}), run_step(streamed, (x,), {}))
        assert model.scale == plain.scale


class ByListOfReferences(Scaled):
    def prepare(self) -> None:
        self.us = [weakref.ref(self)]


class Holder:
    def __init__(self, held: nn.Module) -> None:
        self.held = held

    def __deepcopy__(self, memo: dict[int, Any]) -> Holder:
        return self


class ByHolder(Scaled):
    def prepare(self) -> None:
        self.holder = Holder(self)


class InSlots(Scaled):
    __slots__ = ("other",)

    def prepare(self) -> None:
        self.other = 1.0


@pytest.mark.parametrize(
    ("net", "what"),
    [(ByListOfReferences, "attribute us"), (ByHolder, "attribute holder"), (InSlots, "other in __slots__")],
)
def test_state_that_a_copy_would_share_or_lose_is_refused(net: type[Scaled], what: str) -> None:
    with pytest.raises(TracingError, match=what):
        streamplan.compile(net().double(), SIZE, 16)


def test_tensor_kept_in_a_list_made_by_an_earlier_call_is_refused() -> None:
    class Net(Base):
        def middle(self, x: Tensor) -> Tensor:
            if not hasattr(self, "log"):
                self.log: list[Tensor] = []
                self.calls = 0
            self.calls += 1
            if self.calls == 2:
                self.log.append(x)
            return x

    model = Net().double()
    streamed = streamplan.compile(model, SIZE, 16)
    streamed(image())
    with pytest.raises(TracingError, match="keeps a tensor in log"):
        streamed(image())
    assert model.log == []


SHIFT = [1.0]
MODELS: list[Any] = []


def shifted(x: Tensor) -> Tensor:
    return x + SHIFT[0]


def error_of_calls(build: Callable[[], nn.Module], guard: Any, change: Callable[[], None] = lambda: None) -> float:
    """Largest difference of an output from the plain net's, in two calls with a change between them."""
    model = build().double()
    plain = copy.deepcopy(model)
    streamed = streamplan.compile(model, SIZE, 16, guard=guard)
    errors = []
    for seed in (1, 2):
        x = image()
        random.seed(seed)
        expected = plain(x)
        random.seed(seed)
        errors.append(float((streamed(x) - expected).detach().abs().max()))
        change()
    return max(errors)


OF_NUMPY = {
    "integer": np.int64(2),
    "text": np.str_("2"),
    "array of one": np.array(2.0),
    "array": np.full(3, 2.0),
    "read only": np.broadcast_to(np.float64(2.0), 3),
    "row of a table": np.array([(2, 0.5)], dtype=[("count", "i4"), ("share", "f8")])[0],
    "table": np.array([(2, 0.5)], dtype=[("count", "i4"), ("share", "f8")]),
    "generator": np.random.default_rng(1),
}


@pytest.mark.parametrize("name", OF_NUMPY)
def test_values_of_numpy_in_a_global(name: str) -> None:
    def number() -> float:
        value = OF_NUMPY[name]
        if isinstance(value, np.random.Generator):
            return float(value.random())
        if name.startswith("array"):
            value += 1
        return float(np.ravel(value["count"] if value.dtype.names else value)[0])

    class Reads(Base):
        def middle(self, x: Tensor) -> Tensor:
            return x * number()

    model = Reads().double()
    streamed = streamplan.compile(model, SIZE, 16)
    x = image()
    for _ in range(2):
        before = copy.deepcopy(OF_NUMPY[name])
        found = streamed(x)
        OF_NUMPY[name], after = before, OF_NUMPY[name]
        torch.testing.assert_close(found, model(x), rtol=1e-12, atol=1e-12)
        assert str(OF_NUMPY[name]) == str(after)


class Draws(Base):
    def middle(self, x: Tensor) -> Tensor:
        return x * random.random()


class Calls(Base):
    def middle(self, x: Tensor) -> Tensor:
        return shifted(x)


def _asked_by_a_function(x: Tensor) -> bool:
    kind = "activation"
    return bool(kind) and (
        x is not None and type(x) == Tensor  # noqa: E721
    )


@pytest.mark.parametrize(("guard", "is_noticed"), [("full", True), ("state", False)])
def test_number_drawn_in_forward(guard: str, is_noticed: bool) -> None:
    assert (error_of_calls(Draws, guard) < 1e-12) is is_noticed


@pytest.mark.parametrize(("guard", "is_noticed"), [("full", True), ("state", False)])
def test_global_of_a_function_that_forward_calls(guard: str, is_noticed: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    error = error_of_calls(Calls, guard, lambda: monkeypatch.setitem(globals(), "SHIFT", [3.0]))
    assert (error < 1e-12) is is_noticed


@pytest.mark.parametrize(("guard", "is_noticed"), [("full", True), ("state", False)])
def test_state_that_forward_changes(guard: str, is_noticed: bool) -> None:
    assert (error_of_calls(Scaled, guard) < 1e-12) is is_noticed
    model = Scaled().double()
    streamplan.compile(model, SIZE, 16, guard=guard)(image())
    assert (model.scale == 2) is is_noticed


@pytest.mark.parametrize(
    "asks",
    [
        lambda x: type(x) is Tensor,
        lambda x: type(x) != torch.Tensor,  # noqa: E721
        lambda x: x.__class__ in (int, torch.Tensor),
        lambda x: Tensor is type(x),
        lambda x: type(x).__name__ == "Tensor",
        _asked_by_a_function,
    ],
)
def test_exact_class_of_an_activation(asks: Callable[[Tensor], bool]) -> None:
    class Asking(Base):
        def middle(self, x: Tensor) -> Tensor:
            return x * 2 if asks(x) else x

    with pytest.raises(TracingError, match="isinstance"):
        streamplan.compile(Asking().double(), SIZE, 16)


@pytest.mark.parametrize("asks", [lambda x: isinstance(x, torch.Tensor), lambda x: issubclass(type(x), Tensor)])
def test_class_of_an_activation_with_its_subclasses(asks: Callable[[Tensor], bool]) -> None:
    class Asking(Base):
        def middle(self, x: Tensor) -> Tensor:
            assert type(self) is Asking
            return x * 2 if asks(x) else x

    assert error_of_calls(Asking, "full") < 1e-12


def test_text_of_an_activation_is_not_noticed() -> None:
    class Reading(Base):
        def middle(self, x: Tensor) -> Tensor:
            return x * 2 if "tensor" in f"{x}" else x

    assert error_of_calls(Reading, "full") > 1e-3


def test_exact_class_of_an_activation_without_source_is_not_noticed() -> None:
    namespace: dict[str, Any] = {}
    exec("def asks(x, Tensor): return type(x) is Tensor", namespace)

    class Asking(Base):
        def middle(self, x: Tensor) -> Tensor:
            return x * 2 if namespace["asks"](x, Tensor) else x

    assert error_of_calls(Asking, "full") > 1e-3


def test_what_a_model_reads_of_itself_through_a_global_is_not_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(Scaled):
        def read(self, x: Tensor) -> Tensor:
            return x * MODELS[0].scale

    model = Net().double()
    monkeypatch.setitem(globals(), "MODELS", [model])
    streamed = streamplan.compile(model, SIZE, 16)
    x = image()
    found = streamed(x)
    model.scale = 1.0
    assert not torch.allclose(found, model(x))


def test_printed_once_per_call_and_once_more_for_a_new_program(capsys: pytest.CaptureFixture[str]) -> None:
    class Net(Base):
        def middle(self, x: Tensor) -> Tensor:
            print("called", x.shape[-1])  # noqa: T201 - what the test is about
            return x

    streamed = streamplan.compile(Net().double(), SIZE, 16)
    capsys.readouterr()
    streamed(image())
    streamed(image())
    assert capsys.readouterr().out == "called 18\n" * 2
    streamed(image(OTHER_SIZE))
    streamed(image(OTHER_SIZE))
    assert capsys.readouterr().out == "called 16\n" * 3


def test_packages_that_a_function_closes_over_are_not_looked_into() -> None:
    """Some members of torch warn when they are looked at, and warnings are errors here."""
    import torch.distributed as package

    class Net(Base):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda x: x * 2 if package else x

        def middle(self, x: Tensor) -> Tensor:
            return self.function(x)

    assert error_of_calls(Net, "full") < 1e-12


def written_in(path: Path, text: str) -> dict[str, Any]:
    """What a text defines that a file holds, or seems to hold."""
    names: dict[str, Any] = {"torch": torch, "nn": nn}
    exec(compile(text, str(path), "exec"), names)
    return names


def test_code_of_packages_with_names_like_torch_is_not_torchs() -> None:
    beside = Path(torch.__path__[0] + "vision") / "ops.py"
    names = written_in(beside, "def forward(self, x):\n    return x * 2\n")
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3)).double()
    model[1].forward = names["forward"].__get__(model[1])
    streamed = streamplan.compile(model, SIZE, 16)
    x = image()
    torch.testing.assert_close(streamed(x), model(x), rtol=1e-12, atol=1e-12)


def test_the_place_where_forward_seeds_is_told_in_any_folder(tmp_path: Path) -> None:
    text = "class Seeds(nn.Conv2d):\n    def forward(self, x):\n        torch.manual_seed(1)\n        return x\n"
    path = tmp_path / "my-torch-project" / "nets.py"
    with pytest.raises(TracingError, match=r"forward seeds") as caught:
        streamplan.compile(written_in(path, text)["Seeds"](3, 3, 1), SIZE, 16)
    assert caught.value.where == f"{path}:3"
