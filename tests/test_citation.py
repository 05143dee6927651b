"""The citation file is about this package, in this version."""

from __future__ import annotations

import datetime
import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

import streamplan

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def citation() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))


def test_citation_names_this_package(citation: dict[str, Any]) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert citation["cff-version"] == "1.2.0"
    assert (citation["title"], citation["license"]) == (project["name"], project["license"])
    assert citation["authors"] == project["authors"]
    assert citation["keywords"] == project["keywords"]


def test_version_and_date_are_those_of_the_last_release(citation: dict[str, Any]) -> None:
    assert citation["version"] == streamplan.__version__
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    version, date = re.findall(r"^## \[(\d.*?)\] - (.*)$", changelog, re.MULTILINE)[0]
    assert (version, datetime.date.fromisoformat(date)) == (citation["version"], citation["date-released"])


def test_source_paper_is_referred_to(citation: dict[str, Any]) -> None:
    (paper,) = citation["references"]
    assert [author["family-names"] for author in paper["authors"]] == ["Pinckaers", "Ginneken", "Litjens"]
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (preprint,) = paper["identifiers"]
    assert preprint["value"].removeprefix("arXiv:") in readme
    assert f"IEEE TPAMI {paper['year']}" in readme
    assert paper["title"] in " ".join(readme.split())
