"""The worked example of docs/rules.md: its code runs, and prints what the page says."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn

import streamplan
from streamplan.trace.registered import TARGETS
from tests.pages import check_page, run_page
from tests.runtime.comparison import assert_streams_like_plain


@pytest.fixture
def page() -> Iterator[dict[str, Any]]:
    """The names that the page defines, after all its code has run; rules it leaves registered are taken back."""
    names: dict[str, Any] = {"__name__": "rules_page"}
    before = set(TARGETS)
    try:
        check_page("rules.md", names)
        yield names
    finally:
        for target in set(TARGETS) - before:
            streamplan.unregister_rule(target)


def test_the_page_prints_what_it_says(page: dict[str, Any]) -> None:
    assert {"BlurPool", "Gate", "Doubling"} <= set(page)


def test_a_wrong_page_is_noticed() -> None:
    with pytest.raises(AssertionError):
        run_page("```python\nprint(1)\n```\n\n```text\n2\n```\n", {})


@pytest.mark.parametrize("border", ["reflect", "replicate", "constant"])
def test_the_blur_pool_streams_like_the_plain_one(page: dict[str, Any], border: str) -> None:
    blur = page["blur_pool"]
    streamplan.unregister_rule(blur)
    rule = streamplan.LocalRule.windowed(blur, kernel=3, stride=lambda m: m.stride, padding=1, border=border)
    streamplan.register_rule(page["BlurPool"], rule)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), page["BlurPool"](4, border=border), nn.Conv2d(4, 2, 3)).double()
    x = torch.randn(2, 3, 26, 31, dtype=torch.float64)
    for tile_size in (11, (9, 40), 17):
        streamed = assert_streams_like_plain(model, [x], tile_size)
        assert streamed.plan.barriers == ()


def test_the_gate_streams_like_the_plain_one(page: dict[str, Any]) -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.gate = page["Gate"](4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.conv(x)
            return self.gate(y, skip=y + 1)

    streamed = assert_streams_like_plain(Net().double(), [torch.randn(1, 3, 19, 14, dtype=torch.float64)], 6)
    assert streamed.plan.barriers == ()
