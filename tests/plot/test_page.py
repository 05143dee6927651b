"""The code of docs/pictures.md draws its pictures."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "pictures.md"
PNG = b"\x89PNG\r\n\x1a\n"
MOST_BYTES = 150_000


def shown() -> list[str]:
    return re.findall(r"!\[.+\]\((.+\.png)\)", PAGE.read_text(encoding="utf-8"))


def test_the_code_makes_the_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    for large, small in (("2048", "256"), ("1024", "128"), ("resnet18()", "resnet18(8)"), ("size=512", "size=64")):
        assert large in code
        code = code.replace(large, small)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "docs" / "images").mkdir(parents=True)
    exec(compile(code, PAGE.name, "exec"), {})
    assert sorted(f"images/{path.name}" for path in (tmp_path / "docs" / "images").iterdir()) == sorted(shown())


def test_the_pictures_are_there_and_small() -> None:
    for name in shown():
        picture = (PAGE.parent / name).read_bytes()
        assert picture.startswith(PNG)
        assert len(picture) < MOST_BYTES
