"""Pages of the documentation whose code runs and prints what they show."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

from tests.golden import GoldenMode

DOCS = Path(__file__).parents[1] / "docs"
BLOCK = re.compile(r"^```(python|text)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def run_page(text: str, names: dict[str, Any], title: str = "page", *, is_updated: bool = False) -> str:
    """Run the Python blocks in order; a text block must be what the block before it prints.

    Args:
        text: The page.
        names: Names that the code finds and leaves.
        title: Of the page, for tracebacks.
        is_updated: Whether text blocks become what is printed.

    Returns:
        The page.
    """
    printed, parts, end = "", [], 0
    for block in BLOCK.finditer(text):
        language, body = block.groups()
        parts.append(text[end : block.start(2)])
        end = block.end(2)
        if language == "text":
            assert is_updated or printed == body
            parts.append(printed)
            printed = ""
            continue
        assert printed == "", "the page does not show what a block prints"
        with contextlib.redirect_stdout(io.StringIO()) as out:
            exec(compile(body, title, "exec"), names)
        printed = out.getvalue()
        parts.append(body)
    assert printed == ""
    return "".join((*parts, text[end:]))


def check_page(name: str, names: dict[str, Any]) -> None:
    """Run a page of the documentation, or, with --update-golden, write what it prints into it."""
    path = DOCS / name
    text = path.read_text(encoding="utf-8")
    after = run_page(text, names, f"docs/{name}", is_updated=GoldenMode.update)
    if GoldenMode.update:
        path.write_text(after, encoding="utf-8")
