"""Newer nets of the literature: the streamed step equals the plain step in float64, and what ends a net is named.

Channels-last norms, channel shuffles, parallel branches, standardised weights, reflected borders, pixel shuffles and
pyramids stream to the end; squeeze-and-excitation, image-level pooling and pools with indices cut a net early.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import streamplan
from tests.module.compare import assert_same_step
from tests.nets.alexnet import alexnet
from tests.nets.blurpool import antialiased_resnet18
from tests.nets.convnext import convnext_tiny, convnext_tiny_original
from tests.nets.deeplab import deeplabv3
from tests.nets.efficientnet import efficientnet_b0
from tests.nets.espcn import espcn
from tests.nets.fpn import fpn_resnet18
from tests.nets.hrnet import hrnet
from tests.nets.nfnet import nfnet_f0
from tests.nets.randomize import randomize_
from tests.nets.segnet import segnet
from tests.nets.shufflenet import shufflenet_v2
from tests.planned import plan_only

ONE_EACH = (1, 1, 1, 1)
"""Blocks per stage of nets whose receptive field must fit a small image."""


@dataclass(frozen=True)
class Case:
    """A net, an image and a cut."""

    name: str
    build: Callable[[], nn.Module]
    size: tuple[int, ...]
    ends: str = ""
    """The first barrier, as the net spells it; "" for a net that is local to its end."""
    cut: str = "latest"


CASES = [
    Case("alexnet", lambda: alexnet(4, 5, (227, 163)), (2, 3, 227, 163), "flatten"),
    Case("antialiased", lambda: antialiased_resnet18(2, 5), (1, 3, 541, 41), "AdaptiveAvgPool2d"),
    Case("antialiased_layer2", lambda: antialiased_resnet18(2, 5, 5), (2, 3, 149, 133), "AdaptiveAvgPool2d", "layer2"),
    Case("antialiased_filt3", lambda: antialiased_resnet18(2, 5, 3), (2, 3, 79, 83), "AdaptiveAvgPool2d", "layer1"),
    Case("convnext", lambda: convnext_tiny(4, 5, ONE_EACH, 0.5), (1, 3, 451, 64), "AdaptiveAvgPool2d"),
    Case("convnext_2", lambda: convnext_tiny(4, 5, ONE_EACH, 0.5), (2, 3, 93, 101), "AdaptiveAvgPool2d", "features.2"),
    Case("convnext_original", lambda: convnext_tiny_original(4, 5, ONE_EACH, 0.5), (1, 3, 451, 64), "mean"),
    Case(
        "convnext_original_0", lambda: convnext_tiny_original(4, 5, ONE_EACH, 0.5), (2, 3, 93, 57), "mean", "stages.0"
    ),
    Case("espcn", lambda: espcn(4, 3), (2, 1, 37, 29)),
    Case("espcn_4", lambda: espcn(4, 4), (1, 1, 23, 31)),
    Case("fpn", lambda: fpn_resnet18(2, ONE_EACH), (1, 3, 415, 37)),
    Case("hrnet", lambda: hrnet(2, (1, 1, 1), 1), (1, 3, 416, 32)),
    Case(
        "nfnet", lambda: nfnet_f0(8, 5, ONE_EACH, squeeze=False, skipinit=0.7), (2, 3, 287, 65), "adaptive_avg_pool2d"
    ),
    Case(
        "nfnet_by_hand",
        lambda: nfnet_f0(8, 5, ONE_EACH, squeeze=False, by_hand=True, skipinit=0.7),
        (2, 3, 67, 283),
        "adaptive_avg_pool2d",
    ),
    Case("shufflenet", lambda: shufflenet_v2(4, 5), (2, 3, 523, 33), "mean"),
    Case("shufflenet_stage3", lambda: shufflenet_v2(6, 5, (2, 2, 2)), (2, 3, 163, 139), "mean", "stage3"),
]


def _net_and_image(build: Callable[[], nn.Module], size: tuple[int, ...]) -> tuple[nn.Module, torch.Tensor]:
    """The net in eval mode with drawn weights, norms and scales, and an image that requires a gradient."""
    model = randomize_(build().double().eval(), seed=1)
    generator = torch.Generator().manual_seed(sum(size))
    with torch.no_grad():
        for parameter in model.parameters():  # norms over channels, layer scales and gains begin as constants
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator, dtype=torch.float64))
    return model, torch.randn(size, generator=generator, dtype=torch.float64).requires_grad_()


_MORE = """
    antialiased antialiased_filt3 convnext_2 convnext_original convnext_original_0 espcn_4 nfnet_by_hand shufflenet
""".split()
"""Nets of a kind of which the default run has another, or another cut."""


@pytest.mark.parametrize(
    "case", [pytest.param(c, id=c.name, marks=[pytest.mark.more] if c.name in _MORE else []) for c in CASES]
)
@pytest.mark.parametrize("tiles", ["recompute", "reuse", "whole"])
def test_streamed_step_is_the_plain_step(case: Case, tiles: str) -> None:
    model, image = _net_and_image(case.build, case.size)
    extents = case.size[2:]
    thirds = tuple(-(-extent // 3) for extent in extents)
    tile_size = {"whole": extents, "reuse": thirds}.get(tiles) or _tile_size(case, model, most=6)
    halo = "recompute" if tiles == "recompute" else "reuse"
    streamed = streamplan.compile(model, case.size, tile_size, cut=case.cut, halo=halo)

    plan = streamed._plan
    assert (streamed._plan.num_tiles == 1) == (tiles == "whole")
    assert [barrier.reason.split(":")[0] for barrier in plan.barriers[:1]] == [case.ends] * bool(case.ends)
    if case.cut == "latest":
        assert plan.costs.streamed_flops >= 0.97 * plan.costs.flops  # all but the head
    assert_same_step(model, streamed, image)


def _tile_size(case: Case, model: nn.Module, most: int) -> tuple[int, ...]:
    """The smallest feasible tile size, or larger so that a test has at most `most` tiles; never one tile."""
    smallest = plan_only(model, case.size, case.size[2:], cut=case.cut, halo="recompute").smallest_tile_size
    for step in range(5):
        size = tuple(low + max(0, n - 1 - low) * step // 5 for low, n in zip(smallest, case.size[2:], strict=True))
        if plan_only(model, case.size, size, cut=case.cut, halo="recompute").num_tiles <= most:
            break
    return size


EARLY = [
    Case("nfnet_squeeze", lambda: nfnet_f0(8, 5, ONE_EACH, skipinit=0.7), (1, 3, 97, 65)),
    Case("efficientnet", lambda: efficientnet_b0(4, 5), (1, 3, 97, 65)),
    Case("deeplabv3", lambda: deeplabv3(2, 3, ONE_EACH, (2, 4, 6)), (2, 3, 211, 65)),
    Case("segnet", lambda: segnet(2, 3), (2, 3, 64, 47)),
]
ENDS = {
    # net: module of the first barrier, its locality, the call as the net spells it; modules of the cut values; a tile
    "nfnet_squeeze": (
        ("stages.0.0.attn_last", "global", "mean"),
        {"stages.0.0.conv3", "stages.0.0.downsample.conv"},
        (47, 41),
    ),
    "efficientnet": (
        ("features.1.0.block.1.avgpool", "global", "AdaptiveAvgPool2d"),
        {"features.1.0.block.0.2"},
        (27, 21),
    ),
    "deeplabv3": (
        ("classifier.0.convs.4.0", "global", "AdaptiveAvgPool2d"),
        {"backbone.layer4.0.relu", *(f"classifier.0.convs.{i}.2" for i in range(4))},
        (191, 65),
    ),
    "segnet": (("pool", "unknown", "MaxPool2d"), {"encoders.0.5"}, (19, 17)),
}


@pytest.mark.parametrize("case", EARLY, ids=lambda case: case.name)
def test_net_is_cut_before_its_first_barrier(case: Case) -> None:
    (where, locality, operation), cut_modules, tile = ENDS[case.name]
    model, image = _net_and_image(case.build, case.size)
    streamed = streamplan.compile(model, case.size, tile)
    plan = streamed._plan
    assert plan.num_tiles > 1
    assert plan.barriers[0].where.startswith(f"{where} (")
    assert plan.barriers[0].locality == locality
    assert plan.barriers[0].reason.startswith(f"{operation}:")
    assert _shapes_at(model, image, cut_modules) == sorted(plan.chosen.shapes)
    assert f"{where} (" in str(plan)  # a reader of the plan learns what ends it
    assert_same_step(model, streamed, image)


def _shapes_at(model: nn.Module, image: torch.Tensor, modules: set[str]) -> list[tuple[int, ...]]:
    """Shapes of what some modules return in the last of their calls, from hooks on the plain net."""
    shapes: dict[str, tuple[int, ...]] = {}

    def note(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: shapes.update({name: tuple(output.shape)})

    handles = [model.get_submodule(name).register_forward_hook(note(name)) for name in modules]
    with torch.no_grad():
        model(image)
    for handle in handles:
        handle.remove()
    return sorted(shapes.values())


def test_segnet_is_cut_before_its_first_pool_whatever_cut_is_asked_for() -> None:
    """A later cut is refused: indices count positions of the whole map."""
    model = segnet(2, 3).eval()
    size = (1, 3, 64, 64)
    assert plan_only(model, size, 32).chosen.module_path == "encoders.0.5"
    with pytest.raises(streamplan.StreamPlanError, match="MaxPool2d"):
        plan_only(model, size, 32, cut="encoders.1.5")


@pytest.mark.parametrize("hand", [False, True])
def test_standardised_weights_do_not_end_the_net(hand: bool) -> None:
    """`F.batch_norm` in training mode and a mean over all of a tensor are local matters if the tensor is a weight."""
    model = nfnet_f0(8, 5, ONE_EACH, squeeze=False, by_hand=hand).eval()
    plan = plan_only(model, (1, 3, 287, 65), 64)
    assert [barrier.where.split(" (")[0] for barrier in plan.barriers][:1] == ["adaptive_avg_pool2d"]
    assert plan.chosen.module_path == "final_act"


PUBLISHED_SIZES: list[tuple[Callable[[], nn.Module], int]] = [
    (alexnet, 60_965_224),
    (antialiased_resnet18, 11_689_512),
    (convnext_tiny, 28_589_128),
    (convnext_tiny_original, 28_589_128),
    # with its auxiliary head 42,004,074: a 3x3 convolution of 1024 to 256 channels, a norm, a 1x1 to 21 classes
    (deeplabv3, 42_004_074 - (1024 * 256 * 9 + 2 * 256 + 256 * 21 + 21)),
    (efficientnet_b0, 5_288_548),
    (shufflenet_v2, 2_278_604),
]


@pytest.mark.parametrize(("build", "published"), PUBLISHED_SIZES, ids=[b.__name__ for b, _ in PUBLISHED_SIZES])
def test_parameter_count_is_the_published_one(build: Callable[[], nn.Module], published: int) -> None:
    with torch.device("meta"):
        model = build()
    assert sum(p.numel() for p in model.parameters()) == published


def test_two_spellings_of_a_net_are_one_net() -> None:
    """The test nets themselves: equal weights in their two spellings give equal results."""
    pairs = [
        (lambda: convnext_tiny(4, 5, ONE_EACH, 0.5), convnext_tiny_original(4, 5, ONE_EACH, 0.5)),
        (lambda: nfnet_f0(8, 5, ONE_EACH, skipinit=0.7), nfnet_f0(8, 5, ONE_EACH, by_hand=True)),
    ]
    for build, other in pairs:
        model, image = _net_and_image(build, (1, 3, 64, 64))
        state = {_original_name(name): value for name, value in model.state_dict().items()}
        other.double().eval().load_state_dict({n: state[n].view_as(v) for n, v in other.state_dict().items()})
        with torch.no_grad():
            torch.testing.assert_close(model(image), other(image), rtol=1e-10, atol=1e-10)


_ORIGINAL_LAYERS = {"0": "dwconv", "2": "norm", "3": "pwconv1", "5": "pwconv2"}


def _original_name(name: str) -> str:
    """The authors' name of a parameter of torchvision's ConvNeXt; other names stay."""
    parts = name.split(".")
    if parts[0] == "features":
        i, is_stage = divmod(int(parts[1]), 2)
        if not is_stage:
            return ".".join(["downsample_layers", str(i), *parts[2:]])
        rest = ["gamma"] if parts[3] == "layer_scale" else [_ORIGINAL_LAYERS[parts[4]], *parts[5:]]
        return ".".join(["stages", str(i), parts[2], *rest])
    return name.replace("classifier.0", "norm").replace("classifier.2", "head")
