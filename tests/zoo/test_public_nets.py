"""Public nets, eval mode, float64: the same outputs and gradients streamed as plain."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.zoo.public_nets import LIBRARIES, is_there


@pytest.mark.parametrize("library", LIBRARIES)
def test_public_nets_are_exact(library: str) -> None:
    if not is_there(library):
        pytest.skip(f"{library} is not installed: see `make zoo-install`")
    done = subprocess.run(
        [sys.executable, "-W", "error", "-m", "tests.zoo.public_nets", library],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    num_tiles = json.loads(done.stdout)
    assert list(num_tiles) == list(LIBRARIES[library])
    assert min(num_tiles.values()) > 1, num_tiles
