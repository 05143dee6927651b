"""The README's example runs and prints what the README says."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"


def blocks(language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)


def without_numbers_that_vary(text: str) -> str:
    """Rounding errors depend on the machine."""
    text = re.sub(r"\d\.\de[+-]\d\d", "<error>", text)
    return re.sub(r"(<error>  )\S.*", r"\1<tensor>", text).strip()


@pytest.mark.more  # the test of the wheel runs it too
def test_example_prints_what_the_readme_shows() -> None:
    (code,) = blocks("python")
    namespace: dict[str, object] = {}
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code, str(README), "exec"), namespace)
    shown = "\n".join(block.strip() for block in blocks("text"))
    assert without_numbers_that_vary(printed.getvalue()) == without_numbers_that_vary(shown)
    assert namespace["model"][0].weight.grad is not None
