"""The code of docs/statistics.md runs, and prints what it says."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import torch

PAGE = Path(__file__).parents[1] / "docs" / "statistics.md"


def test_every_block_runs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {}
    for block in blocks:
        exec(compile(block, "docs/statistics.md", "exec"), names)
    assert len(blocks) == 2
    assert list(names["statistics"]) == ["0", "1", "2", "3", "4"]
    assert names["first"].shape == (8,)
    (shown,) = re.findall(r"^```text\n(.*?)\n```$", page, re.MULTILINE | re.DOTALL)
    assert str(names["report"]).splitlines()[0] == shown
    with torch.no_grad():
        columns = [names["model"][:1](image).movedim(1, 0).flatten(1) for image in names["images"]]
    std = torch.cat(columns, 1).std(1, correction=0)
    torch.testing.assert_close(std, torch.ones(8), rtol=1e-4, atol=0)
