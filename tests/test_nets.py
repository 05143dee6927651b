"""The test nets are what they claim to be: published sizes, torchvision's names, sane activations and gradients."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from tests.nets.densenet import densenet121, densenet201
from tests.nets.googlenet import googlenet
from tests.nets.imagenette import imagenette
from tests.nets.inception import inception_v3
from tests.nets.mobilenet import mobilenet_v2
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18, resnet50, resnet152
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet3d, unet_bilinear, unet_nearest, unet_valid
from tests.nets.vgg import vgg11, vgg11_bn, vgg16, vgg16_bn

# Inception-v3 has 27,161,264 parameters with its auxiliary head: a 1x1 convolution of 768 to 128 channels and a 5x5
# one of 128 to 768, each with a BatchNorm, and a classifier.
_INCEPTION_AUX = (768 * 128 + 2 * 128) + (128 * 768 * 25 + 2 * 768) + (768 * 1000 + 1000)

PUBLISHED_SIZES: list[tuple[Callable[[], nn.Module], int]] = [
    (resnet18, 11_689_512),
    (resnet50, 25_557_032),
    (resnet152, 60_192_808),
    (densenet121, 7_978_856),
    (densenet201, 20_013_928),
    (inception_v3, 27_161_264 - _INCEPTION_AUX),
    (googlenet, 6_624_904),
    (mobilenet_v2, 3_504_872),
    (vgg11, 132_863_336),
    (vgg16, 138_357_544),
    (vgg11_bn, 132_868_840),
    (vgg16_bn, 138_365_992),
]

SMALL_NETS: list[tuple[str, Callable[[], nn.Module], tuple[int, ...], tuple[int, ...]]] = [
    ("resnet18", lambda: resnet18(2, 5), (2, 3, 64, 47), (2, 5)),
    ("resnet50", lambda: resnet50(2, 5), (1, 3, 64, 64), (1, 5)),
    ("resnet152", lambda: resnet152(2, 5), (1, 3, 64, 64), (1, 5)),
    ("densenet121", lambda: densenet121(2, 5), (1, 3, 64, 64), (1, 5)),
    ("densenet201", lambda: densenet201(2, 5), (1, 3, 64, 64), (1, 5)),
    ("inception_v3", lambda: inception_v3(2, 5, transform_input=True), (1, 3, 79, 75), (1, 5)),
    ("googlenet", lambda: googlenet(4, 5), (1, 3, 65, 64), (1, 5)),
    ("mobilenet_v2", lambda: mobilenet_v2(4, 5), (1, 3, 64, 65), (1, 5)),
    ("vgg11", lambda: vgg11(2, 5), (1, 3, 64, 64), (1, 5)),
    ("vgg16_bn", lambda: vgg16_bn(2, 5), (1, 3, 64, 64), (1, 5)),
    ("unet", lambda: unet(2, 3), (1, 3, 32, 48), (1, 2, 32, 48)),
    ("unet_valid", lambda: unet_valid(2, 2), (1, 1, 60, 44), (1, 2, 20, 4)),
    ("unet_bilinear", lambda: unet_bilinear(2, 3), (1, 3, 37, 46), (1, 2, 37, 46)),
    ("unet_half_pixel", lambda: unet_bilinear(2, 3, align_corners=False), (1, 3, 37, 46), (1, 2, 37, 46)),
    ("unet_nearest", lambda: unet_nearest(2, 3), (1, 3, 37, 46), (1, 2, 37, 46)),
    ("unet3d", lambda: unet3d(2, 2), (1, 1, 11, 12, 13), (1, 2, 11, 12, 13)),
    ("unet3d_trilinear", lambda: unet3d(2, 2, up="linear"), (1, 1, 11, 12, 13), (1, 2, 11, 12, 13)),
    ("tupac22", lambda: tupac(2), (1, 3, 64, 64), (1, 1)),
    ("tupac28", lambda: tupac(2, depth=3), (1, 3, 256, 256), (1, 1)),
    ("imagenette", lambda: imagenette(2, image_size=96, last_pool=2), (1, 3, 96, 96), (1, 10)),
]

NAMES: list[tuple[Callable[[int], nn.Module], list[str]]] = [
    (resnet18, ["conv1.weight", "bn1.running_var", "layer2.0.downsample.1.weight", "layer4.1.conv2.weight", "fc.bias"]),
    (resnet50, ["layer1.0.downsample.0.weight", "layer3.5.bn3.num_batches_tracked"]),
    (densenet121, ["features.conv0.weight", "features.denseblock2.denselayer12.norm2.bias", "classifier.weight"]),
    (densenet121, ["features.transition3.conv.weight", "features.norm5.running_mean"]),
    (
        inception_v3,
        ["Conv2d_1a_3x3.conv.weight", "Mixed_6c.branch7x7dbl_5.bn.bias", "Mixed_7c.branch3x3_2b.conv.weight"],
    ),
    (googlenet, ["conv3.bn.weight", "inception4d.branch3.1.conv.weight", "inception5b.branch4.1.bn.bias"]),
    (mobilenet_v2, ["features.0.1.weight", "features.1.conv.1.weight", "features.17.conv.3.bias", "classifier.1.bias"]),
    (vgg16_bn, ["features.40.weight", "features.41.running_mean", "classifier.6.weight"]),
]


@pytest.mark.parametrize(("build", "published"), PUBLISHED_SIZES, ids=[b.__name__ for b, _ in PUBLISHED_SIZES])
def test_parameter_count_is_the_published_one(build: Callable[[], nn.Module], published: int) -> None:
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == published


@pytest.mark.parametrize(("build", "names"), NAMES, ids=[b.__name__ for b, _ in NAMES])
def test_state_dict_has_torchvision_names(build: Callable[[int], nn.Module], names: list[str]) -> None:
    with torch.device("meta"):
        state = build(4).state_dict()
    assert [name for name in names if name not in state] == []


@pytest.mark.parametrize(("build", "size", "expected"), [n[1:] for n in SMALL_NETS], ids=[n[0] for n in SMALL_NETS])
@pytest.mark.parametrize("fitted", [False, True], ids=["drawn", "fitted"])
def test_small_net_runs_and_stays_in_scale(
    build: Callable[[], nn.Module], size: tuple[int, ...], expected: tuple[int, ...], fitted: bool
) -> None:
    x = torch.randn(size, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    model = randomize_(build().double().eval(), seed=1, sample=x if fitted else None)
    x.requires_grad_()

    out = model(x)
    assert out.shape == expected
    out.backward(torch.randn(expected, generator=torch.Generator().manual_seed(2), dtype=torch.float64))

    assert 1e-4 < out.square().mean().sqrt() < 1e3
    gradients = {"input": x.grad} | {name: p.grad for name, p in model.named_parameters()}
    for name, gradient in gradients.items():
        assert gradient is not None, name
        assert torch.isfinite(gradient).all(), name
        assert gradient.abs().max() < 1e6, name
    assert x.grad is not None
    assert x.grad.abs().max() > 1e-8


def test_tupac_layer_counts() -> None:
    counted = (nn.Conv2d, nn.MaxPool2d, nn.AdaptiveMaxPool2d, nn.Linear)
    layers = [sum(isinstance(m, counted) for m in tupac(1, depth).modules()) for depth in (1, 2, 3)]
    assert layers == [22, 25, 28]


def test_imagenette_reaches_one_sample() -> None:
    with torch.device("meta"):
        model = imagenette()
        out = model.features(torch.empty(1, 3, 320, 320))
    assert out.shape == (1, 256, 1, 1)


def test_randomize_repeats_itself_and_leaves_the_mode_alone() -> None:
    sample = torch.randn(1, 3, 32, 32)
    first, second, other = (randomize_(resnet18(2).train(), seed, sample) for seed in (3, 3, 4))
    assert first.training
    assert all(
        torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values(), strict=True)
    )
    assert not torch.equal(first.get_parameter("conv1.weight"), other.get_parameter("conv1.weight"))


def test_randomize_draws_statistics() -> None:
    model = randomize_(resnet18(16), 0)
    state = model.state_dict()
    means = torch.cat([value for name, value in state.items() if name.endswith("running_mean")])
    variances = torch.cat([value for name, value in state.items() if name.endswith("running_var")])
    assert 0.08 < means.std() < 0.12
    assert 0.5 <= variances.min() < 0.6
    assert 1.4 < variances.max() <= 1.5
