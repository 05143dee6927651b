"""Measured <= projected <= 1.10 x measured, phase by phase, on nets of the literature."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import pytest
import torch
from monai.networks.nets import BasicUNet
from torch import nn

import streamplan
from streamplan.costs import Calibration, StepSimulator, project_step
from streamplan.costs.circumstances import circumstances_of, count_optimizer_bytes
from streamplan.planning.projection import MemoryProjection
from streamplan.trace.skeleton import meta_skeleton
from tests.costs.measuring import measured_peaks
from tests.nets.alexnet import alexnet
from tests.nets.blurpool import antialiased_resnet18
from tests.nets.convnext import convnext_tiny
from tests.nets.densenet import densenet121
from tests.nets.efficientnet import efficientnet_b0
from tests.nets.fpn import fpn_resnet18
from tests.nets.googlenet import googlenet
from tests.nets.hrnet import hrnet
from tests.nets.inception import inception_v3
from tests.nets.mobilenet import mobilenet_v2
from tests.nets.resnet import resnet18, resnet50
from tests.nets.shufflenet import shufflenet_v2
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet_bilinear
from tests.nets.vgg import vgg11_bn

CPU = torch.device("cpu")
_MOST = 1.10
"""Projected over measured bytes."""
_MARGIN = 2**18
"""The projection's own margin: a phase that takes little may be projected larger by so much."""
_UNCOUNTED = ("parameters", "buffers", "image")
"""What is there before the step."""


@dataclass(frozen=True)
class Case:
    """A net at a size, and a cut and a tile size for recomputed halos."""

    name: str
    build: Callable[[], nn.Module]
    early: str
    size: tuple[int, ...] = (1, 3, 512, 384)


CASES = [
    Case("alexnet", lambda: alexnet(32, 5, (512, 384)), "features.5"),
    Case("antialiased", lambda: antialiased_resnet18(16, 5), "layer1"),
    Case("convnext", lambda: convnext_tiny(16, 5, (1, 1, 1, 1), 0.5), "features.1"),
    Case("densenet121", lambda: densenet121(8, 5), "features.pool0"),
    Case("efficientnet", lambda: efficientnet_b0(8, 5), "features.0"),
    Case("fpn", lambda: fpn_resnet18(16, (1, 1, 1, 1)), "body.layer1"),
    Case("googlenet", lambda: googlenet(16, 5), "maxpool2"),
    Case("hrnet", lambda: hrnet(8, (1, 1, 1), 1), "layer1"),
    Case("inception", lambda: inception_v3(8, 5), "maxpool1"),
    Case("mobilenet", lambda: mobilenet_v2(16, 5), "features.2"),
    Case("resnet18", lambda: resnet18(32, 5), "layer2"),
    Case("resnet50", lambda: resnet50(16, 5), "layer1"),
    Case("shufflenet", lambda: shufflenet_v2(16, 5), "maxpool"),
    Case("tupac", lambda: tupac(16), "streamed.18"),
    Case("unet", lambda: unet(16, 3), "latest"),
    Case("unet_bilinear", lambda: unet_bilinear(16, 3), "latest"),
    Case("vgg11_bn", lambda: vgg11_bn(16, 5), "features.7"),
    Case("BasicUNet of MONAI", lambda: BasicUNet(2, 3, 4, (16, 16, 32, 32, 64, 16), norm="batch"), "latest"),
]
PLANS: dict[str, dict[str, Any]] = {
    "strips": {"tile_size": (128, 384)},
    "tiles": {"tile_size": (192, 128), "keep_tiles": 0},
    "recompute": {"tile_size": (320, 256), "halo": "recompute", "keep_tiles": 2},
}


@pytest.fixture(scope="module")
def calibration() -> Calibration:
    """Work space is measured once for all nets; nothing is written to a file."""
    return Calibration(CPU, is_measuring=True)


def above_start(projection: MemoryProjection) -> dict[str, int]:
    """Projected bytes by phase, without what is there before the step."""
    return {
        phase.phase: sum(item.num_bytes for item in phase.items if item.what not in _UNCOUNTED)
        for phase in projection.phases
    }


_FEWER = {("resnet18", "strips"), ("resnet18", "tiles"), ("unet_bilinear", "recompute")}
"""Nets and plans of the default run."""


def _params() -> list[Any]:
    return [
        pytest.param(
            case, plan, id=f"{case.name}-{plan}", marks=[] if (case.name, plan) in _FEWER else pytest.mark.more
        )
        for case, plan in product(CASES, PLANS)
    ]


@pytest.mark.slow
@pytest.mark.parametrize(("case", "plan"), _params())
def test_measured_is_at_most_projected_and_not_much_less(case: Case, plan: str, calibration: Calibration) -> None:
    torch.manual_seed(0)
    model, options = case.build().eval(), PLANS[plan]
    if options.get("halo") == "recompute":
        options = {**options, "cut": case.early}
    streamed = streamplan.compile(model, case.size, **options)
    executable = next(iter(streamed._executables.values()))
    simulator = StepSimulator(meta_skeleton(model), executable.prepared, calibration.reserve)
    optimizer_bytes = count_optimizer_bytes(streamed._options, model)
    around = circumstances_of(streamed._options, optimizer_bytes, executable.plan.keep_tiles, executable.plan.carries)
    projected = above_start(project_step(simulator, around))
    measured = measured_peaks(streamed, torch.rand(case.size))
    assert calibration.num_guessed == 0
    found = {phase: (count, projected[phase], projected[phase] / max(1, count)) for phase, count in measured.items()}
    for phase, count in measured.items():
        assert count <= projected[phase], (phase, found)
        assert projected[phase] <= _MOST * count + _MARGIN, (phase, found)
