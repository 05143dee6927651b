"""Real nets trace, and their graphs compute what they compute."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from streamplan.trace import trace_model
from tests.nets.densenet import DenseNet
from tests.nets.googlenet import googlenet
from tests.nets.inception import inception_v3
from tests.nets.mobilenet import mobilenet_v2
from tests.nets.resnet import resnet50
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet3d, unet_bilinear, unet_nearest
from tests.nets.vgg import vgg11_bn
from tests.trace.helpers import assert_graph_equals_model, spec

NETS: list[Any] = [
    (lambda: resnet50(width=4), (2, 3, 64, 64)),
    (lambda: DenseNet((2, 2, 2, 2), 4), (2, 3, 64, 64)),
    (lambda: googlenet(width=8), (2, 3, 64, 64)),
    pytest.param(lambda: inception_v3(width=4), (2, 3, 96, 96), marks=pytest.mark.more),
    pytest.param(lambda: mobilenet_v2(width=4), (2, 3, 64, 64), marks=pytest.mark.more),
    (lambda: vgg11_bn(width=4), (2, 3, 64, 64)),
    (lambda: unet(width=4, depth=2), (1, 3, 32, 32)),
    (lambda: unet_bilinear(width=4, depth=2), (1, 3, 32, 32)),
    (lambda: unet_nearest(width=4, depth=2), (1, 3, 32, 32)),
    (lambda: unet3d(width=4, depth=2), (1, 1, 16, 16, 16)),
]


@pytest.mark.parametrize(("make_net", "shape"), NETS)
def test_nets_of_the_literature(make_net: Callable[[], nn.Module], shape: tuple[int, ...]) -> None:
    trace = assert_graph_equals_model(make_net().eval(), torch.rand(shape))
    assert not any(fact.unsafe_write for fact in trace.facts.values())


def test_tupac_traces_at_full_size() -> None:
    trace = trace_model(tupac(width=4), [spec(1, 3, 65536, 65536)])
    assert trace.facts[trace.input_names[0]].output == spec(1, 3, 65536, 65536)


def _monai_nets() -> dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        monai = pytest.importorskip("monai.networks.nets")
    return {
        "UNet": (lambda: monai.UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=2), (1, 1, 32, 32)),
        "BasicUNet": (lambda: monai.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 16, 4)), (1, 1, 48, 32)),
        "BasicUNet odd": (lambda: monai.BasicUNet(2, 1, 2, features=(4, 4, 8, 8, 16, 4)), (1, 1, 39, 33)),
        "DenseNet121": (lambda: monai.DenseNet121(2, 1, 2, init_features=8, growth_rate=4), (2, 1, 64, 64)),
        "ResNet": (
            lambda: monai.ResNet("basic", [1, 1, 1, 1], [4, 8, 16, 32], spatial_dims=3, n_input_channels=1),
            (2, 1, 32, 32, 32),
        ),
        "SegResNet": (lambda: monai.SegResNet(2, 8, 1, 2), (1, 1, 32, 32)),
        "AttentionUnet": (lambda: monai.AttentionUnet(2, 1, 2, (4, 8, 16), (2, 2)), (1, 1, 32, 32)),
        "DynUNet": (lambda: monai.DynUNet(2, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2]), (1, 1, 32, 32)),
        "EfficientNet": (lambda: monai.EfficientNetBN("efficientnet-b0", False, True, 2, 1, 3), (2, 1, 64, 64)),
        "ViT": (lambda: monai.ViT(1, (32, 32), (8, 8), 32, 64, 2, 4, spatial_dims=2), (1, 1, 32, 32)),
        "SwinUNETR": (lambda: monai.SwinUNETR(1, 2, feature_size=12, spatial_dims=2), (1, 1, 64, 64)),
    }


MONAI_NETS = "UNet,BasicUNet,ResNet,SegResNet,AttentionUnet,DynUNet,EfficientNet,ViT"
MORE_OF_MONAI = ("BasicUNet odd", "DenseNet121", "SwinUNETR")


@pytest.mark.parametrize(
    "name", [*MONAI_NETS.split(","), *(pytest.param(name, marks=pytest.mark.more) for name in MORE_OF_MONAI)]
)
def test_monai_nets(name: str) -> None:
    make_net, shape = _monai_nets()[name]
    assert_graph_equals_model(make_net().eval(), torch.rand(shape))
