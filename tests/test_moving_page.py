"""The code of docs/moving.md does what the page says."""

from __future__ import annotations

from typing import Any

from torch import nn

from tests.pages import check_page


def test_names_of_wrapped_layers() -> None:
    names: dict[str, Any] = {}
    check_page("moving.md", names)
    layers = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    wrapped = nn.ModuleDict({"stream_network": nn.ModuleDict({"stream_module": layers})})
    assert names["unwrapped"](wrapped.state_dict()).keys() == layers.state_dict().keys()
