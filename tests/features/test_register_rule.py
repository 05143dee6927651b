"""Rules that users register. The oracle is the plain net throughout; streamplan never sees it compute."""

from __future__ import annotations

import functools
import pickle
import re
import types
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

import streamplan
from streamplan import LocalRule, errors
from streamplan.rules import Locality, Rule, Verdict
from streamplan.trace.registered import TARGETS
from tests.features import registered_nets
from tests.features.registered_nets import (
    WAYS,
    Depthwise,
    Mixed,
    OneDepthwise,
    OneMixed,
    Reaching,
    Sine,
    apply_sine,
    correlation,
    mixed,
    swish,
    weighted,
    with_free_variable,
)
from tests.golden import assert_matches_golden
from tests.rules.spellings import Net
from tests.runtime.comparison import assert_same_results, assert_streams_like_plain, run

DEPTHWISE = LocalRule.windowed(
    weighted,
    kernel=lambda m: m.size,
    stride=lambda m: m.stride,
    padding=lambda m: m.padding,
    border=lambda m: m.border,
)
MIXED = LocalRule.pointwise(mixed, attributes={"weight": "inner.weight", "bias": "inner.bias"})


@pytest.fixture
def register() -> Iterator[Callable[..., None]]:
    """`register_rule`, undone after the test."""
    before = dict(TARGETS)
    yield streamplan.register_rule
    for key in set(TARGETS) - set(before):
        streamplan.unregister_rule(key)


def image(*size: int) -> Tensor:
    return torch.randn(size or (2, 3, 21, 18), generator=torch.Generator().manual_seed(3), dtype=torch.float64)


def reasons(model: nn.Module, *size: int) -> list[str]:
    """What ends the streamed part of a plan."""
    return [barrier.reason for barrier in streamplan.plan(model, size, 9, dtype=torch.float64).barriers]


# -------------------------------------------------------------------------------------------------------------- modules


SHAPES = {
    "1-D": (1, (5,), 2, 2),
    "1-D even, gaps": (1, (2,), 3, 0),
    "2-D": (2, (3, 3), 2, 1),
    "2-D uneven": (2, (1, 4), 1, 1),
}


@pytest.mark.parametrize("halo", ["recompute", "auto"])
@pytest.mark.parametrize("name", SHAPES)
def test_a_windowed_module(register: Callable[..., None], name: str, halo: str) -> None:
    axes, size, stride, padding = SHAPES[name]
    model = OneDepthwise(axes, size, stride, padding, bias=name != "2-D").double()
    x = image(2, 2, *(37, 30)[:axes])
    assert any("einsum" in reason or "unfold" in reason for reason in reasons(model, *x.shape))
    register(Depthwise, DEPTHWISE)
    assert reasons(model, *x.shape) == []
    for tile_size in (16, 23, 40):
        streamed = assert_streams_like_plain(model, [x], tile_size, halo=halo)
        assert streamed._plan.num_tiles > 1 or tile_size == 40


@pytest.mark.parametrize("tile_size", [3, 8, (21, 5)])
def test_a_pointwise_module_of_two_maps(register: Callable[..., None], tile_size: Any) -> None:
    model = OneMixed().double()
    register(Mixed, MIXED)
    streamed = assert_streams_like_plain(model, [image()], tile_size)
    assert streamed._plan.barriers == ()
    assert 'scale=w["mixed.scale"], powers=(1, 2)), "mixed")' in streamed.source


def test_parameters_are_read_at_each_call(register: Callable[..., None]) -> None:
    model = OneMixed().double()
    register(Mixed, MIXED)
    streamed = streamplan.compile(model, (2, 3, 21, 18), 8)
    before = run(streamed, model, [image()])
    with torch.no_grad():
        model.mixed.inner.weight.mul_(-2)
        model.mixed.scale.add_(1)
    after = run(streamed, model, [image()])
    assert_same_results(after, run(model, model, [image()]), 1e-10)
    with pytest.raises(AssertionError, match="output"):
        assert_same_results(after, before, 1e-3)


def test_a_parametrized_module(register: Callable[..., None]) -> None:
    model = OneDepthwise(2, (3, 3), 1, 1).double()
    register(Depthwise, DEPTHWISE)
    parametrizations.weight_norm(model.depthwise)
    streamed = assert_streams_like_plain(model, [image(1, 2, 17, 12)], 9)
    assert streamed._plan.barriers == ()


@pytest.mark.parametrize("value", [0.0, -3.5, float("inf")])
def test_any_number_can_be_the_border(register: Callable[..., None], value: float) -> None:
    class Erosion(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return smallest(F.pad(x, (1, 1, 1, 1), value=value))

    def smallest(x: Tensor) -> Tensor:
        return x.unfold(2, 3, 1).unfold(3, 3, 1).amin((-1, -2))

    register(Erosion, LocalRule.windowed(smallest, kernel=3, padding=1, border=value))
    model = nn.Sequential(nn.Conv2d(3, 2, 1), Erosion()).double()
    assert assert_streams_like_plain(model, [image()], 7).plan.barriers == ()


@pytest.mark.parametrize("border", ["reflect", "replicate", "circular", "zeros"])
def test_every_border_of_torch(register: Callable[..., None], border: str) -> None:
    class Blur(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.randn(2, 3, 4))

        def forward(self, x: Tensor) -> Tensor:
            return weighted(
                F.pad(x, (2, 2, 3, 3), mode="constant" if border == "zeros" else border), self.weight, None, 2
            )

    rule = LocalRule.windowed(
        weighted,
        kernel=(3, 4),
        stride=2,
        padding=(3, 2),
        border=border,
        attributes={"stride": lambda m: 2, "bias": lambda m: None},
    )
    register(Blur, rule)
    model = nn.Sequential(nn.Conv2d(3, 2, 3), Blur()).double()
    x = image(1, 3, 18, 23)
    for tile_size in (25,) if border == "circular" else (9, 14):
        assert assert_streams_like_plain(model, [x], tile_size).plan.barriers == ()


def test_a_subclass_needs_a_rule_of_its_own(register: Callable[..., None]) -> None:
    class Shifted(Depthwise):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x.roll(1, 2))

    register(Depthwise, DEPTHWISE)
    model = nn.Sequential(nn.Conv2d(3, 3, 1), Shifted(3, (3, 3), 1, 1)).double()
    assert reasons(model, 1, 3, 16, 16) != []
    assert_streams_like_plain(model, [image(1, 3, 16, 16)], 8)


def test_behind_the_cut_the_module_itself_runs(register: Callable[..., None]) -> None:
    register(Depthwise, DEPTHWISE)
    register(swish, LocalRule.pointwise())
    tail = Net(lambda n, x: swish(n.depthwise(x - x.mean()), n.beta), depthwise=Depthwise(3, (3, 3), 1, 1))
    tail.beta = nn.Parameter(torch.tensor(0.5))
    model = nn.Sequential(nn.Conv2d(3, 3, 3), tail).double()
    streamed = assert_streams_like_plain(model, [image()], 9)
    calls = []
    tail.depthwise.register_forward_hook(lambda *_: calls.append(1))
    streamed(image())
    assert calls == [1]


def test_a_channels_last_map_is_not_taken_for_channels_first(register: Callable[..., None]) -> None:
    def halve(x: Tensor) -> Tensor:
        return torch.special.xlogy(torch.full_like(x, 0.5), x.square() + 1)

    model = nn.Sequential(nn.Conv2d(3, 2, 3), Net(lambda n, x: halve(x.permute(0, 2, 3, 1)))).double()
    register(halve, LocalRule.pointwise())
    assert reasons(model, 2, 3, 21, 18)[0].endswith("its rule is for channels-first maps")
    for layout in ("channels_last", "any"):
        register(halve, LocalRule.pointwise(layout=layout), override=True)
        assert assert_streams_like_plain(model, [image()], 9).plan.barriers == ()


def test_a_module_can_be_refused(register: Callable[..., None]) -> None:
    rule = LocalRule.pointwise(mixed, refuse=lambda m: "it learns its scale" if m.training else None)
    register(Mixed, rule)
    model = OneMixed().double()
    assert reasons(model.train(), 2, 3, 21, 18) == ["Mixed: it learns its scale"]
    assert_streams_like_plain(model, [image()], 9)


# ------------------------------------------------------------------------------------------------------------ functions


@pytest.mark.parametrize("way", WAYS)
def test_a_function_is_seen_however_it_is_reached(register: Callable[..., None], way: str) -> None:
    model = Reaching(WAYS[way]).double()
    assert "xlogy" in reasons(model, 2, 3, 21, 18)[0]
    register(swish, LocalRule.pointwise())
    for tile_size in (7, 12):
        streamed = assert_streams_like_plain(model, [image()], tile_size)
        assert streamed._plan.barriers == ()
        assert 'swish(before, beta=w["beta"]' in streamed.source.replace("swish_1(", "swish(")


def test_a_function_with_free_variables(register: Callable[..., None]) -> None:
    function = with_free_variable()
    code = function.__code__
    register(function, LocalRule.pointwise())
    streamed = assert_streams_like_plain(Reaching(function).double(), [image()], 8)
    assert streamed._plan.barriers == ()
    assert function.__code__ is code


def test_a_function_gets_its_code_back_when_tracing_fails(register: Callable[..., None]) -> None:
    def fails(x: Tensor) -> Tensor:
        raise RuntimeError("no")

    code, other = fails.__code__, swish.__code__
    register(swish, LocalRule.pointwise())
    register(fails, LocalRule.pointwise())
    with pytest.raises(errors.TracingError, match="no"):
        streamplan.plan(nn.Sequential(nn.Conv2d(3, 3, 1), Net(lambda n, x: fails(x))), (1, 3, 8, 8))
    assert (fails.__code__, swish.__code__) == (code, other)


def test_a_function_with_settings_and_two_maps(register: Callable[..., None]) -> None:
    register(correlation, LocalRule.windowed(None, kernel=lambda call: 2 * call.radius + 1))
    model = Net(
        lambda n, x: correlation(n.a(x), torch.relu(n.b(x)), radius=2), a=nn.Conv2d(3, 4, 3), b=nn.Conv2d(3, 4, 3)
    )
    model = model.double()
    for tile_size in (9, (13, 11)):
        assert assert_streams_like_plain(model, [image()], tile_size).plan.barriers == ()


def test_settings_of_a_function_may_depend_on_shapes(register: Callable[..., None]) -> None:
    register(
        weighted, LocalRule.windowed(None, kernel=lambda call: call.weight.shape[1:], stride=lambda call: call.stride)
    )
    model = Net(lambda n, x: weighted(x, n.weight, None, 2), weight=nn.Parameter(torch.randn(3, 4, 3))).double()
    assert assert_streams_like_plain(model, [image()], 8).plan.barriers == ()


def test_an_autograd_function(register: Callable[..., None]) -> None:
    model = Reaching(apply_sine).double()
    assert "Sine" in reasons(model, 2, 3, 21, 18)[0]
    register(Sine, LocalRule.pointwise())
    for tile_size in (6, 13):
        streamed = assert_streams_like_plain(model, [image()], tile_size)
        assert streamed._plan.barriers == ()
    assert 'Sine_apply(before, w["beta"])' in streamed.source


def test_a_function_of_torch(register: Callable[..., None]) -> None:
    def sinc_of(x: Tensor) -> Tensor:
        return torch.sinc(x)

    register(torch.sinc, LocalRule.pointwise(sinc_of))
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Net(lambda n, x: torch.sinc(x))).double()
    streamed = assert_streams_like_plain(model, [image()], 8)
    assert streamed._plan.barriers == ()
    assert "sinc_of(" in streamed.source


def test_a_call_that_cannot_be_written_is_traced_into(register: Callable[..., None]) -> None:
    def apply(x: Tensor, act: Callable[[Tensor], Tensor]) -> Tensor:
        return act(x) + 1

    register(apply, LocalRule.pointwise())
    model = nn.Sequential(nn.Conv2d(3, 4, 3), Net(lambda n, x: apply(x, torch.relu))).double()
    streamed = assert_streams_like_plain(model, [image()], 8)
    assert "t.rectify(" in streamed.source


# ---------------------------------------------------------------------------------------------------- program and plan


def test_the_program_imports_what_it_calls(register: Callable[..., None]) -> None:
    register(Mixed, MIXED)
    source = streamplan.compile(OneMixed().double(), (2, 3, 21, 18), 9).source
    assert "from tests.features.registered_nets import mixed as mixed_1\n" in source  # `mixed` is a value of the net
    assert "mixed = t.expect(mixed_1(" in source


def test_a_local_function_is_named_without_an_import(register: Callable[..., None]) -> None:
    def swish_here(x: Tensor, beta: Tensor) -> Tensor:
        return x * torch.sigmoid(beta * x)

    register(swish, LocalRule.pointwise(swish_here))
    streamed = streamplan.compile(Reaching(WAYS["closure"]), (2, 3, 21, 18), 9)
    assert 'swish = t.expect(swish_here(before, beta=w["beta"]), "swish")' in streamed.source
    assert "import swish_here" not in streamed.source


def test_two_functions_of_one_name_stay_apart(register: Callable[..., None]) -> None:
    def make(factor: float) -> Callable[..., Tensor]:
        def scale(x: Tensor) -> Tensor:
            return torch.special.xlogy(torch.full_like(x, factor), x.square() + 2)

        return scale

    one, two = make(2.0), make(3.0)
    register(one, LocalRule.pointwise())
    register(two, LocalRule.pointwise())
    model = Net(lambda n, x: two(n.conv(one(n.conv(x)))), conv=nn.Conv2d(3, 3, 3)).double()
    streamed = assert_streams_like_plain(model, [image()], 9)
    assert streamed._plan.barriers == ()


def test_a_streamed_module_survives_pickling(register: Callable[..., None]) -> None:
    register(Mixed, MIXED)
    model = OneMixed().double()
    streamed = streamplan.compile(model, (2, 3, 21, 18), 8)
    copied = pickle.loads(pickle.dumps(streamed))
    assert copied.source == streamed.source
    assert_same_results(run(copied, copied, [image()]), run(model, model, [image()]), 1e-10)


def test_a_plan_knows_its_rules(register: Callable[..., None]) -> None:
    model = Reaching(swish)
    prints = set()
    for rule in (
        None,
        LocalRule.pointwise(),
        LocalRule.pointwise(layout="any"),
        LocalRule.pointwise(with_free_variable()),
        LocalRule.windowed(None, kernel=1),
        LocalRule.windowed(None, kernel=1, border=1.0),
    ):
        if rule is not None:
            register(swish, rule, override=True)
        prints.add(streamplan.plan(model, (2, 3, 21, 18), 9).fingerprint)
        assert streamplan.plan(model, (2, 3, 21, 18), 9).fingerprint in prints
    assert len(prints) == 6


def test_a_compiled_module_keeps_its_program(register: Callable[..., None]) -> None:
    register(swish, LocalRule.pointwise())
    model = Reaching(swish).double()
    streamed = streamplan.compile(model, (2, 3, 21, 18), 9)
    stored = streamplan.Plan.from_json(streamed._plan.to_json())
    expected, source = run(model, model, [image()]), streamed.source
    register(swish, LocalRule.pointwise(lambda x, beta: x * 0 + beta), override=True)
    assert_same_results(run(streamed, model, [image()]), expected, 1e-10)
    assert streamed.source == source
    with pytest.raises(errors.PlanMismatchError):
        streamplan.compile(model, plan=stored)
    streamplan.unregister_rule(swish)
    assert_same_results(run(streamed, model, [image()]), expected, 1e-10)
    assert "xlogy" in reasons(model, 2, 3, 21, 18)[0]


# ------------------------------------------------------------------------------------------------------------- override


def test_streamplans_own_rule_can_be_replaced(register: Callable[..., None]) -> None:
    def convolve(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.einsum("bcyxij,ocij->boyx", x.unfold(2, 3, 1).unfold(3, 3, 1), weight) + bias.view(-1, 1, 1)

    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.Conv2d(4, 2, 3, padding=1)).double()
    rule = LocalRule.windowed(convolve, kernel=lambda m: m.kernel_size, padding=lambda m: m.padding)
    with pytest.raises(errors.RuleConflictError):
        register(nn.Conv2d, rule)
    register(nn.Conv2d, rule, override=True)
    streamed = assert_streams_like_plain(model, [image()], 9)
    assert streamed.source.count("t.expect(convolve(") == 2
    streamplan.unregister_rule(nn.Conv2d)
    assert "convolve" not in streamplan.compile(model, (2, 3, 21, 18), 9).source


def test_an_override_replaces_the_rule_before(register: Callable[..., None]) -> None:
    register(swish, LocalRule.windowed(None, kernel=1))
    register(swish, LocalRule.pointwise(), override=True)
    assert assert_streams_like_plain(Reaching(swish).double(), [image()], 9).plan.barriers == ()


# -------------------------------------------------------------------------------------------------------- wrong rules


class Constant(Rule):
    """A rule of a class of its own."""

    def classify(self, ctx: Any) -> Verdict:
        return Verdict(Locality.POINTWISE)

    def emit(self, ctx: Any, code: Any) -> str:
        return f"{code.window(ctx.call.arguments['input'])} * {code.value(ctx.call.arguments['scale'])}"


class Scaled(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.5))

    def forward(self, picture: Tensor) -> Tensor:
        return torch.special.xlogy(picture.square() * 0, 1 + picture.square()) + picture * self.scale


def variadic(*maps: Tensor) -> Tensor:
    return maps[0]


def takes_input(x: Tensor, input: Tensor) -> Tensor:
    return x + input


def nothing() -> None:
    """Takes no map."""


POINT = LocalRule.pointwise(lambda x: x)
REFUSALS: dict[str, tuple[Callable[[], Any], type[Exception]]] = {
    "instance": (lambda: streamplan.register_rule(Mixed(2), POINT), errors.RuleTargetError),
    "container": (lambda: streamplan.register_rule(nn.Sequential, POINT), errors.RuleTargetError),
    "class": (lambda: streamplan.register_rule(dict, POINT), errors.RuleTargetError),
    "text": (lambda: streamplan.register_rule("swish", POINT), errors.RuleTargetError),
    "partial": (lambda: streamplan.register_rule(functools.partial(pow, 2), POINT), errors.RuleTargetError),
    "method": (lambda: streamplan.register_rule(Mixed.forward, POINT), errors.RuleTargetError),
    "builtin": (lambda: streamplan.register_rule(len, POINT), errors.RuleTargetError),
    "variadic": (lambda: streamplan.register_rule(variadic, POINT), errors.RuleTargetError),
    "named_input": (lambda: streamplan.register_rule(takes_input, POINT), errors.RuleTargetError),
    "no_parameter": (lambda: streamplan.register_rule(nothing, POINT), errors.RuleTargetError),
    "no_run": (lambda: streamplan.register_rule(Mixed, LocalRule.pointwise()), errors.RuleTargetError),
    "no_signature": (lambda: streamplan.register_rule(torch.sinc, LocalRule.pointwise()), errors.RuleTargetError),
    "rule_class": (lambda: streamplan.register_rule(Mixed, LocalRule), errors.RuleTargetError),
    "rule_function": (lambda: streamplan.register_rule(Mixed, mixed), errors.RuleTargetError),
    "known": (lambda: streamplan.register_rule(nn.ReLU, POINT), errors.RuleConflictError),
    "known_function": (lambda: streamplan.register_rule(F.gelu, POINT), errors.RuleConflictError),
    "known_global": (lambda: streamplan.register_rule(nn.GroupNorm, POINT), errors.RuleConflictError),
    "not_registered": (lambda: streamplan.unregister_rule(Mixed), errors.RuleTargetError),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_a_wrong_registration_is_refused(name: str) -> None:
    call, kind = REFUSALS[name]
    before = dict(TARGETS)
    with pytest.raises(kind) as caught:
        call()
    assert isinstance(caught.value, TypeError if kind is errors.RuleTargetError else ValueError)
    assert_matches_golden(str(caught.value), f"error_rule_{name}")
    assert before == TARGETS


def test_a_second_registration_is_refused(register: Callable[..., None]) -> None:
    register(Mixed, MIXED)
    with pytest.raises(errors.RuleConflictError) as caught:
        register(Mixed, MIXED)
    assert_matches_golden(str(caught.value), "error_rule_twice")


WRONG_RULES: dict[str, LocalRule] = {
    "missing_attribute": LocalRule.pointwise(lambda x, weight, temperature: x),
    "wrong_path": LocalRule.pointwise(lambda x, weight: x, attributes={"weight": "inner.weight"}),
    "object_attribute": LocalRule.pointwise(lambda x, forward: x),
    "tensor_setting": LocalRule.pointwise(lambda x, weight: x, attributes={"weight": lambda m: m.weight}),
    "wrong_kernel": LocalRule.windowed(lambda x: x, kernel=lambda m: m.weight.shape[1:].numel() / 2),
    "wrong_stride": LocalRule.windowed(lambda x: x, kernel=3, stride=0),
    "wrong_border": LocalRule.windowed(lambda x: x, kernel=3, border="mirror"),
    "failing_setting": LocalRule.windowed(lambda x: x, kernel=lambda m: m.kernel_size),
}


@pytest.mark.parametrize("name", WRONG_RULES)
def test_a_rule_that_does_not_fit_is_an_error(register: Callable[..., None], name: str) -> None:
    register(Depthwise, WRONG_RULES[name])
    with pytest.raises(errors.RuleError) as caught:
        streamplan.plan(OneDepthwise(2, (3, 3), 1, 1), (1, 2, 16, 16))
    text = re.sub(r"(\.py):\d+:", r"\1:LINE:", str(caught.value))
    assert_matches_golden(text, f"error_rule_{name}")


UNFIT_RULES: dict[str, tuple[LocalRule, str]] = {
    "axes": (LocalRule.windowed(weighted, kernel=(3, 3, 3)), "its window is not one of 2 axes"),
    "extents": (LocalRule.pointwise(weighted), "its result has other extents than its map"),
    "border": (LocalRule.windowed(weighted, kernel=3, padding=16, border="reflect"), "wider than the map"),
}


@pytest.mark.parametrize("name", UNFIT_RULES)
def test_a_rule_that_does_not_apply_leaves_the_call_resident(register: Callable[..., None], name: str) -> None:
    rule, reason = UNFIT_RULES[name]
    register(Depthwise, rule)
    model = OneDepthwise(2, (3, 3), 2, 1).double()
    assert reasons(model, 1, 2, 16, 16)[0].endswith(reason)
    assert_streams_like_plain(model, [image(1, 2, 16, 16)], 8)


def test_a_run_that_pads_is_noticed(register: Callable[..., None]) -> None:
    def pads(x: Tensor, weight: Tensor, bias: Tensor, stride: int) -> Tensor:
        return weighted(F.pad(x, (1, 1, 1, 1)), weight, bias, stride)

    register(Depthwise, LocalRule.windowed(pads, kernel=3, padding=1))
    streamed = streamplan.compile(OneDepthwise(2, (3, 3), 1, 1), (1, 2, 16, 16), 10)
    with pytest.raises(errors.RuleError) as caught:
        streamed(torch.zeros(1, 2, 16, 16))
    assert_matches_golden(str(caught.value), "error_rule_run_pads")


def test_a_wrong_window_is_noticed_by_verify(register: Callable[..., None]) -> None:
    model = OneDepthwise(2, (3, 3), 1, 1)
    model.depthwise.border = 0.0
    register(Depthwise, LocalRule.windowed(weighted, kernel=3, padding=0))  # the module pads by 1
    with pytest.raises(errors.VerificationError):
        streamplan.verify(model, (1, 2, 16, 16), tile_size=10)
    register(Depthwise, LocalRule.windowed(weighted, kernel=3, padding=1), override=True)
    assert streamplan.verify(model, (1, 2, 16, 16), tile_size=10).passed


def test_a_rule_of_a_class_of_its_own(register: Callable[..., None]) -> None:
    register(Scaled, Constant())
    model = nn.Sequential(nn.Conv2d(3, 2, 3), Scaled()).double()
    streamed = assert_streams_like_plain(model, [image()], 9)
    assert streamed._plan.barriers == ()
    assert '* w["1.scale"]' in streamed.source


def test_the_module_of_the_functions_is_not_changed() -> None:
    assert isinstance(registered_nets.swish, types.FunctionType)
    assert registered_nets.swish.__code__.co_name == "swish"
