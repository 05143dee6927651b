"""The code of docs/tutorial.md runs, prints what the page shows, and trains a model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pages import check_page


@pytest.mark.slow
def test_the_model_is_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "tutorial_page"}
    check_page("tutorial.md", names)
    assert names["correlation"] > 0.95
    assert names["again"].state_dict().keys() == names["model"].state_dict().keys()
