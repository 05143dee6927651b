"""The wheel, installed beside its run-time dependencies alone, runs the README's example and the command."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

import streamplan
from tests.test_readme import blocks, without_numbers_that_vary

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

DESCRIPTION = """
import importlib.metadata, importlib.util, json, sys
found = importlib.metadata.distribution("streamplan")
print(json.dumps({
    "metadata": found.metadata.json,
    "files": sorted(str(file) for file in found.files if file.suffix != ".pyc"),
    "origin": importlib.util.find_spec("streamplan").origin,
    "distributions": sorted(each.name for each in importlib.metadata.distributions()),
    "importable": [name for name in sys.argv[1:] if importlib.util.find_spec(name)],
}))
"""
"""Describes the environment that runs it: the package, all that is installed, and which names are modules."""


def run(*command: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run a command that must succeed, in a folder and without settings such as PYTHONPATH."""
    settings = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "PIP_"))}
    done = subprocess.run(command, cwd=folder, env=settings, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def needed_distributions(requirements: Iterable[str]) -> dict[str, importlib.metadata.Distribution]:
    """What requirements install, themselves and in turn, as it is installed here; by name."""
    found: dict[str, importlib.metadata.Distribution] = {}
    waiting, done = [(Requirement(text), "") for text in requirements], set()
    while waiting:
        requirement, extra = waiting.pop()
        if (requirement.marker and not requirement.marker.evaluate({"extra": extra})) or str(requirement) in done:
            continue
        done.add(str(requirement))
        distribution = importlib.metadata.distribution(requirement.name)
        found[distribution.name] = distribution
        waiting += [
            (Requirement(text), wanted)
            for text in distribution.requires or ()
            for wanted in ("", *sorted(requirement.extras))
        ]
    return found


def top_level_paths(distribution: importlib.metadata.Distribution) -> set[Path]:
    """The modules, packages and metadata of a distribution, as paths; without its scripts."""
    assert distribution.files is not None, f"{distribution.name} does not say which files it has"
    names = {file.parts[0] for file in distribution.files} - {"..", "__pycache__"}
    return {Path(str(distribution.locate_file(name))) for name in names}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("wheel")
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", folder, ROOT, folder=folder)
    (path,) = folder.iterdir()
    return path


@pytest.fixture(scope="module")
def environment(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of scripts of an environment that has the wheel, and sees what it needs through links."""
    folder = tmp_path_factory.mktemp("environment")
    links = folder / "dependencies"
    links.mkdir()
    for distribution in needed_distributions(PROJECT["dependencies"]).values():
        for path in top_level_paths(distribution):
            if not (links / path.name).exists():  # parts of a namespace share a folder
                (links / path.name).symlink_to(path)
    run(sys.executable, "-m", "venv", "--without-pip", folder / "venv", folder=folder)
    scripts = folder / "venv" / "bin"
    (packages,) = (folder / "venv" / "lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(f"{links}\n", encoding="utf-8")
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", scripts / "python")
    run(*pip, "install", "--quiet", "--no-deps", "--no-index", wheel, folder=folder)
    return scripts


@pytest.fixture(scope="module")
def description(environment: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    tools = ("hypothesis", "lightning", "matplotlib", "monai", "numpy", "pytest", "skimage", "streamplan", "tests")
    done = run(environment / "python", "-c", DESCRIPTION, *tools, folder=tmp_path_factory.mktemp("empty"))
    return json.loads(done.stdout)


def test_wheel_holds_the_package_alone(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
    tracked = (path for path in (ROOT / "src").rglob("*") if path.is_file() and "__pycache__" not in path.parts)
    assert names == {path.relative_to(ROOT / "src").as_posix() for path in tracked}


def test_nothing_but_what_is_needed_is_seen(environment: Path, description: dict[str, Any]) -> None:
    needed = needed_distributions(PROJECT["dependencies"])
    assert description["distributions"] == sorted({*needed, "streamplan"})
    assert Path(description["origin"]).is_relative_to(environment.parent)
    names = {path.stem for distribution in needed.values() for path in top_level_paths(distribution)}
    assert set(description["importable"]) - names == {"streamplan"}


def test_metadata_says_what_the_package_is(description: dict[str, Any]) -> None:
    metadata = description["metadata"]
    assert (metadata["name"], metadata["version"]) == (PROJECT["name"], streamplan.__version__)
    assert metadata["license_expression"] == PROJECT["license"]
    assert [file.rpartition("/")[2] for file in description["files"] if "/licenses/" in file] == ["LICENSE"]
    assert "Typing :: Typed" in metadata["classifier"]
    assert "streamplan/py.typed" in description["files"]  # PEP 561


def test_example_of_the_readme_prints_what_the_readme_shows(environment: Path, tmp_path: Path) -> None:
    (code,) = blocks("python")
    done = run(environment / "python", "-c", code, folder=tmp_path)
    torch_alone = run(environment / "python", "-c", "import torch", folder=tmp_path)
    assert done.stderr == torch_alone.stderr  # without numpy, torch warns as it is imported
    shown = "\n".join(block.strip() for block in blocks("text"))
    assert without_numbers_that_vary(done.stdout) == without_numbers_that_vary(shown)


def test_command_is_there(environment: Path, tmp_path: Path) -> None:
    command = environment / "streamplan"
    version, usage = run(command, "--version", folder=tmp_path), run(command, "plan", "--help", folder=tmp_path)
    assert version.stdout == f"streamplan {streamplan.__version__}\n"
    assert usage.stdout.startswith("usage: streamplan plan")
    assert version.stderr == usage.stderr == ""
