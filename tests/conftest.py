"""Options, hypothesis profiles and surroundings that every test shares."""

from __future__ import annotations

import os
import tempfile
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, settings

from tests.golden import GoldenMode

IN_CI = bool(os.environ.get("CI"))
"""Whether this is a run of continuous integration, which must neither write golden files nor draw at random."""

os.environ["STREAMPLAN_CACHE"] = tempfile.mkdtemp(prefix="streamplan-cache-")
"""What was measured on this machine before must not show up in plans that tests compare."""

_COMMON: dict[str, Any] = {
    "deadline": None,
    "print_blob": True,
    "suppress_health_check": [HealthCheck.too_slow],  # a busy machine is no fault
}
settings.register_profile("default", max_examples=15, derandomize=IN_CI, **_COMMON)
settings.register_profile("all", max_examples=100, derandomize=IN_CI, **_COMMON)
settings.register_profile("fuzz", max_examples=5000, **_COMMON)
settings.load_profile("default")  # --hypothesis-profile=fuzz takes precedence


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-golden",
        action="store_true",
        help="write the texts in tests/golden instead of comparing with them; refused where CI is set",
    )


def pytest_configure(config: pytest.Config) -> None:
    GoldenMode.update = config.getoption("--update-golden")
    if GoldenMode.update and IN_CI:
        raise pytest.UsageError("--update-golden is refused where CI is set: golden texts are approved by a person")
    if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores, with each other and with what they start
        torch.set_num_threads(1)
        os.environ["OMP_NUM_THREADS"] = "1"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="no CUDA device"))


@pytest.fixture(autouse=True)
def seeded() -> None:
    """Seed torch, so that a test draws the same numbers alone, in any order and on any worker."""
    torch.manual_seed(0)
