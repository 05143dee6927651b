"""What stands in the way of a cut."""

from __future__ import annotations

import torch
from torch import nn

import streamplan


class Twice(nn.Module):
    """The second call of `conv` computes the value `conv_1`; the module `conv_1` comes later, behind a BatchNorm."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)
        self.norm = nn.BatchNorm2d(3)
        self.conv_1 = nn.Conv2d(3, 3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv_1(self.norm(self.conv(self.conv(x))))


def test_a_cut_is_the_value_of_that_name_before_it_is_a_module() -> None:
    plan = streamplan.plan(Twice().train(), (1, 3, 40, 40), 16, cut="conv_1")
    assert plan.cut == ("conv_1",)
    assert plan.chosen.module_path == "conv"
