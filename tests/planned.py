"""A plan without its forecast, which takes longer than the rest and which most tests do not look at."""

from __future__ import annotations

from typing import Any

from torch import nn

from streamplan.module.compile import resolve_question
from streamplan.planning import Plan, prepare_plan


def plan_only(model: nn.Module, input_size: Any = None, tile_size: Any = None, **options: Any) -> Plan:
    """What `streamplan.plan` gives for a tile size, without `forecast`."""
    question = resolve_question(model, input_size, tile_size, **options)
    arguments, device = question.arguments, question.device
    return prepare_plan(model, arguments, question.options, device, traced=question.traced).plan
