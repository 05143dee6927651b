"""The code of docs/planning.md runs and prints what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest
import torch
from monai.networks.nets import resnet18

import streamplan
from streamplan.errors import InfeasibleBudgetError
from tests.golden import GoldenMode

PAGE = Path(__file__).parents[1] / "docs" / "planning.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)


def assert_page_shows(text: str, index: int) -> None:
    """The page shows this text, or, with --update-golden, does from now on. Line numbers depend on MONAI's version."""
    shown = blocks("text")[index]
    if GoldenMode.update:
        page = PAGE.read_text(encoding="utf-8")
        PAGE.write_text(page.replace(f"```text\n{shown}```", f"```text\n{text}\n```"), encoding="utf-8")
        return
    lines = re.compile(r"\.py:\d+:")
    assert lines.sub(".py:", text).strip() == lines.sub(".py:", shown).strip()


def test_report_is_the_one_shown() -> None:
    (code,) = blocks("python")
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, "docs/planning.md", "exec"), {})
    assert_page_shows(printed.getvalue().strip(), 0)


def test_refusal_is_the_one_shown() -> None:
    with torch.device("meta"):
        model = resnet18(spatial_dims=2, n_input_channels=3, conv1_t_stride=2, num_classes=2).eval()
    with pytest.raises(InfeasibleBudgetError) as refusal:
        streamplan.plan(model, (1, 3, 8192, 8192), memory_budget="1GiB", optimizer="adam")
    assert_page_shows(f"InfeasibleBudgetError: {refusal.value}", 1)
