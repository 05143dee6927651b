"""MONAI nets in two and three dimensions: exact where they stream, and cut at the first operation that is not local."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

import streamplan
from tests.module.compare import assert_same_step
from tests.nets.randomize import randomize_
from tests.planned import plan_only

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's own imports warn
    nets: Any = pytest.importorskip("monai.networks.nets")

TINY = (4, 4, 8, 8, 16, 4)


HIGH_RES_LAYERS = (
    {"name": "conv_0", "n_features": 2, "kernel_size": 3},
    {"name": "res_1", "n_features": 2, "kernels": (3, 3), "repeat": 2},
    {"name": "res_2", "n_features": 4, "kernels": (3, 3), "repeat": 1},
    {"name": "conv_1", "n_features": 4, "kernel_size": 1},
    {"name": "conv_2", "kernel_size": 1},
)

WHOLE_NETS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "UNet": (lambda: nets.UNet(2, 1, 2, (2, 4, 8), (2, 2), num_res_units=2, norm="batch"), (2, 1, 52, 40)),
    "UNet 3-D": (lambda: nets.UNet(3, 1, 2, (2, 4), (2,), num_res_units=1, norm="batch"), (1, 1, 18, 14, 12)),
    "DynUNet": (
        lambda: nets.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 4], norm_name="batch"),
        (2, 1, 52, 44),
    ),
    "DynUNet 3-D": (
        lambda: nets.DynUNet(3, 1, 2, [3, 1, 3], [1, 1, 2], [1, 2], filters=[2, 2, 4], norm_name="batch"),
        (1, 1, 26, 18, 14),
    ),
    "BasicUNet": (lambda: nets.BasicUNet(2, 1, 2, features=(2, 2, 2, 2, 2, 2), norm="batch"), (1, 1, 256, 32)),
    "SegResNet": (
        lambda: nets.SegResNet(2, 8, 1, 2, norm="batch", blocks_down=(1, 1), blocks_up=(1,)),
        (2, 1, 44, 38),
    ),
    "SegResNet 3-D": (
        lambda: nets.SegResNet(3, 8, 1, 2, norm="batch", blocks_down=(1, 1), blocks_up=(1,)),
        (1, 1, 26, 10, 12),
    ),
    "AutoEncoder": (lambda: nets.AutoEncoder(2, 1, 1, (2, 4), (2, 2), norm="batch"), (2, 1, 24, 20)),
    "AutoEncoder 3-D": (lambda: nets.AutoEncoder(3, 1, 1, (2, 4), (2, 2), norm="batch"), (1, 1, 24, 16, 12)),
    "VNet": (lambda: nets.VNet(2, 1, 2, dropout_dim=2), (1, 1, 768, 16)),
    "HighResNet": (lambda: nets.HighResNet(2, 1, 2, layer_params=HIGH_RES_LAYERS), (1, 1, 128, 32)),
    "PatchDiscriminator": (lambda: nets.PatchDiscriminator(2, 4, 1, num_layers_d=2, norm="batch"), (2, 1, 61, 53)),
    "PatchDiscriminator 3-D": (
        lambda: nets.PatchDiscriminator(3, 2, 1, num_layers_d=1, norm="batch"),
        (1, 1, 29, 23, 17),
    ),
}
"""Local to their end; more than one tile each."""

CLASSIFIERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str, str]] = {
    "Regressor": (
        lambda: nets.Regressor((1, 48, 32), (2,), (2, 4), (2, 2), norm="batch"),
        (2, 1, 48, 32),
        "latest",
        "Flatten",
    ),
    "Regressor 3-D": (
        lambda: nets.Regressor((1, 24, 16, 16), (2,), (2, 4), (2, 2), norm="batch"),
        (2, 1, 24, 16, 16),
        "net.layer_0",
        "Flatten",
    ),
    "Classifier": (
        lambda: nets.Classifier((1, 48, 32), 3, (2, 4), (2, 2), norm="batch"),
        (2, 1, 48, 32),
        "latest",
        "Flatten",
    ),
    "Critic": (lambda: nets.Critic((1, 48, 32), (2, 4), (2, 2), norm="batch"), (2, 1, 48, 32), "latest", "Flatten"),
    "DenseNet121": (
        lambda: nets.DenseNet121(2, 1, 2, init_features=4, growth_rate=2),
        (2, 1, 89, 71),
        "features.transition1",
        "AdaptiveAvgPool",
    ),
    "DenseNet 3-D": (
        lambda: nets.DenseNet(3, 1, 2, init_features=4, growth_rate=2, block_config=(2, 2)),
        (1, 1, 41, 31, 29),
        "features.denseblock1.denselayer1",
        "AdaptiveAvgPool",
    ),
    "ResNet18": (
        lambda: nets.ResNet("basic", [2, 2, 2, 2], [2, 4, 4, 8], spatial_dims=2, n_input_channels=1, num_classes=3),
        (2, 1, 83, 71),
        "layer2.0",
        "AdaptiveAvgPool",
    ),
    "ResNet 3-D": (
        lambda: nets.ResNet("basic", [1, 1, 1, 1], [2, 2, 4, 4], spatial_dims=3, n_input_channels=1, num_classes=3),
        (1, 1, 41, 29, 23),
        "layer1",
        "AdaptiveAvgPool",
    ),
}
"""A head follows the local part: the cut and the operation that ends the local part."""

LOCAL_AT_FIRST: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...], str]] = {
    "BasicUNet with InstanceNorm": (lambda: nets.BasicUNet(2, 1, 2, features=TINY), (1, 1, 48, 39), "InstanceNorm2d"),
    "SegResNet with GroupNorm": (lambda: nets.SegResNet(2, 8, 1, 2), (1, 1, 48, 32), "GroupNorm"),
    "EfficientNet": (
        lambda: nets.EfficientNetBN("efficientnet-b0", False, True, 2, 1, 3),
        (1, 1, 64, 48),
        "AdaptiveAvgPool",
    ),
    "AttentionUnet": (lambda: nets.AttentionUnet(2, 1, 2, (2, 4, 8), (2, 2)), (1, 1, 64, 48), "InstanceNorm2d"),
    "ViT": (lambda: nets.ViT(1, (32, 32), (8, 8), 32, 64, 2, 4, spatial_dims=2), (1, 1, 32, 32), "flatten"),
}
"""An early layer needs the whole map: only what comes before it is streamed."""


_MORE = dict.fromkeys(("VNet", "DenseNet121", "ResNet 3-D"), pytest.mark.more)
"""Nets of kinds of which the default run has smaller ones."""


def _net_and_image(build: Callable[[], nn.Module], size: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constructors warn about their own defaults
        torch.manual_seed(1)
        model = randomize_(build().double().eval(), seed=1)
    return model, torch.randn(size, dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("name", [pytest.param(name, marks=_MORE.get(name, [])) for name in WHOLE_NETS])
def test_whole_net_is_streamed_exactly(name: str) -> None:
    build, size = WHOLE_NETS[name]
    model, image = _net_and_image(build, size)
    plan = plan_only(model, size, size[2:], halo="recompute")
    assert plan.barriers == ()
    assert plan.costs.streamed_flops == plan.costs.flops
    streamed = streamplan.compile(model, size, plan.smallest_tile_size, halo="recompute")
    assert streamed._plan.num_tiles > 1
    assert_same_step(model, streamed, image)


@pytest.mark.parametrize("name", [pytest.param(name, marks=_MORE.get(name, [])) for name in CLASSIFIERS])
def test_classifier_is_streamed_exactly(name: str) -> None:
    build, size, cut, barrier = CLASSIFIERS[name]
    model, image = _net_and_image(build, size)
    smallest = plan_only(model, size, size[2:], cut=cut, halo="recompute").smallest_tile_size
    streamed = streamplan.compile(model, size, smallest, cut=cut, halo="recompute")
    assert streamed._plan.num_tiles > 1
    assert streamed._plan.barriers[0].reason.startswith(barrier), streamed._plan.barriers[0].reason
    assert streamed._plan.barriers[0].locality == "global"
    assert_same_step(model, streamed, image)


@pytest.mark.parametrize("name", LOCAL_AT_FIRST)
def test_net_is_cut_before_the_first_global_operation(name: str) -> None:
    build, size, barrier = LOCAL_AT_FIRST[name]
    model, image = _net_and_image(build, size)
    tile_size = tuple(extent * 3 // 4 for extent in size[2:])
    streamed = streamplan.compile(model, size, tile_size)
    assert streamed._plan.num_tiles > 1
    assert streamed._plan.barriers[0].reason.startswith(barrier)
    assert streamed._plan.costs.streamed_flops < streamed._plan.costs.flops
    assert_same_step(model, streamed, image, floor=1e-4)  # a bias before InstanceNorm has no gradient


@pytest.mark.parametrize("name", ["SegResNet 3-D", "AutoEncoder"])
def test_verify_agrees(name: str) -> None:
    build, size = WHOLE_NETS[name]
    model, _ = _net_and_image(build, size)
    smallest = plan_only(model, size, size[2:], halo="recompute").smallest_tile_size
    report = streamplan.verify(model, size, smallest, halo="recompute")
    assert report.plan.num_tiles > 1
    assert report.passed


def test_deep_supervision_head_is_not_run_in_eval_mode() -> None:
    """DynUNet stores auxiliary heads in a list as it runs; the streamed net returns what the plain net returns."""
    build = lambda: nets.DynUNet(  # noqa: E731 - one call
        2, 1, 2, [3, 3, 3, 3], [1, 2, 2, 2], [2, 2, 2], filters=[2, 2, 4, 4],
        norm_name="batch", deep_supervision=True, deep_supr_num=2,
    )  # fmt: skip
    model, image = _net_and_image(build, (1, 1, 136, 16))
    streamed = streamplan.compile(model, (1, 1, 136, 16))
    assert streamed._plan.num_tiles > 1
    assert_same_step(model, streamed, image)
