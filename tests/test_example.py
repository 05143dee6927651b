"""examples/larger_than_memory.py runs, as its users run it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[1] / "examples" / "larger_than_memory.py"


def test_a_small_image(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--extent", "192", "--tile-size", "64", "192", "--folder", str(tmp_path)]
    command += ["--json", str(tmp_path / "measured.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "192 x 192 pixels" in done.stdout
    for task in ("train", "predict"):
        assert f"\n{task}: " in done.stdout
    assert (tmp_path / "labels.zarr").is_dir()
    measured = json.loads((tmp_path / "measured.json").read_text(encoding="utf-8"))
    assert measured["extent"] == 192
    assert all(0 < measured[task]["peak_gib_of_process"] < 4 for task in ("train", "predict"))
