"""The report on a plan, as approved texts."""

from __future__ import annotations

import torch
from torch import Tensor, nn

import streamplan
from tests.golden import assert_matches_golden
from tests.nets.resnet import resnet18
from tests.nets.unet import unet

_COLUMNS = 100
"""Width the report keeps to, source lines of the model aside."""


class SqueezeExcite(nn.Module):
    """A squeeze-excite block behind the first convolution: everything after it is resident."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, stride=2, padding=1)
        self.scale = nn.Conv2d(16, 16, 1)
        self.body = nn.Sequential(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 32, 3, padding=1))
        self.fc = nn.Linear(32, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.stem(x))
        x = x * torch.sigmoid(self.scale(x.mean((2, 3), keepdim=True)))
        return self.fc(self.body(x).mean((2, 3)))


def assert_report(plan: streamplan.Plan, name: str) -> None:
    text = str(plan)
    assert_matches_golden(text, f"plans/{name}")
    long = [line for line in text.splitlines() if len(line) > _COLUMNS and ".py:" not in line]
    assert not long


def test_resnet18() -> None:
    assert_report(streamplan.plan(resnet18().eval(), (1, 3, 2048, 2048), 1024), "resnet18")


def test_a_unet_is_local_to_its_end() -> None:
    plan = streamplan.plan(unet(width=16, depth=2).eval(), (1, 3, 512, 512), 256)
    assert plan.barriers == ()
    assert_report(plan, "unet")


def test_an_early_cut_is_warned_of() -> None:
    plan = streamplan.plan(SqueezeExcite().eval(), (1, 3, 1024, 1024), 256)
    assert "WARNING: less than half" in str(plan)
    assert_report(plan, "squeeze_excite")


def test_json_is_the_golden_one() -> None:
    """Fields are only added or changed together with `FORMAT_VERSION`."""
    net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 4, 3)).eval()
    plan = streamplan.plan(net, (1, 3, 64, 48), memory_budget="1MiB", optimizer="adam")
    assert_matches_golden(plan.to_json(), "plans/small_net_json")
