"""`receptive_field`: known numbers, its report, and that a wrong rule does not pass."""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from torch import Tensor, nn

import streamplan
from streamplan.errors import (
    CutError,
    OptionError,
    ProbeMismatchError,
    RuleError,
    TileSizeError,
    TrainingBatchNormError,
)
from streamplan.geometry import AffineWindow
from streamplan.rules import Rule
from streamplan.rules.convolution import Convolution
from streamplan.rules.pooling import MaxPool
from streamplan.rules.resizing import Interpolate
from tests.draws import num_examples
from tests.golden import assert_matches_golden
from tests.nets.densenet import densenet121
from tests.nets.imagenette import imagenette
from tests.nets.resnet import resnet18, resnet50, resnet152
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet_bilinear, unet_nearest
from tests.nets.vgg import vgg16
from tests.planned import plan_only
from tests.strategies import Recipe, nets


def on_meta(build: Callable[[], nn.Module]) -> nn.Module:
    with torch.device("meta"):
        return build().eval()


KNOWN = [
    pytest.param(resnet18, 1536, 435, 32, id="resnet18"),
    pytest.param(resnet50, 1536, 427, 32, id="resnet50"),
    pytest.param(vgg16, 640, 212, 32, id="vgg16"),
    pytest.param(resnet152, 3072, 1451, 32, id="resnet152", marks=pytest.mark.more),
    pytest.param(densenet121, 4352, 2071, 32, id="densenet121", marks=pytest.mark.more),
]


@pytest.mark.parametrize(("build", "extent", "field", "stride"), KNOWN)
def test_known_receptive_fields(build: Any, extent: int, field: int, stride: int) -> None:
    """Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019, and by hand."""
    model = on_meta(build)
    size = (1, 3, extent, extent)
    report = streamplan.receptive_field(model, size, tile_size=extent // 2)
    for axis in report.cut_values[0].axes:
        assert (axis.receptive_field, axis.stride) == (field, stride)
        assert axis.receptive_field == axis.before + stride + axis.after
    planned = plan_only(model, size, extent // 2).chosen
    assert planned.receptive_field == (field, field)
    probed = streamplan.receptive_field(model, size, tile_size=extent // 2, method="probe").cut_values[0].axes[0]
    assert (probed.receptive_field, probed.stride) in [(field, stride), (field, None)]


def chain_field(layers: list[tuple[int, int]]) -> tuple[int, int]:
    """Receptive field and stride of kernels and strides in a row, by the textbook's sum."""
    field = stride = 1
    for kernel, step in layers:
        field += (kernel - 1) * stride
        stride *= step
    return field, stride


@pytest.mark.parametrize(("build", "extent"), [(imagenette, 320), (tupac, 1536)])
def test_nets_of_the_paper(build: Any, extent: int) -> None:
    report = streamplan.receptive_field(model := on_meta(build), (1, 3, extent, extent))
    layers: list[tuple[int, int]] = []
    for value in report.values:
        if value.op in ("conv", "max_pool"):
            module: Any = model.get_submodule(value.module_path)
            kernel, stride = (v if isinstance(v, int) else v[0] for v in (module.kernel_size, module.stride))
            layers.append((kernel, stride))
            assert (value.axes[0].receptive_field, value.axes[0].stride) == chain_field(layers), value.value
    assert len(layers) > 5


def conv_pool_net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(1, 2, (3, 5), padding=(1, 2)), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(2, 2, 3, 2, 1), nn.Flatten()
    )


def test_report_as_text() -> None:
    report = streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), tile_size=40)
    assert max(map(len, str(report).splitlines())) <= 100
    assert_matches_golden(str(report), "receptive_field_report")


def test_report_of_a_long_net_fits_too() -> None:
    report = streamplan.receptive_field(on_meta(resnet50), (1, 3, 512, 512), method="analytic", tile_size=128)
    text = str(report)
    assert max(map(len, text.splitlines())) <= 100
    assert "less than a receptive field" in text
    assert len(text.splitlines()) < 40


def test_values_are_found_by_name_and_module() -> None:
    report = streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96))
    assert report["3"] is report[report.cut[0]]
    assert report["3"].axes[0].stride == 4
    assert report["3"].axes[1].receptive_field == 5 + 1 + 2 * 2
    with pytest.raises(KeyError, match="no streamed value"):
        report["9"]


def test_upsampling_has_a_fractional_stride() -> None:
    up = nn.Sequential(nn.Upsample(scale_factor=2), nn.Conv1d(1, 1, 3, padding=1))
    for method in ("analytic", "probe", "both"):
        nearest, conv = streamplan.receptive_field(up, (1, 1, 200), method=method).values[1:]
        assert nearest.axes[0].stride == conv.axes[0].stride == Fraction(1, 2)
        assert (nearest.axes[0].receptive_field, nearest.axes[0].before, nearest.axes[0].after) == (1, 0, 0)
        assert (conv.axes[0].receptive_field, conv.axes[0].before, conv.axes[0].after) == (2, 1, 1)


def test_a_position_can_read_less_than_its_place() -> None:
    report = streamplan.receptive_field(nn.Conv1d(1, 1, 1, 2), (1, 1, 100))
    field = report.values[-1].axes[0]
    assert (field.receptive_field, field.stride, field.before, field.after) == (1, 2, 0, -1)


@pytest.mark.parametrize("build", [unet, unet_nearest, unet_bilinear])
def test_u_shapes(build: Any) -> None:
    model = on_meta(lambda: build(2, 2))
    size = (1, 3, 288, 272)
    report = streamplan.receptive_field(model, size)
    assert report.cut_values[0].axes[0].stride == 1
    assert not report.notes or "receptive field" in report.notes[0]


@pytest.mark.parametrize("pad", [nn.ReflectionPad2d, nn.ReplicationPad2d, nn.CircularPad2d, nn.ZeroPad2d])
def test_a_field_beyond_the_image_is_the_same_in_a_plan(pad: type[nn.Module]) -> None:
    model = nn.Sequential(*(layer for _ in range(12) for layer in (pad(1), nn.Conv2d(1, 1, 3))))
    report = streamplan.receptive_field(model, (1, 1, 20, 20), method="analytic")
    assert [axis.receptive_field for axis in report.values[-1].axes] == [25, 25]
    assert plan_only(model, (1, 1, 20, 20), 8).chosen.receptive_field == (25, 25)


@settings(max_examples=num_examples(20))
@given(nets())
def test_plans_and_reports_tell_the_same(recipe: Recipe) -> None:
    model = recipe.build()
    chosen = plan_only(model, recipe.input_size, 64, dtype=torch.float64).chosen
    report = streamplan.receptive_field(model, recipe.input_size, method="analytic", dtype=torch.float64)
    fields: dict[str, list[tuple[int, ...]]] = {}
    for value in report.values:
        fields.setdefault(value.value, []).append(tuple(axis.receptive_field or 0 for axis in value.axes))
    told = [found for name in chosen.values for found in fields[name]]
    assert chosen.receptive_field == tuple(map(max, zip(*told, strict=True)))


def test_a_small_image_has_analytic_numbers_only() -> None:
    net = nn.Sequential(*[nn.Conv1d(1, 1, 9, padding=4) for _ in range(4)])
    size = (1, 1, 30)
    assert streamplan.receptive_field(net, size).cut_values[0].axes[0].receptive_field == 33
    probed = streamplan.receptive_field(net, size, method="probe").cut_values[0].axes[0]
    assert (probed.receptive_field, probed.stride, probed.before) == (None, None, None)


def test_a_tile_too_small_has_no_overlap() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 9, padding=4), nn.Conv1d(1, 1, 9, padding=4))
    field = streamplan.receptive_field(net, (1, 1, 100), tile_size=9)
    assert field["0"].axes[0].forward_overlap == (8, 8)
    assert field["1"].axes[0].forward_overlap is None
    assert field["0"].axes[0].backward_overlap is None


def test_the_literal_probe_counts_the_overlap_inside_the_tile() -> None:
    net = nn.Sequential(nn.Conv1d(1, 1, 3, padding=1), nn.Conv1d(1, 1, 5, padding=2), nn.Conv1d(1, 1, 3, padding=1))
    for value, inside in zip(streamplan.receptive_field(net, (1, 1, 128)).values, (0, 1, 3, 4), strict=True):
        field = value.axes[0]
        assert field.literal_forward == (inside, inside)
        assert field.forward_overlap == (2 * inside, 2 * inside)
    deep = nn.Sequential(*[nn.Conv1d(1, 1, 3, padding=1) for _ in range(30)])
    report = streamplan.receptive_field(deep, (1, 1, 512))
    assert report["0"].axes[0].literal_forward == (1, 1)
    assert report["29"].axes[0].literal_forward is None
    assert report["0"].axes[0].literal_backward is None
    transposed = nn.Sequential(nn.Conv1d(1, 1, 3), nn.ConvTranspose1d(1, 1, 2, 2))
    assert streamplan.receptive_field(transposed, (1, 1, 64))["0"].axes[0].literal_forward is None


class TwoImages(nn.Module):
    """A deep path for one image and a shallow one for the other."""

    def __init__(self) -> None:
        super().__init__()
        self.deep = nn.Sequential(nn.Conv2d(1, 1, 5, padding=2), nn.Conv2d(1, 1, 5, padding=2))
        self.shallow = nn.Conv2d(1, 1, 3, padding=1)

    def forward(self, image: Tensor, other: Tensor) -> Tensor:
        return self.deep(image) + self.shallow(other)


def test_two_images_have_numbers_of_their_own() -> None:
    report = streamplan.receptive_field(TwoImages(), ((1, 1, 64, 64), (1, 1, 64, 64)))
    assert {(v.input, v.axes[0].receptive_field) for v in report.cut_values} == {("image", 9), ("other", 3)}
    assert "of other" in str(report)


def test_the_cut_ends_the_report() -> None:
    report = streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), cut="0")
    assert [value.label for value in report.values][1:] == ["0"]


# --- wrong rules


def narrower(window: AffineWindow) -> AffineWindow:
    return AffineWindow(window.num, window.den, window.first, window.last - 1)


@pytest.mark.parametrize(("kind", "op"), [(Convolution, "conv"), (MaxPool, "max_pool")])
def test_a_rule_that_pulls_too_little_is_found(monkeypatch: pytest.MonkeyPatch, kind: type[Rule], op: str) -> None:
    honest: Any = kind.axis_maps
    monkeypatch.setattr(kind, "axis_maps", lambda *args: tuple(narrower(window) for window in honest(*args)))
    with pytest.raises(ProbeMismatchError) as caught:
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96))
    place = {"conv": "0 (Conv2d)", "max_pool": "2 (MaxPool2d)"}[op]
    assert caught.value.where.startswith(place)
    assert f"({op})" in caught.value.what
    for method in ("analytic", "probe"):
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), method=method)
    if op == "conv":
        assert_matches_golden(str(caught.value), "error_probe_mismatch")


@pytest.mark.parametrize("position", [0, 60, 191])
def test_a_single_wrong_position_is_found(monkeypatch: pytest.MonkeyPatch, position: int) -> None:
    honest: Any = Interpolate.axis_maps

    def dishonest(*args: Any) -> Any:
        (table,) = honest(*args)
        wrong = list(table.table)
        wrong[position] += 1 if position < 191 else -1
        return (type(table)(tuple(wrong)),)

    monkeypatch.setattr(Interpolate, "axis_maps", dishonest)
    with pytest.raises(ProbeMismatchError, match=f"position {position} reads"):
        streamplan.receptive_field(nn.Upsample(scale_factor=2), (1, 1, 96))


def test_a_wrong_axis_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The second axis is looked at on its own where an operation treats it in another way."""
    honest: Any = Convolution.axis_maps
    monkeypatch.setattr(Convolution, "axis_maps", lambda *args: (honest(*args)[0],) * 2)
    with pytest.raises(ProbeMismatchError, match="axis 1"):
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96))


# --- registered rules


class Blur(nn.Module):
    """A reflected border and a binomial filter."""

    def forward(self, x: Tensor) -> Tensor:
        weight = torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype).expand(x.shape[1], 1, 3)
        return F.conv1d(F.pad(x, (1, 1), mode="reflect"), weight, stride=2, groups=x.shape[1])


def blur_region(x: Tensor) -> Tensor:
    return F.conv1d(
        x, torch.tensor([1.0, 2.0, 1.0], dtype=x.dtype).expand(x.shape[1], 1, 3), None, 2, groups=x.shape[1]
    )


@pytest.mark.parametrize("border", ["reflect", "replicate", "circular", 0.0])
def test_a_registered_window_is_probed(border: Any) -> None:
    rule = streamplan.LocalRule.windowed(blur_region, kernel=3, stride=2, padding=1, border=border)
    streamplan.register_rule(Blur, rule)
    try:
        net = nn.Sequential(nn.Conv1d(1, 2, 3, padding=1), Blur())
        report = streamplan.receptive_field(net, (1, 1, 97))
    finally:
        streamplan.unregister_rule(Blur)
    assert report.method == "both"
    assert report.cut_values[0].axes[0].receptive_field == 5


def test_a_rule_without_count_form(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Convolution, "count_axis", Rule.count_axis)
    report = streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96))
    assert report.method == "analytic"
    assert "has no count form" in str(report)
    with pytest.raises(RuleError, match="cannot be probed"):
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), method="probe")


# --- errors


def test_unknown_method() -> None:
    with pytest.raises(OptionError, match="method='guess' is not known"):
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), method="guess")  # type: ignore[arg-type]


@pytest.mark.parametrize("tile_size", [0, (3, 3, 3), "8", True, 2.5])
def test_malformed_tile_size(tile_size: Any) -> None:
    with pytest.raises(TileSizeError):
        streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96), tile_size=tile_size)


def test_errors_of_planning() -> None:
    net = nn.Sequential(nn.Conv2d(1, 1, 3), nn.BatchNorm2d(1), nn.Conv2d(1, 1, 3))
    with pytest.raises(TrainingBatchNormError):
        streamplan.receptive_field(net, (1, 1, 96, 96))
    assert streamplan.receptive_field(net, (1, 1, 96, 96), batch_norm="frozen")["2"].axes[0].receptive_field == 5
    with pytest.raises(CutError):
        streamplan.receptive_field(net.eval(), (1, 1, 96, 96), cut="7")


def test_in_inference_mode_and_without_gradients() -> None:
    expected = streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96))
    with torch.inference_mode():
        assert streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96)) == expected
    with torch.no_grad():
        assert streamplan.receptive_field(conv_pool_net(), (1, 1, 96, 96)) == expected
