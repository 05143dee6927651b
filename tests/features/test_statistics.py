"""`activation_statistics`: the numbers of whole activations, every position counted once, on images of any size."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator
from itertools import accumulate
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.profiler import ProfilerActivity, profile

import streamplan
from streamplan.costs.allocations import changes
from streamplan.errors import BatchesError, HookError, NothingToStreamError
from streamplan.features.observation import observing_executable
from streamplan.options import HaloPolicy
from tests.costs.measuring import measured_peaks
from tests.draws import draw_until, num_examples
from tests.features.whole_activations import assert_same_statistics, whole_activations
from tests.golden import assert_matches_golden
from tests.module.small_nets import Classifier, Masked, Normed, TwoImages
from tests.nets.convnext import convnext_tiny
from tests.nets.densenet import DenseNet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet, unet3d, unet_bilinear, unet_valid
from tests.planned import plan_only
from tests.strategies import Recipe, nets

HALOS: tuple[HaloPolicy, ...] = ("reuse", "recompute")


class Signal(nn.Module):
    """One axis: strides that leave samples over, a gate, a transposed convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 6, 5, stride=3)
        self.gate = nn.Conv1d(3, 3, 3, padding=1, groups=3)
        self.up = nn.ConvTranspose1d(3, 4, 4, stride=2)
        self.pool = nn.MaxPool1d(2)

    def forward(self, x: Tensor) -> Tensor:
        left, right = self.first(x).chunk(2, 1)
        return self.pool(self.up(left * torch.sigmoid(self.gate(right))))


def monai_unet() -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # MONAI's own imports warn
        from monai.networks.nets import BasicUNet
    return BasicUNet(2, 3, 2, features=(4, 4, 4, 4, 4, 4), norm="batch")


NETS: dict[str, tuple[Callable[[], nn.Module], tuple[tuple[int, ...], ...], int | tuple[int, ...]]] = {
    "ResNet": (lambda: resnet18(width=4, num_classes=3), ((2, 3, 97, 75), (1, 3, 133, 90)), 48),
    "DenseNet": (lambda: DenseNet((2, 2), width=4), ((1, 3, 93, 70), (2, 3, 70, 70)), 40),
    "U-Net, transposed": (lambda: unet(width=4, depth=2), ((1, 3, 52, 48), (2, 3, 36, 44)), (16, 24)),
    "U-Net, bilinear": (lambda: unet_bilinear(width=4, depth=1), ((1, 3, 50, 47), (1, 3, 37, 41)), 24),
    "U-Net, without padding": (lambda: unet_valid(width=4, depth=2), ((1, 1, 92, 76),), 32),
    "BasicUNet": (monai_unet, ((1, 3, 160, 48),), 64),
    "1-D": (Signal, ((2, 2, 101), (1, 2, 64)), 17),
    "3-D": (lambda: unet3d(width=2, depth=1), ((1, 1, 14, 18, 12), (2, 1, 16, 12, 10)), (8, 6, 12)),
    "classifier": (Classifier, ((2, 3, 29, 23), (1, 3, 41, 30)), (13, 11)),
}


EARLIER = {"ResNet": "layer1", "DenseNet": "features.denseblock1", "BasicUNet": "down_2", "3-D": "downs.0"}
"""Where nets are cut whose receptive field is larger than the image, if halos are computed again."""


@pytest.mark.parametrize("halo", ["reuse", pytest.param("recompute", marks=pytest.mark.more)])
@pytest.mark.parametrize("name", NETS)
def test_statistics_of_whole_activations(name: str, halo: HaloPolicy) -> None:
    make, sizes, tile_size = NETS[name]
    model = make().double().eval()
    batches = [torch.randn(size, dtype=torch.float64) for size in sizes]
    randomize_(model, 1, sample=batches[0])
    cut = "latest"
    if halo == "recompute":
        cut = EARLIER.get(name, cut)
        plans = [plan_only(model, size, size[2:], cut=cut, halo=halo) for size in sizes]
        least = [plan.smallest_tile_size for plan in plans]
        tile_size = tuple(max(along) + 3 for along in zip(*least, strict=True))
    streamed = streamplan.compile(model, sizes[0], tile_size, cut=cut, halo=halo)
    found = streamplan.activation_statistics(streamed, batches)
    assert_same_statistics(found, streamed, [(batch,) for batch in batches])
    executable = streamed._planned_executable()
    values = tuple(item.value for item in found.values())
    assert set(values) == executable.prepared.cut.streamed
    assert len(values) == len(set(values))
    assert observing_executable(streamed, executable, values).plan.num_tiles > 1


def test_forward_hooks_see_the_same() -> None:
    """Independent of how the model was traced: what hooks on the plain layers record, in-place ReLUs among them."""
    model = randomize_(resnet18(width=4).double().eval(), 1)
    streamed = streamplan.compile(model, (1, 3, 97, 75), 48)
    batches = [torch.randn(1, 3, 97, 75).double(), torch.randn(2, 3, 64, 80).double()]
    found = streamplan.activation_statistics(streamed, batches)
    plain, seen = copy.deepcopy(model), dict[str, list[Tensor]]()
    for path, module in plain.named_modules():
        if not any(module.children()):
            module.register_forward_hook(
                lambda _module, _args, out, path=path: seen.setdefault(path, []).append(
                    out.clone().movedim(1, 0).flatten(1)
                )
            )
    with torch.no_grad():
        for batch in batches:
            plain(batch)
    layers = [name for name, item in found.items() if item.module_path == name]
    assert len(layers) == 4 + 4 * 2 * 4 + 3 * 2  # each block's ReLU is called twice and has other names
    for name in layers:
        columns = torch.cat(seen[name], 1)
        assert found[name].count == columns.shape[1]
        torch.testing.assert_close(found[name].mean, columns.mean(1), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[name].std, columns.std(1, correction=0), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("halo", HALOS)
def test_positions_that_nothing_reads_count_too(halo: HaloPolicy) -> None:
    """A stride of 2 leaves the last row of 11 alone; the plain layer computes it, and so do the statistics."""
    model = nn.Sequential(nn.Conv2d(1, 2, 3, padding=1), nn.Conv2d(2, 2, 2, stride=2), nn.MaxPool2d(2)).double()
    streamed = streamplan.compile(model, (1, 1, 11, 11), 8, halo=halo)
    image = torch.zeros(1, 1, 11, 11, dtype=torch.float64)
    image[..., 10, 10] = 1.0  # the second convolution leaves row and column 10 alone
    found = streamplan.activation_statistics(streamed, [image])
    assert [item.count for item in found.values()] == [121, 25, 4]
    assert_same_statistics(found, streamed, [(image,)])
    assert float(found["0"].std.min()) > 0


_PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@pytest.mark.slow
@pytest.mark.parametrize("halo", HALOS)
def test_random_nets(halo: HaloPolicy) -> None:
    """Every position of every value counts once, whatever the net of several tiles."""
    checked = 0

    @settings(
        max_examples=num_examples(10),
        phases=_PHASES,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
    )
    @given(nets(ndims=(1, 2)), st.integers(0, 3))
    def count(recipe: Recipe, more: int) -> None:
        nonlocal checked
        model, x = recipe.build(), recipe.draw_input()
        try:
            smallest = plan_only(model, x.shape, recipe.extents, halo=halo, dtype=x.dtype).smallest_tile_size
        except NothingToStreamError:
            reject()
        quarters = [max(1, extent // 4) for extent in recipe.extents]
        size = tuple(max(least, quarter) + more for least, quarter in zip(smallest, quarters, strict=True))
        streamed = streamplan.compile(model, x.shape, size, halo=halo, dtype=x.dtype)
        assume(streamed._plan.num_tiles > 1)
        found = streamplan.activation_statistics(streamed, [x])
        executable = streamed._planned_executable()
        maps, graph = executable.prepared.facts.maps, executable.prepared.graph
        floating = {name for name in executable.prepared.cut.streamed if graph[name].output.dtype.is_floating_point}
        assert {item.value for item in found.values()} == floating
        whole = whole_activations(streamed, [x])
        for item in found.values():
            value, dims = whole[item.value], maps[item.value].dims
            pooled = (next(dim for dim in range(value.dim()) if dim not in dims), *dims)
            assert item.count * item.mean.numel() == value.numel()
            if not value.isfinite().all():  # a net may pad with -inf before a max pool
                assert not item.std.isfinite().all()
                continue
            scale = 1e-10 * (float(value.abs().max()) or 1.0)
            torch.testing.assert_close(item.mean, value.mean(pooled), rtol=0, atol=scale)
            torch.testing.assert_close(item.std, value.std(pooled, correction=0), rtol=0, atol=scale)
        checked += 1

    draw_until(count, lambda: checked >= num_examples(10))


def test_float32_with_a_large_mean() -> None:
    """The blocks are float32; their moments are those of these numbers in float64, where E[x^2] - m^2 has no digit."""
    model = nn.Sequential(nn.Conv2d(1, 1, 1, bias=False), nn.AvgPool2d(2))
    nn.init.ones_(model[0].weight)
    image = 10_000 + 0.05 * torch.randn(2, 1, 50, 43)
    streamed = streamplan.compile(model, image.shape, 16)
    found = streamplan.activation_statistics(streamed, [image])["0"]
    exact = image.double()
    assert float(found.mean) == pytest.approx(float(exact.mean()), rel=1e-14)
    assert float(found.std) == pytest.approx(float(exact.std(correction=0)), rel=1e-10)
    naive = float(image.square().mean() - image.mean().square())
    assert abs(naive - float(found.std) ** 2) > 0.1 * float(found.std) ** 2


@pytest.mark.parametrize("passes", ["all", ()])
@pytest.mark.parametrize("halo", HALOS)
def test_what_lowering_folds_away_is_there(halo: HaloPolicy, passes: Any) -> None:
    model = randomize_(Classifier().double().eval(), 3)
    image = torch.randn(1, 3, 40, 33, dtype=torch.float64)
    streamed = streamplan.compile(model, image.shape, 20, halo=halo, passes=passes)
    found = streamplan.activation_statistics(streamed, [image])
    assert list(found) == ["stem.0", "stem.1", "stem.2", "body.0", "body.1", "body.2", "mul"]
    assert_same_statistics(found, streamed, [(image,)])


class CalledTwice(nn.Module):
    """One convolution called twice, functions, and a value with the name of a module."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.add = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x) + x
        y = self.add(y)
        return F.relu(self.conv(y)) + (y > 0)


def test_names() -> None:
    streamed = streamplan.compile(CalledTwice().double(), (1, 3, 20, 20), 9)
    image = torch.randn(1, 3, 20, 20, dtype=torch.float64)
    found = streamplan.activation_statistics(streamed, [image])
    assert_same_statistics(found, streamed, [(image,)])
    assert list(found) == ["conv#1", "add'", "add", "conv#2", "relu", "add_2"]
    assert found["conv#2"].op == "conv"
    assert found["conv#2"].module_path == "conv"
    assert found["relu"].value == "relu"
    assert found["relu"].module_path == ""


def test_channels_behind_the_axes() -> None:
    """ConvNeXt permutes channels to the end for its norm and its linear layers."""
    model = randomize_(convnext_tiny(width=8, depths=(1, 1), num_classes=2).double().eval(), 1)
    image = torch.randn(2, 3, 64, 52, dtype=torch.float64)
    streamed = streamplan.compile(model, image.shape, 24)
    found = streamplan.activation_statistics(streamed, [image])
    maps = streamed._planned_executable().prepared.facts.maps
    behind = {name: 3 for name, item in found.items() if maps[item.value].dims == (1, 2)}
    assert len(behind) > 4
    assert_same_statistics(found, streamed, [(image,)], behind)


class Reductions(nn.Module):
    """Values without channels, and without anything but axes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 3)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        y = self.conv(x)
        return y.unflatten(1, (2, 3)), y.mean(1), y[0, 0] * 2


def test_other_dimensions_than_one_of_channels() -> None:
    streamed = streamplan.compile(Reductions().double(), (2, 3, 20, 17), 9)
    image = torch.randn(2, 3, 20, 17, dtype=torch.float64)
    found = streamplan.activation_statistics(streamed, [image])
    y = whole_activations(streamed, [image])["conv"]
    grouped, single = y.unflatten(1, (2, 3)), y[0, 0]
    torch.testing.assert_close(found["unflatten"].std, grouped.std((0, 3, 4), correction=0), rtol=1e-10, atol=0)
    torch.testing.assert_close(found["mean"].std, y.mean(1).std(correction=0), rtol=1e-10, atol=0)
    assert found["unflatten"].count == 2 * 18 * 15 == found["mean"].count
    torch.testing.assert_close(found["mul"].mean, 2 * single.mean(), rtol=1e-10, atol=0)
    assert found["mul"].count == 18 * 15


def test_several_inputs() -> None:
    model = randomize_(TwoImages().double(), 1)
    batches = [(torch.randn(1, 3, 40, h).double(), torch.randn(1, 1, 40, h).double()) for h in (30, 25)]
    streamed = streamplan.compile(model, [x.shape for x in batches[0]], 12)
    found = streamplan.activation_statistics(streamed, batches)
    assert_same_statistics(found, streamed, batches)
    named = streamplan.activation_statistics(streamed, [{"image": image, "other": other} for image, other in batches])
    lists = streamplan.activation_statistics(streamed, map(list, batches))
    for name, item in found.items():
        assert torch.equal(item.mean, named[name].mean)
        assert torch.equal(item.std, lists[name].std)


def test_sources_and_iterators() -> None:
    model = randomize_(Masked().double(), 1)
    arrays = [np.random.default_rng(seed).standard_normal((31 + seed, 40, 3)) for seed in range(3)]
    streamed = streamplan.compile(model, (1, 3, 31, 40), 16)

    def sources() -> Iterator[streamplan.Source]:
        for array in arrays:
            yield streamplan.Source(array, layout="HWC")

    found = streamplan.activation_statistics(streamed, sources())
    assert_same_statistics(found, streamed, [(torch.from_numpy(a).movedim(-1, 0)[None],) for a in arrays])


class ReadsItsImageLater(nn.Module):
    """The resident part reads the image as well, which a source cannot give it."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x).mean((2, 3)) + x.mean()


def test_the_resident_part_is_not_computed() -> None:
    model = ReadsItsImageLater()
    model.conv.register_parameter("unused", nn.Parameter(torch.zeros(1)))
    streamed = streamplan.compile(model, (1, 3, 32, 32), 16)
    array = np.random.default_rng(0).standard_normal((3, 32, 32)).astype(np.float32)
    with pytest.raises(streamplan.StreamPlanError):
        streamed(streamplan.Source(array))
    assert list(streamplan.activation_statistics(streamed, [streamplan.Source(array)])) == ["conv"]


def test_dropout_in_training_mode_is_one_draw() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.4), nn.Conv2d(4, 4, 3), nn.Dropout2d(0.5), nn.Conv2d(4, 2, 3)
    )
    randomize_(model.double().train(), 1)
    image = torch.randn(2, 3, 40, 33, dtype=torch.float64)
    streamed = streamplan.compile(model, image.shape, (16, 12))
    torch.manual_seed(7)
    found = streamplan.activation_statistics(streamed, [image])
    torch.manual_seed(7)
    streamed(image)
    plain, seen = copy.deepcopy(model), dict[str, Tensor]()
    for path in ("2", "4"):  # behind each kind of dropout
        plain.get_submodule(path).register_forward_hook(lambda _m, _a, out, path=path: seen.update({path: out}))
    streamplan.testing.reference(streamed, plain)(image)
    for path, out in seen.items():
        torch.testing.assert_close(found[path].mean, out.mean((0, 2, 3)), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(found[path].std, out.std((0, 2, 3), correction=0), rtol=1e-10, atol=1e-12)
    assert float(found["1"].std.min()) > 1.1 * float(found["0"].std.min())
    streamed.eval()
    still = streamplan.activation_statistics(streamed, [image])
    assert torch.equal(still["1"].std, still["0"].std)


def test_batch_norm_policies() -> None:
    model = randomize_(Normed().double(), 1).train()
    image = torch.randn(4, 3, 29, 23, dtype=torch.float64)
    frozen = streamplan.compile(model, image.shape, 13, batch_norm="frozen")
    before = {name: value.clone() for name, value in model.state_dict().items()}
    found = streamplan.activation_statistics(frozen, [image])
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    resident = streamplan.compile(model, image.shape, 13, batch_norm="resident")
    first = streamplan.activation_statistics(resident, [image])
    assert list(first) == ["features.0"]
    assert torch.allclose(first["features.0"].std, found["features.0"].std, rtol=1e-12)
    model.eval()
    evaluated = streamplan.activation_statistics(streamplan.compile(model, image.shape, 13), [image])
    assert list(evaluated)[: len(found)] == list(found)
    for name, item in found.items():
        torch.testing.assert_close(item.std, evaluated[name].std, rtol=1e-12, atol=0)


def test_an_earlier_cut() -> None:
    model = randomize_(Classifier().double().eval(), 1)
    streamed = streamplan.compile(model, (1, 3, 29, 23), 13, cut="stem.1")
    image = torch.randn(1, 3, 29, 23, dtype=torch.float64)
    found = streamplan.activation_statistics(streamed, [image])
    assert list(found) == ["stem.0", "stem.1"]
    assert_same_statistics(found, streamed, [(image,)])


def test_autocast() -> None:
    model = randomize_(Classifier().eval(), 1)
    image = torch.randn(1, 3, 48, 48)
    streamed = streamplan.compile(model, image.shape, 48, passes=())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = streamplan.activation_statistics(streamed, [image])
        out = F.conv2d(image, model.stem[0].weight, model.stem[0].bias, padding=1)
    assert out.dtype == torch.bfloat16
    expected = out.detach().double().std((0, 2, 3), correction=0)
    torch.testing.assert_close(found["stem.0"].std, expected, rtol=1e-3, atol=0)


@pytest.mark.slow
def test_memory_is_that_of_a_tile() -> None:
    """It does not grow with the image, and stays below a training step's, although nothing is folded."""
    model = unet(width=8, depth=1).eval()
    peaks = []
    for rows in (256, 512):
        image = torch.randn(1, 3, rows, 128)
        streamed = streamplan.compile(model, image.shape, (64, 128))
        streamplan.activation_statistics(streamed, [image])
        with profile(activities=[ProfilerActivity.CPU], profile_memory=True, acc_events=True) as profiler:
            streamplan.activation_statistics(streamed, [image])
        peaks.append(max(accumulate(change.num_bytes for change in changes(profiler))))
    step = measured_peaks(streamed, image)
    assert peaks[1] <= 1.01 * peaks[0]
    assert peaks[1] < step["backward"]
    assert peaks[1] < 0.5 * 8 * 4 * 512 * 128 * 4  # half of what four maps of full size would take


def test_nothing_is_left_behind() -> None:
    model = randomize_(Classifier().eval(), 1)
    streamed = streamplan.compile(model, (2, 3, 29, 23), 13)
    image = torch.randn(2, 3, 29, 23, requires_grad=True)
    expected = streamed(image)
    expected.sum().backward()
    gradient, image.grad = image.grad, None
    streamplan.activation_statistics(streamed, [image])
    assert image.grad is None
    again = streamed(image)
    again.sum().backward()
    assert torch.equal(again, expected)
    assert torch.equal(image.grad, gradient)


def test_table() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    model.extremely_long_name_for_a_layer_of_a_net = nn.Hardtanh()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    image = torch.arange(12.0).view(1, 1, 4, 3)
    streamed = streamplan.compile(model, image.shape, 2)
    found = streamplan.activation_statistics(streamed, [image, image])
    assert_matches_golden(str(found), "statistics_table")
    assert len(found) == 4
    with pytest.raises(TypeError):
        found.by_name["0"] = found["1"]  # type: ignore[index]


# ------------------------------------------------------------------------------------------------------------ refusals


def test_a_hook_on_a_streamed_layer_is_refused() -> None:
    model = Classifier().eval()
    streamed = streamplan.compile(model, (1, 3, 29, 23), 13)
    model.stem[0].register_forward_hook(lambda *_: None)
    with pytest.raises(HookError):
        streamplan.activation_statistics(streamed, [torch.randn(1, 3, 29, 23)])


class AsManyChannelsAsRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(1, 40, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)[:, : x.shape[2]] * 2


def test_channels_that_depend_on_the_image_are_refused() -> None:
    streamed = streamplan.compile(AsManyChannelsAsRows(), (1, 1, 20, 20), 8)
    images = [torch.randn(1, 1, rows, 20) for rows in (20, 24)]
    assert len(streamplan.activation_statistics(streamed, images[:1])) == 3
    with pytest.raises(BatchesError) as caught:
        streamplan.activation_statistics(streamed, images)
    assert_matches_golden(str(caught.value), "error_batches_channels")
