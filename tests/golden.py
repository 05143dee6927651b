"""Golden text: comparison of a whole text with a file that was read and approved once.

    assert_matches_golden(str(error), "errors/unsupported_op")    # tests/golden/errors/unsupported_op.txt

`pytest --update-golden` writes the files instead of comparing; read the diff before it is committed. Texts must not
depend on the machine: no absolute paths, addresses or times.
"""

from __future__ import annotations

import difflib
from pathlib import Path

GOLDEN_FOLDER = Path(__file__).parent / "golden"
"""Folder of the approved texts."""


class GoldenMode:
    """What `assert_matches_golden` does in this run; set once by the conftest."""

    update = False
    """Write the files instead of comparing with them."""


def assert_matches_golden(text: str, name: str) -> None:
    """Raise if a text differs from the approved one.

    Line ends are written as a single newline, and the text ends in one; nothing else is normalised.

    Args:
        text: The text produced now.
        name: Path of the approved text in `tests/golden`, with `/` between folders and without `.txt`.

    Raises:
        AssertionError: They differ, with a unified diff from the approved text to the new one, or no text was
            approved yet, with the whole new text.
    """
    __tracebackhide__ = True  # failures point at the calling line of the test
    path = GOLDEN_FOLDER / f"{name}.txt"
    actual = "\n".join(text.splitlines()) + "\n"
    if GoldenMode.update:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8", newline="\n")
        return
    hint = "if the new text is right, run the test with --update-golden and commit the file"
    label = f"tests/golden/{name}.txt"
    if not path.is_file():
        raise AssertionError(f"{label} does not exist; {hint}\n\n{actual}")
    expected = path.read_text(encoding="utf-8")
    if actual != expected:
        diff = difflib.unified_diff(expected.splitlines(), actual.splitlines(), label, "produced now", lineterm="")
        raise AssertionError(f"{label} differs; {hint}\n\n" + "\n".join(diff))
