"""The code of docs/training.md runs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

PAGE = Path(__file__).parents[1] / "docs" / "training.md"


def test_every_block_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    names: dict[str, Any] = {"__name__": "training_page"}
    for block in blocks:
        exec(compile(block, "docs/training.md", "exec"), names)
    assert len(blocks) == 4
    written, labels = names["segmentation"], names["labels"]
    assert np.array_equal(np.moveaxis(written[0], 0, -1), labels)
    assert labels.any()
