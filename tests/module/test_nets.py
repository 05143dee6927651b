"""Nets of the literature: the streamed step equals the plain step, in float64, for small, medium and whole-image tiles.

Extents are odd or prime where the net takes them. A net whose receptive field exceeds an affordable image is also cut
earlier, so that many tiles are smaller than the image.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import nn

import streamplan
from tests.module.compare import assert_same_step
from tests.nets.densenet import densenet121
from tests.nets.googlenet import googlenet
from tests.nets.inception import inception_v3
from tests.nets.mobilenet import mobilenet_v2
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18, resnet50
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet3d, unet_bilinear, unet_nearest, unet_valid
from tests.nets.vgg import vgg11, vgg16, vgg16_bn
from tests.planned import plan_only


@dataclass(frozen=True)
class Case:
    """A net, an image and a cut."""

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    cut: str = "latest"


CASES = [
    Case("resnet18", lambda: resnet18(2, 5), (2, 3, 467, 37)),
    Case("resnet18_layer2", lambda: resnet18(2, 5), (2, 3, 113, 101), "layer2"),
    Case("resnet50", lambda: resnet50(2, 5), (2, 3, 461, 35)),
    Case("resnet50_layer2", lambda: resnet50(2, 5), (2, 3, 139, 127), "layer2"),
    Case("densenet121_transition1", lambda: densenet121(2, 5), (2, 3, 83, 75), "features.transition1"),
    Case("densenet121_transition2", lambda: densenet121(2, 5), (2, 3, 293, 37), "features.transition2"),
    Case("inception_v3_6a", lambda: inception_v3(2, 5), (2, 3, 191, 79), "Mixed_6a"),
    Case("inception_v3_6b", lambda: inception_v3(2, 5), (2, 3, 401, 79), "Mixed_6b"),
    Case("googlenet", lambda: googlenet(4, 5), (2, 3, 419, 41)),
    Case("googlenet_3b", lambda: googlenet(4, 5), (2, 3, 79, 67), "inception3b"),
    Case("mobilenet_v2", lambda: mobilenet_v2(2, 5), (2, 3, 523, 35)),
    Case("mobilenet_v2_features7", lambda: mobilenet_v2(2, 5), (2, 3, 109, 101), "features.7"),
    Case("vgg11", lambda: vgg11(2, 5), (2, 3, 191, 157)),
    Case("vgg16_bn", lambda: vgg16_bn(2, 5), (2, 3, 67, 283)),
    Case("tupac", lambda: tupac(2), (2, 3, 293, 67), "streamed"),
    Case("unet", lambda: unet(2, 2), (2, 3, 60, 52)),
    Case("unet_valid", lambda: unet_valid(2, 2), (2, 1, 60, 52)),
    Case("unet_bilinear", lambda: unet_bilinear(2, 2), (2, 3, 59, 67)),
    Case("unet_half_pixel", lambda: unet_bilinear(2, 2, align_corners=False), (2, 3, 67, 59)),
    Case("unet_nearest", lambda: unet_nearest(2, 2), (2, 3, 53, 59)),
    Case("unet3d", lambda: unet3d(2, 1), (2, 1, 23, 11, 21)),
    Case("unet3d_trilinear", lambda: unet3d(2, 1, up="linear"), (2, 1, 23, 21, 11)),
]
WHOLE_IMAGE_ONLY = [
    Case("densenet121", lambda: densenet121(2, 5), (1, 3, 43, 39)),
    Case("inception_v3", lambda: inception_v3(2, 5, transform_input=True), (1, 3, 107, 141)),
    Case("unet3d_deep", lambda: unet3d(2, 2), (1, 1, 13, 19, 17)),
]

_MORE = """
    resnet18_layer2 resnet50 resnet50_layer2 densenet121_transition2 inception_v3_6b googlenet mobilenet_v2 vgg16_bn
    unet_half_pixel unet_nearest unet3d inception_v3 densenet121 googlenet_3b
    inception_v3_6a
""".split()
"""Nets of a kind of which the default run has another, or another cut."""


def _params(cases: list[Case]) -> list[Any]:
    marks = {name: [pytest.mark.more] for name in _MORE}
    return [pytest.param(case, id=case.name, marks=marks.get(case.name, [])) for case in cases]


def _net_and_image(case: Case) -> tuple[nn.Module, torch.Tensor]:
    """The net in eval mode with drawn weights and statistics, and an image that requires a gradient."""
    generator = torch.Generator().manual_seed(sum(case.size))
    image = torch.randn(case.size, generator=generator, dtype=torch.float64)
    model = randomize_(case.build().double().eval(), seed=1, sample=image)
    return model, image.requires_grad_()


@pytest.mark.parametrize("case", _params(CASES))
@pytest.mark.parametrize("tiles", ["smallest", pytest.param("between", marks=pytest.mark.more)])
def test_streamed_step_with_recomputed_halos_is_the_plain_step(case: Case, tiles: str) -> None:
    model, image = _net_and_image(case)
    smallest = plan_only(model, case.size, case.size[2:], cut=case.cut, halo="recompute").smallest_tile_size
    extents = case.size[2:]
    between = tuple((least + extent) // 2 for least, extent in zip(smallest, extents, strict=True))
    tile_size = smallest if tiles == "smallest" else between

    streamed = streamplan.compile(model, case.size, tile_size, cut=case.cut, halo="recompute")
    assert streamed._plan.num_tiles > 1
    for item in streamed._plan.inputs:
        assert all(read <= size for read, size in zip(item.max_read, tile_size, strict=True))
    assert_same_step(model, streamed, image)


@pytest.mark.parametrize("case", _params([*CASES, *WHOLE_IMAGE_ONLY]))
def test_streamed_step_is_the_plain_step(case: Case) -> None:
    """With carried halos, tiles of a quarter of the image along every axis."""
    model, image = _net_and_image(case)
    streamed = streamplan.compile(model, case.size, tuple(-(-n // 4) for n in case.size[2:]), cut=case.cut)
    assert streamed._plan.halo == "reuse"
    assert streamed._plan.num_tiles >= 16
    assert_same_step(model, streamed, image)


@pytest.mark.parametrize("case", _params([*CASES, *WHOLE_IMAGE_ONLY]))
def test_one_tile_is_the_whole_image(case: Case) -> None:
    model, image = _net_and_image(case)
    streamed = streamplan.compile(model, case.size, case.size[2:], cut=case.cut)
    assert streamed._plan.num_tiles == 1
    assert_same_step(model, streamed, image)


@pytest.mark.parametrize("case", _params(WHOLE_IMAGE_ONLY))
def test_tiles_of_a_net_that_reads_everything_are_exact_too(case: Case) -> None:
    """Every position of the cut may read the whole image: blocks still are computed one by one."""
    model, image = _net_and_image(case)
    plan = plan_only(model, case.size, case.size[2:], halo="recompute")
    several = _divided_by_hand(plan)
    streamed = streamplan.compile(model, plan=several)
    assert streamed._plan.num_tiles > 1
    assert_same_step(model, streamed, image)


def _divided_by_hand(plan: streamplan.Plan) -> streamplan.Plan:
    """The plan with its last axis in three uneven blocks and the others as they are."""
    extent = plan.boundaries[-1][-1]
    inner = sorted({extent // 3, extent - 1} - {0})
    return dataclasses.replace(plan, boundaries=(*plan.boundaries[:-1], (0, *inner, extent)))


PUBLISHED_RECEPTIVE_FIELDS = [
    # Araujo, Norris and Sim, "Computing receptive fields of convolutional neural networks", 2019, table 1
    ("vgg16", lambda: vgg16(2, 5), (1, 3, 2048, 2048), 212),
    ("inception_v3", lambda: inception_v3(2, 5), (1, 3, 2048, 2048), 1311),
]


@pytest.mark.parametrize(("name", "build", "size", "published"), PUBLISHED_RECEPTIVE_FIELDS)
def test_receptive_field_is_the_published_one(
    name: str, build: Callable[[], nn.Module], size: tuple[int, ...], published: int
) -> None:
    plan = plan_only(build().eval(), size, size[2:], halo="recompute")
    assert plan.chosen.receptive_field == (published, published)
    assert plan.smallest_tile_size == (published, published)


def test_smallest_tile_is_the_smallest() -> None:
    plan = plan_only(vgg11(2, 5).eval(), (1, 3, 97, 283), 40, cut="features.5", halo="recompute")
    assert plan.smallest_tile_size == (10, 10)  # two 3x3 convolutions, each before a 2x2 pool: 1 -> 2 -> 4 -> 8 -> 10


def test_input_transform_of_pretrained_inception_is_streamed() -> None:
    """It takes the channels apart with `x[:, 0]`, `unsqueeze` and `cat`; all of that is local."""
    model = inception_v3(2, 5, transform_input=True).eval()
    with_transform = plan_only(model, (1, 3, 107, 107), 32)
    without = plan_only(inception_v3(2, 5).eval(), (1, 3, 107, 107), 32)
    assert with_transform.chosen.shapes == without.chosen.shapes
    assert with_transform.chosen.streamed_flops == without.chosen.streamed_flops > 0
