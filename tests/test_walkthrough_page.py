"""The code of docs/walkthrough.md runs and prints what the page shows."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.pages import check_page


def test_every_stage_is_as_shown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "docs" / "images").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    names: dict[str, Any] = {"__name__": "walkthrough_page"}
    check_page("walkthrough.md", names)
    assert (tmp_path / "docs" / "images" / "halo.png").stat().st_size > 5000
    computed = [step.computed for step in names["reused"].schedules[0].steps]
    for value, (extent, _) in names["reused"].part.extents.items():
        positions = [position for step in computed for position in range(step[value].start, step[value].stop)]
        assert positions == list(range(extent)), value
