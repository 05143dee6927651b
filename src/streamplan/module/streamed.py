"""What tells a streamed module from a plain one, whatever attributes either has."""

from __future__ import annotations

from typing import Any, cast

from torch import nn

from streamplan.planning import Plan


class Streamed:
    """A streamed module."""

    is_streamed = True
    """Tells a streamed module from a plain one."""


def plain_model(streamed: Any) -> nn.Module:
    """The model of a streamed module, which may have attributes that are called like it."""
    return cast(nn.Module, vars(streamed)["_StreamedModule__model"])


def planned(streamed: Any) -> Plan:
    """The plan of a streamed module, without what it takes."""
    return cast(Plan, vars(streamed)["_StreamedModule__plan"])
