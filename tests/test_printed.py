"""Reports show one text: printed, in a notebook, by rich."""

from __future__ import annotations

import io
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
import torch
from rich.console import Console
from torch import nn

import streamplan

SIZE = (1, 3, 24, 20)
ODD = ("<b>bold</b>", "[red]", "a & b", "&lt;")


def net() -> nn.Module:
    """A net whose layers have names that mean something in HTML or to rich."""
    layers = nn.Sequential()
    for name in ODD:
        layers.add_module(name, nn.Conv2d(3, 3, 3, padding=1))
    layers.add_module("</pre>", nn.AdaptiveAvgPool2d(1))
    return layers.double()


REPORTS: dict[str, Callable[[nn.Module], Any]] = {
    "plan": lambda model: streamplan.plan(model, SIZE, 12),
    "verification": lambda model: streamplan.verify(model, SIZE, 12),
    "receptive field": lambda model: streamplan.receptive_field(model, SIZE),
    "statistics": lambda model: streamplan.activation_statistics(
        streamplan.compile(model, SIZE, 12), [torch.rand(SIZE, dtype=torch.float64)]
    ),
}


class Reader(HTMLParser):
    """Collects tags and text."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


@pytest.mark.parametrize("name", REPORTS)
def test_a_report_is_the_same_everywhere(name: str) -> None:
    report = REPORTS[name](net())
    reader = Reader()
    reader.feed(report._repr_html_())
    assert reader.tags == ["pre"]
    assert reader.text == str(report)
    console = Console(file=io.StringIO(), width=200)
    console.print(report)
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert [line.rstrip() for line in shown.splitlines()] == [line.rstrip() for line in str(report).splitlines()]
    assert any(odd in str(report) for odd in (*ODD, "</pre>"))
