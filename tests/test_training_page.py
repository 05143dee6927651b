"""The code of docs/training.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.distributed

PAGE = Path(__file__).parents[1] / "docs" / "training.md"


@pytest.mark.filterwarnings(r"ignore:The \.grad attribute of a Tensor that is not a leaf:UserWarning")  # the compiler
@pytest.mark.filterwarnings("ignore:::lightning")  # advice, and what it uses that torch deprecates
def test_every_block_runs() -> None:
    page = PAGE.read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "training_page"}
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), names)
    assert len(blocks) == page.count("\n```python\n") >= 11
    written, labels = names["segmentation"], names["labels"]
    assert np.array_equal(np.moveaxis(written[0], 0, -1), labels)
    assert labels.any()
    assert not torch.distributed.is_initialized()
    assert names["average"].module.is_streamed
    before, after = names["Grader"]().state_dict(), names["lit"].state_dict()
    assert [f"net.{name}" for name in before] == list(after)
    assert all(parameter.grad is not None for parameter in names["model"].parameters())
