"""Images of many sizes: a size that the model's code does not look at needs no other trace, and every plan is right.

The oracle is `compile` for the new size, which traces the model; outputs and gradients are those of the plain net.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.overrides import _get_current_function_mode

import streamplan
from streamplan.errors import StreamPlanError, TraceMismatchError
from streamplan.module.streamed_module import _MAX_EXECUTABLES
from streamplan.trace.reads import ReadMode
from tests.draws import draw_until, num_examples
from tests.module.compare import assert_same_step
from tests.module.small_nets import Classifier, Heads, Masked, TwoImages
from tests.nets.convnext import convnext_tiny
from tests.nets.deeplab import deeplabv3
from tests.nets.densenet import densenet121
from tests.nets.inception import inception_v3
from tests.nets.mobilenet import mobilenet_v2
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18, resnet50
from tests.nets.unet import unet, unet3d, unet_bilinear
from tests.strategies import ALL, Recipe, nets

_EXAMPLES = 10
_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


_SEEN: dict[int, int] = {}
"""Traces by the `id` of a note; not in the note itself, where a count would be part of the model's state."""


class Counted(nn.Module):
    """A net that counts how often it was traced; a trace runs it once without a tracer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.note = _Note()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        self.note()
        return self.net(*args, **kwargs)


class _Note:
    """Counts the plain runs of traces for all copies of a net."""

    def __call__(self) -> None:
        if isinstance(_get_current_function_mode(), ReadMode):
            _SEEN[id(self)] = _SEEN.get(id(self), 0) + 1

    def __deepcopy__(self, memo: Any) -> _Note:
        return self


def counted(net: nn.Module) -> tuple[Counted, Callable[[], int]]:
    """The net, counting, and the number of traces so far."""
    net = Counted(net)
    _SEEN[id(net.note)] = 0
    return net, lambda: _SEEN[id(net.note)]


def source_of_last(streamed: streamplan.StreamedModule) -> str:
    return next(reversed(streamed._executables.values())).program.program.source


def _outcome(way: Callable[[], Any]) -> Any:
    """What a call returns, or the error it raises."""
    try:
        return way()
    except StreamPlanError as error:
        return error


def assert_planned_as_by_compile(
    streamed: streamplan.StreamedModule, model: nn.Module, size: tuple[int, ...], **options: Any
) -> bool:
    """Raise unless a size is planned, or refused, as `compile` does it. Returns whether there is a plan."""
    fresh = _outcome(lambda: streamplan.compile(model, size, **options))
    plan = _outcome(lambda: streamed.plan_for(size))
    if isinstance(fresh, StreamPlanError):
        assert type(plan) is type(fresh)
        assert str(plan) == str(fresh)
        return False
    assert plan == fresh.plan
    assert plan.to_json() == fresh.plan.to_json()
    assert str(plan) == str(fresh.plan)
    assert source_of_last(streamed) == fresh.source
    return True


# ------------------------------------------------------------------------------------------------------- the same plan


@pytest.mark.parametrize("family", ALL)
def test_random_nets_are_planned_as_by_compile(family: str) -> None:
    planned, retraced = [], []

    @settings(max_examples=num_examples(_EXAMPLES), phases=_PHASES, suppress_health_check=[HealthCheck.too_slow])
    @given(nets((family,)), st.data())
    def check(recipe: Recipe, data: st.DataObject) -> None:
        model, num_traces = counted(recipe.build())
        options: dict[str, Any] = {"halo": data.draw(st.sampled_from(["reuse", "recompute"])), "dtype": torch.float64}
        options["tile_size"] = data.draw(st.sampled_from([max(2, min(recipe.extents) // 3), max(recipe.extents)]))
        try:
            streamed = streamplan.compile(model, recipe.input_size, **options)
        except StreamPlanError:
            return
        for _ in range(3):
            extents = [max(1, extent + data.draw(st.integers(-3, 9))) for extent in recipe.extents]
            size = (data.draw(st.integers(1, 3)), recipe.input_size[1], *extents)
            before = num_traces()
            if assert_planned_as_by_compile(streamed, model, size, **options):
                planned.append(size)
                retraced.append(num_traces() - before > 1)  # `compile` traces once

    draw_until(check, lambda: len(planned) >= num_examples(_EXAMPLES) and not all(retraced))


NETS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], list[tuple[int, ...]], bool]] = [
    ("resnet18", lambda: resnet18(4), (1, 3, 128, 96), [(1, 3, 97, 201), (2, 3, 128, 96), (1, 3, 160, 64)], True),
    ("resnet50", lambda: resnet50(4), (1, 3, 128, 96), [(1, 3, 96, 200), (3, 3, 65, 129)], True),
    ("densenet121", lambda: densenet121(4), (1, 3, 128, 96), [(1, 3, 96, 160)], True),
    ("inception_v3", lambda: inception_v3(4), (1, 3, 139, 101), [(1, 3, 99, 150)], True),
    ("mobilenet_v2", lambda: mobilenet_v2(8), (1, 3, 128, 96), [(2, 3, 99, 150)], True),
    ("convnext_tiny", lambda: convnext_tiny(4), (1, 3, 128, 96), [(1, 3, 96, 160)], True),
    ("unet", lambda: unet(2, 3), (1, 3, 64, 48), [(1, 3, 80, 112), (2, 3, 64, 48)], True),
    ("unet3d", lambda: unet3d(2, 2), (1, 1, 24, 16, 16), [(1, 1, 16, 20, 28)], False),
    ("unet_bilinear", lambda: unet_bilinear(2, 3), (1, 3, 64, 48), [(1, 3, 75, 50)], False),
    ("deeplab", lambda: deeplabv3(4), (1, 3, 64, 96), [(1, 3, 96, 64)], False),
]


_MORE = dict.fromkeys(
    ("densenet121", "inception_v3", "resnet50", "deeplab", "convnext_tiny", "mobilenet_v2"), pytest.mark.more
)
"""The most expensive of them."""


@pytest.mark.parametrize(
    ("build", "size", "others", "is_free"), [pytest.param(*n[1:], id=n[0], marks=_MORE.get(n[0], [])) for n in NETS]
)
def test_nets_of_the_literature_are_planned_as_by_compile(
    build: Callable[[], nn.Module], size: tuple[int, ...], others: list[tuple[int, ...]], is_free: bool
) -> None:
    model, num_traces = counted(build().eval())
    tile = tuple(max(8, extent // 2) for extent in size[2:])
    streamed = streamplan.compile(model, size, tile)
    for other in others:
        before = num_traces()
        assert assert_planned_as_by_compile(streamed, model, other, tile_size=tile)
        assert num_traces() - before == (1 if is_free else 2)  # one of them is `compile`'s


@pytest.mark.parametrize(
    "options",
    [
        {"tile_size": 24, "halo": "recompute", "passes": ()},
        {"tile_size": (16, 40), "cut": "net.layer2", "carries": "host", "keep_tiles": 2},
        {"tile_size": 32, "batch_norm": "frozen"},
        {"tile_size": 32, "batch_norm": "resident"},
        {"memory_budget": "1GiB"},
    ],
    ids=["recompute", "cut", "frozen", "resident", "budget"],
)
def test_the_options_of_compile_apply_again(options: dict[str, Any]) -> None:
    options = {**options, "halo": options.get("halo", "reuse")}
    model, _ = counted(resnet18(4).train("batch_norm" in options))
    if options["halo"] == "recompute":
        options["cut"] = "net.maxpool"
    streamed = streamplan.compile(model, (2, 3, 64, 64), **options)
    for size in ((2, 3, 96, 81), (1, 3, 50, 128)):
        assert assert_planned_as_by_compile(streamed, model, size, **options)


# ------------------------------------------------------------------------------------------------------------- numbers


def image(*size: int, seed: int = 3) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize(
    ("build", "sizes"),
    [
        (Classifier, [(2, 3, 29, 23), (2, 3, 41, 31), (1, 3, 18, 50), (3, 3, 23, 29)]),
        (Heads, [(2, 3, 29, 23), (1, 3, 30, 17), (2, 3, 16, 44)]),
        (lambda: resnet18(2, 5), [(1, 3, 64, 64), (1, 3, 47, 96), (2, 3, 70, 33)]),
        (lambda: unet(2, 2), [(1, 3, 32, 32), (1, 3, 48, 24)]),
        (lambda: unet_bilinear(2, 2), [(1, 3, 32, 32), (1, 3, 47, 25)]),
    ],
    ids=["classifier", "heads", "resnet18", "unet", "unet_bilinear"],
)
def test_outputs_and_gradients_at_every_size(build: Callable[[], nn.Module], sizes: list[tuple[int, ...]]) -> None:
    model = randomize_(build().double().eval(), 1)
    streamed = streamplan.compile(model, sizes[0], 16)
    for size in (*sizes, sizes[0]):
        assert streamed.plan_for(size).num_tiles > 1
        assert_same_step(model, streamed, image(*size), floor=1e-5)


def test_several_inputs_of_other_sizes() -> None:
    model, num_traces = counted(TwoImages().double())
    streamed = streamplan.compile(model, ((2, 3, 29, 23), (2, 1, 29, 23)), 13)
    assert_same_step(model, streamed, image(2, 3, 29, 23), image(2, 1, 29, 23))
    before = num_traces()
    streamed(image(1, 3, 33, 40), image(1, 1, 33, 40))
    assert num_traces() == before
    assert_same_step(model, streamed, image(1, 3, 33, 40), image(1, 1, 33, 40))


def test_another_constant_argument_is_another_trace() -> None:
    """1, 1.0 and True are equal in Python."""
    model, num_traces = counted(Masked().double())
    streamed = streamplan.compile(model, example_inputs={"image": image(2, 3, 29, 23), "scale": 1.0}, tile_size=13)
    before = num_traces()
    streamed(image=image(2, 3, 35, 20), scale=1.0)
    assert num_traces() == before
    streamed(image=image(2, 3, 35, 20), scale=2.0)
    assert num_traces() == before + 1
    assert_same_step(model, streamed, image=image(2, 3, 20, 35), scale=2.0)


# ----------------------------------------------------------------------------------------------- dependence on the size


class Sized(nn.Module):
    """Two convolutions with a function of the map, and of the net, between them."""

    def __init__(self, between: Callable[[Any, Tensor], Tensor]) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3, padding=1)
        self.second = nn.Conv2d(4, 2, 3, padding=1)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.second(self.between(self, torch.relu(self.first(x))))
        return y


def _large_or_small(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.shape[-1] > 30 else x * 2


def _large_by_number(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.numel() > 4 * 30 * 30 else x * 2


def _large_by_torch_function(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if torch.numel(x) > 4 * 30 * 30 else x * 2


def _large_by_stride(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.stride(2) > 30 else x * 2


def _large_by_bytes(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.nbytes > 8 * 4 * 30 * 30 else x * 2


def _large_by_length(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if len(x[0, 0, 0]) > 30 else x * 2


def _large_by_flattened(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.flatten().size(0) > 4 * 30 * 30 else x * 2


def _large_by_pieces(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if len(x.split(16, dim=3)) > 2 else x * 2


def _large_by_error(net: Any, x: Tensor) -> Tensor:
    try:
        return x + x[:, :, :30, :30]
    except RuntimeError:
        return x * 2


def _large_by_error_at_large(net: Any, x: Tensor) -> Tensor:
    try:
        return x + torch.zeros(30, 30, dtype=x.dtype)
    except RuntimeError:
        return torch.tanh(x)


def _ramp(net: Any, x: Tensor) -> Tensor:
    return x * torch.linspace(0, 1, x.shape[-1], dtype=x.dtype)


def _ramp_like(net: Any, x: Tensor) -> Tensor:
    return x + torch.ones_like(x).cumsum(-1) * 0.1


def _resize(net: Any, x: Tensor) -> Tensor:
    return F.interpolate(F.avg_pool2d(x, 2), size=x.shape[-2:], mode="bilinear")


def _crop(net: Any, x: Tensor) -> Tensor:
    return x[:, :, : x.size(2) // 2 + 3]


def _cached(net: Any, x: Tensor) -> Tensor:
    if getattr(net, "grid", None) is None or net.grid.shape != x.shape[-2:]:
        net.grid = torch.ones(x.shape[-2:], dtype=x.dtype)
    return x * net.grid


def _unsqueezed(net: Any, x: Tensor) -> Tensor:
    y = (x * 1.0).unsqueeze_(0)
    return (torch.tanh(y) if y.shape[-1] > 30 else y * 2)[0]


def _kept_elsewhere(net: Any, x: Tensor) -> Tensor:
    seen = [x]
    return torch.tanh(x) if seen[-1].shape[-1] > 30 else x * 2


def _large_by_text(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if "50" in f"{x.shape}" else x * 2


def _large_by_comparison(net: Any, x: Tensor) -> Tensor:
    return torch.tanh(x) if x.is_same_size(torch.empty(1, 4, 40, 50)) else x * 2


def _image_by_image(net: Any, x: Tensor) -> Tensor:
    return torch.stack([single * (index + 1) for index, single in enumerate(x)])


def _overwritten(net: Any, x: Tensor) -> Tensor:
    """A write through a part of the map is a write to all of it where the part is as large."""
    y = x * 1.0
    y[:, :, :23, :23].mul_(2)
    return y


READERS = [
    *(_large_or_small, _large_by_number, _large_by_torch_function, _large_by_stride, _large_by_bytes),
    *(_large_by_length, _large_by_flattened, _large_by_pieces, _large_by_error, _large_by_error_at_large),
    *(_ramp, _ramp_like, _resize, _crop, _cached, _unsqueezed, _overwritten),
    *(_kept_elsewhere, _large_by_text, _large_by_comparison, _image_by_image),
]
SIZES = [(1, 3, 29, 23), (1, 3, 30, 30), (1, 3, 40, 50), (2, 3, 23, 23), (1, 3, 29, 23)]


@pytest.mark.parametrize("between", READERS, ids=[f.__name__ for f in READERS])
@pytest.mark.parametrize("order", [1, pytest.param(-1, marks=pytest.mark.more)], ids=["from small", "from large"])
def test_a_net_that_depends_on_its_size_is_right_or_refused(
    between: Callable[[Any, Tensor], Tensor], order: int
) -> None:
    """At every size as `compile` has it, plan, program and errors; where there is a plan, the plain net's numbers."""
    model = randomize_(Sized(between).double().eval(), 2)
    sizes = SIZES[::order]
    if order < 0:
        sizes = sizes[2:]
    streamed = streamplan.compile(model, sizes[0], 12)
    planned = 0
    for size in sizes:
        try:
            copy.deepcopy(model)(image(*size))
        except RuntimeError:  # the plain net does not run either
            with pytest.raises(StreamPlanError):
                streamed.plan_for(size)
            continue
        if assert_planned_as_by_compile(streamed, model, size, tile_size=12):
            planned += 1
            assert_same_step(model, streamed, image(*size))
    assert planned > 1


def test_a_net_that_looks_at_the_size_only_where_it_is_not_traced() -> None:
    """The trace would miss the read; the plain run it is compared with does not."""

    def between(net: Any, x: Tensor) -> Tensor:
        return torch.tanh(x) if not hasattr(x, "recorder") and x.shape[-1] > 45 else x * 2

    model = randomize_(Sized(between).double().eval(), 2)
    streamed = streamplan.compile(model, (1, 3, 29, 23), 12)
    assert_same_step(model, streamed, image(1, 3, 40, 44))
    with pytest.raises(TraceMismatchError):
        streamed(image(1, 3, 40, 46))


def test_a_branch_on_the_size_is_traced_once_for_each_side() -> None:
    def between(net: Any, x: Tensor) -> Tensor:
        return torch.tanh(x) if x.size(-1) > 30 else x * 2

    model, num_traces = counted(Sized(between).double().eval())
    streamed = streamplan.compile(model, (1, 3, 29, 23), 12)
    counts = []
    for size in ((1, 3, 40, 23), (1, 3, 29, 50), (1, 3, 60, 50), (1, 3, 61, 23)):
        streamed.plan_for(size)
        counts.append(num_traces())
    assert counts == [1, 2, 2, 2]


def test_what_no_size_decides_is_kept() -> None:
    """The canonical form of a convolution, and the code of the program; a slice from the end has another one."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)[:, :, :-1]).mean((2, 3))

    streamed = streamplan.compile(Net(), (1, 3, 32, 32), 16)
    streamed.plan_for((1, 3, 40, 32))
    first, other = streamed._executables.values()
    calls, others = ({call.op: call for call in x.prepared.traced.graph.calls} for x in (first, other))
    assert others["conv"].arguments is calls["conv"].arguments
    assert others["conv"].output != calls["conv"].output
    assert calls["slice"].arguments["index"][2] == (0, 31, 1)
    assert others["slice"].arguments["index"][2] == (0, 39, 1)
    programs = first.program.program, other.program.program
    assert programs[0].source != programs[1].source
    assert programs[0].code == programs[1].code
    lines = [[line.rsplit("  # ", 1)[0].rstrip() for line in text.splitlines()[1:]] for text in
             (programs[0].source, programs[0].code)]  # fmt: skip
    assert lines[0] == lines[1]


def test_a_module_that_holds_its_parent() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.conv.owner = self

        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(self.conv(x)).mean((2, 3))

    streamed = streamplan.compile(Net(), (1, 3, 32, 32), 16)
    image = torch.rand(1, 3, 40, 24)
    with torch.no_grad():
        torch.testing.assert_close(streamed(image), streamed._model(image))


def test_a_read_that_is_answered_alike_costs_no_trace() -> None:
    """Behind the global pool the map has one sample whatever the image; its batch and channels stay."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.fc = nn.Linear(4, 2)

        def forward(self, x: Tensor) -> Tensor:
            assert x.dim() == 4
            assert x.size(1) == 3
            x = F.adaptive_avg_pool2d(torch.relu(self.conv(x)), 1)
            y: Tensor = self.fc(x.view(x.shape[0], -1))
            return y

    model, num_traces = counted(Net().double())
    streamed = streamplan.compile(model, (1, 3, 30, 30), 12)
    assert_same_step(model, streamed, image(1, 3, 41, 52))
    before = num_traces()
    streamed(image(1, 3, 42, 50))
    assert num_traces() == before
    streamed(image(2, 3, 42, 50))
    assert num_traces() == before + 1
    assert_same_step(model, streamed, image(2, 3, 42, 50))
    assert_same_step(model, streamed, image(1, 3, 44, 50))


# --------------------------------------------------------------------------------------------------- a model that moves


@pytest.fixture
def counting() -> tuple[Counted, Callable[[], int], streamplan.StreamedModule]:
    model, num_traces = counted(randomize_(Classifier().double().eval(), 1))
    return model, num_traces, streamplan.compile(model, (2, 3, 29, 23), 13)


def _use_other_activation(net: Any) -> None:
    net.stem[2] = nn.SiLU()


def _use_other_stride(net: Any) -> None:
    net.body[0].stride = (1, 1)


def _drop_bias(net: Any) -> None:
    net.body[0].bias = None


def _use_wider_layer(net: Any) -> None:
    net.fc = nn.Linear(4, 9).double()


def _train(net: Any) -> None:
    net.norm.train()


def _freeze(net: Any) -> None:
    net.body[0].weight.requires_grad_(False)


@pytest.mark.parametrize(
    "change", [_use_other_activation, _use_other_stride, _drop_bias, _use_wider_layer, _train, _freeze]
)
def test_a_changed_model_is_traced_again(counting: Any, change: Callable[[Any], None]) -> None:
    model, num_traces, streamed = counting
    streamed.plan_for((2, 3, 31, 31))
    assert num_traces() == 1
    change(model.net)
    streamed.plan_for((2, 3, 30, 30))
    assert num_traces() == 2
    assert assert_planned_as_by_compile(streamed, model, (2, 3, 40, 25), tile_size=13)
    assert_same_step(model, streamed, image(6, 3, 41, 26))  # BatchNorm over two vectors has gradients of rounding alone


def test_training_steps_need_no_trace(counting: Any) -> None:
    model, num_traces, streamed = counting
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for step in range(4):
        optimizer.zero_grad()
        streamed(image(2, 3, 25 + step, 30)).square().sum().backward()
        optimizer.step()
    assert num_traces() == 1
    assert_same_step(model, streamed, image(2, 3, 44, 30))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["copy", "pickle"])
def test_copies_plan_other_sizes(copied: Callable[[Any], Any]) -> None:
    model = Classifier().double().eval()
    streamed = streamplan.compile(model, (2, 3, 29, 23), 13)
    streamed.plan_for((2, 3, 31, 31))
    twin = copied(streamed)
    assert twin.plan_for((2, 3, 40, 25)) == streamed.plan_for((2, 3, 40, 25))
    assert_same_step(model, twin, image(2, 3, 33, 26))


# ----------------------------------------------------------------------------------------------------- errors and cache


def test_a_size_that_is_too_small_is_refused_as_by_compile(counting: Any) -> None:
    model, _, streamed = counting
    for size in ((2, 3, 2, 23), (2, 3, 29, 1)):
        assert not assert_planned_as_by_compile(streamed, model, size, tile_size=13)
    with pytest.raises(StreamPlanError) as called:
        streamed(image(2, 3, 2, 23))
    with pytest.raises(StreamPlanError) as compiled:
        streamplan.compile(model, (2, 3, 2, 23), 13)
    assert str(called.value) == str(compiled.value)
    assert_same_step(model, streamed, image(2, 3, 30, 30))


def test_a_tile_that_is_too_small_for_a_size_is_refused_as_by_compile() -> None:
    """Resized to 8 x 8, neighbours are the further apart, the larger the image is."""
    resize = nn.Upsample(size=(8, 8), mode="bilinear")
    model = nn.Sequential(nn.Conv2d(3, 4, 3), resize, nn.Conv2d(4, 2, 3, padding=1)).double()
    options: dict[str, Any] = {"tile_size": 25, "halo": "recompute"}
    streamed = streamplan.compile(model, (1, 3, 34, 34), **options)
    outcomes = [
        assert_planned_as_by_compile(streamed, model, (1, 3, extent, 34), **options) for extent in (34, 30, 200, 28)
    ]
    assert outcomes == [True, True, False, True]


def test_the_size_used_least_recently_is_dropped(counting: Any) -> None:
    model, num_traces, streamed = counting
    sizes = [(1, 3, 20 + extra, 20) for extra in range(_MAX_EXECUTABLES)]
    for size in sizes[:-1]:
        streamed.plan_for(size)
    kept = list(streamed._executables)  # the size of `compile` and the sizes but the last: full
    assert len(kept) == _MAX_EXECUTABLES
    streamed.plan_for((2, 3, 29, 23))  # used again: the first of the others is now the oldest
    streamed.plan_for(sizes[-1])
    assert len(streamed._executables) == _MAX_EXECUTABLES
    assert kept[0] in streamed._executables
    assert kept[1] not in streamed._executables
    assert kept[2] in streamed._executables
    assert num_traces() == 1
    assert assert_planned_as_by_compile(streamed, model, sizes[0], tile_size=13)


# ----------------------------------------------------------------------------------------------------- registered rules


def _scaled(x: Tensor, power: int) -> Tensor:
    return x * 0.5**power


def _scaled_by_channels(x: Tensor, power: int) -> Tensor:
    return x * float(x.shape[1]) ** -power


@pytest.mark.parametrize(("function", "num_more"), [(_scaled, 0), (_scaled_by_channels, 1)])
def test_a_function_with_a_rule_that_reads_a_shape_is_traced_again(
    function: Callable[[Tensor, int], Tensor], num_more: int
) -> None:
    """Its own code is one call of the graph; what it reads there is not told apart, so any read counts."""
    streamplan.register_rule(function, streamplan.LocalRule.pointwise(function))
    try:
        model, num_traces = counted(randomize_(Sized(lambda net, x: function(x, 2)).double().eval(), 4))
        streamed = streamplan.compile(model, (1, 3, 29, 23), 12)
        streamed.plan_for((1, 3, 40, 30))
        assert num_traces() == 1 + num_more
        assert assert_planned_as_by_compile(streamed, model, (1, 3, 33, 31), tile_size=12)
        assert_same_step(model, streamed, image(1, 3, 35, 24))
    finally:
        streamplan.unregister_rule(function)
    before = num_traces()
    assert assert_planned_as_by_compile(streamed, model, (1, 3, 36, 25), tile_size=12)
    assert num_traces() == before + 2  # without its rule, its code is traced
