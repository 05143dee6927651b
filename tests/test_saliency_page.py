"""The code of docs/saliency.md runs, and what it finds is plain autograd's."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[1] / "docs" / "saliency.md"


def test_every_block_runs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    assert len(blocks) == page.count("\n```python\n") == 2
    names: dict[str, Any] = {"__name__": "saliency_page"}
    for block in blocks:
        exec(compile(block, "docs/saliency.md", "exec"), names)
    x = names["image"].float().requires_grad_()
    (expected,) = torch.autograd.grad(names["model"](x)[0, 1], x)
    torch.testing.assert_close(names["gradient"], expected)
