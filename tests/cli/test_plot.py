"""`plot`: each figure, all of them, and what stands in the way."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType

import pytest

from tests.cli.running import RunLine

LINE = "plot :Small --input-size 1,3,40,36 --tile-size 16"
PNG = b"\x89PNG\r\n"


@pytest.fixture
def plot() -> ModuleType:
    return importlib.import_module("streamplan.plot")


@pytest.mark.usefixtures("plot")
@pytest.mark.parametrize("what", ["pareto", "memory", "tiles", "depth"])
def test_one_figure(run: RunLine, tmp_path: Path, what: str) -> None:
    path = tmp_path / "made" / "here.png"
    result = run(f"{LINE} --what {what} --output {path}")
    assert (result.code, result.out, result.err) == (0, f"{path}\n", "")
    assert path.read_bytes().startswith(PNG)
    assert [file.name for file in path.parent.iterdir()] == ["here.png"]


@pytest.mark.usefixtures("plot")
def test_all_figures(run: RunLine, tmp_path: Path) -> None:
    folder = tmp_path / "figures"
    result = run(f"{LINE} --output {folder} --halo recompute --keep-tiles 2")
    assert (result.code, result.err) == (0, "")
    names = ["pareto", "memory", "tiles", "depth"]
    assert result.out.splitlines() == [str(folder / f"{name}.png") for name in names]
    assert all((folder / f"{name}.png").read_bytes().startswith(PNG) for name in names)


@pytest.mark.usefixtures("plot")
@pytest.mark.parametrize("name", ["", "grid", "grid/", "grid.png/", "figures.v2", "there.png"])
def test_a_folder_for_one(run: RunLine, tmp_path: Path, name: str) -> None:
    """What does not end as pictures do is a folder, and so is what is one already."""
    (tmp_path / "there.png").mkdir()
    folder = tmp_path / name
    assert run(f"{LINE} --what tiles --output {tmp_path}/{name}").out == f"{folder}/tiles.png\n"
    assert (folder / "tiles.png").read_bytes().startswith(PNG)


@pytest.mark.usefixtures("plot")
def test_a_name_in_capitals(run: RunLine, tmp_path: Path) -> None:
    assert run(f"{LINE} --what tiles --output {tmp_path}/GRID.PNG").out == f"{tmp_path}/GRID.PNG\n"
    assert (tmp_path / "GRID.PNG").read_bytes().startswith(PNG)


@pytest.mark.parametrize("what", ["", "--what all "])
@pytest.mark.parametrize("name", ["one.png", "made/One.PNG"])
def test_one_file_for_all_figures(run: RunLine, tmp_path: Path, what: str, name: str) -> None:
    result = run(f"{LINE} {what}--output {tmp_path}/{name}")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {tmp_path}/{name} is one file for 4 figures\n")
    assert "pareto, memory, tiles, depth" in result.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("what", ["all", "tiles"])
@pytest.mark.parametrize("end", ["svg", "jpg", "JPEG", "pdf", "eps", "tiff", "gif"])
def test_another_format(run: RunLine, tmp_path: Path, what: str, end: str) -> None:
    result = run(f"{LINE} --what {what} --output {tmp_path}/grid.{end}")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {tmp_path}/grid.{end} cannot be written\n  why:   figures are PNG files\n")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("words", ["", "--what tiles"])
def test_a_file_where_a_folder_is_needed(run: RunLine, tmp_path: Path, words: str) -> None:
    path = tmp_path / "taken"
    path.write_text("here", encoding="utf-8")
    result = run(f"{LINE} {words} --output {path}")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {path} cannot be written\n")
    assert path.read_text(encoding="utf-8") == "here"


@pytest.mark.usefixtures("plot")
@pytest.mark.parametrize("name", ["taken/in/figures", "taken/grid.png"])
def test_a_file_where_a_folder_must_be_made(run: RunLine, tmp_path: Path, name: str) -> None:
    (tmp_path / "taken").write_text("here", encoding="utf-8")
    result = run(f"{LINE} --what tiles --output {tmp_path}/{name}")
    assert (result.code, result.out) == (2, "")
    assert result.err.startswith(f"error: {tmp_path}/{name} cannot be written\n")


@pytest.mark.usefixtures("plot")
def test_nothing_is_made_for_a_plan_that_there_is_not(run: RunLine, tmp_path: Path) -> None:
    assert run(f"plot :Global --input-size 1,3,40,36 --output {tmp_path}/figures").code == 3
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib(run: RunLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("streamplan.plot")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr("streamplan.plot", raising=False)
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    result = run(f"{LINE} --output {tmp_path}/figures")
    assert (result.code, result.out) == (2, "")
    assert "streamplan[plot]" in result.err
    assert not (tmp_path / "figures").exists()


def test_where_to_is_asked(run: RunLine) -> None:
    result = run(LINE)
    assert result.code == 2
    assert result.err.startswith("error: the following arguments are required: --output\n")
