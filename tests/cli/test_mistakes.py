"""Mistakes that a user makes: message, exit code, and no traceback."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import RunLine
from tests.golden import assert_matches_golden

SIZE = "--input-size 1,3,40,36"

USAGE = {
    "no_command": "",
    "no_model": f"plan {SIZE}",
    "no_size": "plan :Small",
    "no_colon": f"plan tests.cli.factories {SIZE}",
    "wrong_module": f"plan tests.cli.factory:Small {SIZE}",
    "wrong_package": f"plan nobody_has_this.nets:Small {SIZE}",
    "wrong_file": f"plan nets/small.py:Small {SIZE}",
    "wrong_attribute": f"plan :Smal {SIZE}",
    "wrong_nested_attribute": f"plan :ZOO.big {SIZE}",
    "wrong_argument": f"plan :Small --arg widht=8 {SIZE}",
    "malformed_argument": f"plan :Small --arg width:8 {SIZE}",
    "argument_of_an_instance": f"plan :INSTANCE --arg width=8 {SIZE}",
    "factory_fails": f"verify :fails {SIZE}",
    "no_factory": f"plan :NUMBER {SIZE}",
    "factory_makes_no_model": f"plan :makes_a_list {SIZE}",
    "malformed_size": "plan :Small --input-size 1x3x40x36",
    "size_without_batch": "plan :Small --input-size 40,36",
    "size_of_wrong_rank": "plan :Small --input-size 3,40,36",
    "malformed_tile_size": f"plan :Small {SIZE} --tile-size 0",
    "tile_size_of_wrong_rank": f"plan :Small {SIZE} --tile-size 16,16,16",
    "malformed_budget": f"plan :Small {SIZE} --memory-budget lots",
    "wrong_dtype": f"plan :Small {SIZE} --dtype float31",
    "wrong_device": f"plan :Small {SIZE} --device gpu0",
    "wrong_keep_tiles": f"plan :Small {SIZE} --tile-size 16 --keep-tiles -1",
    "wrong_cut": f"plan :Small {SIZE} --tile-size 16 --cut steam",
    "json_and_verbose": f"plan :Small {SIZE} --tile-size 16 --json --verbose",
    "option_of_another_command": f"receptive-field :Small {SIZE} --keep-tiles 2",
}

REFUSED = {
    "nothing_to_stream": f"plan :Global {SIZE} --tile-size 16",
    "training_batch_norm": f"plan :Small --arg norm=batch --train {SIZE} --tile-size 16",
    "tile_too_small": f"plan :Small {SIZE} --tile-size 1 --halo recompute",
    "wrong_channels": "plan :Small --input-size 1,4,40,36 --tile-size 16",
}


@pytest.mark.parametrize("name", USAGE)
def test_another_line_is_needed(run: RunLine, name: str) -> None:
    result = run(USAGE[name])
    assert (result.code, result.out) == (2, "")
    assert_matches_golden(result.err, f"cli/{name}")


@pytest.mark.parametrize("name", REFUSED)
def test_no_plan(run: RunLine, name: str) -> None:
    result = run(REFUSED[name])
    assert (result.code, result.out) == (3, "")
    assert_matches_golden(result.err, f"cli/{name}")


def test_no_plan_fits_the_budget(run: RunLine) -> None:
    result = run(f"plan :Small {SIZE} --memory-budget 1KiB")
    assert (result.code, result.out) == (3, "")
    assert result.err.startswith("error: no plan fits into 1.00 KiB\n  where: ")


def test_choices_are_told(run: RunLine) -> None:
    """Python's versions quote them differently."""
    result = run(f"plan :Small {SIZE} --halo none")
    assert result.code == 2
    assert result.err.startswith("error: argument --halo: invalid choice: 'none' (choose from ")
    assert run("draw").err.startswith("error: argument COMMAND: invalid choice: 'draw'")


@pytest.mark.parametrize(
    ("name", "code"),
    [
        pytest.param("module_raises", "import os\nraise ValueError('no licence')\n", id="raises"),
        pytest.param("module_exits", "import sys\nsys.exit(5)\n", id="exits"),
        pytest.param("module_is_no_python", "def net(:\n", id="is no Python"),
        pytest.param("module_imports_what_is_missing", "import nobody_has_this\n", id="imports what is missing"),
    ],
)
@pytest.mark.parametrize("form", ["module", "file"])
def test_modules_that_cannot_be_imported(
    run: RunLine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, code: str, form: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / f"{name}.py").write_text(code, encoding="utf-8")
    result = run(f"plan {name}{'.py' if form == 'file' else ''}:Net {SIZE}")
    assert (result.code, result.out) == (2, "")
    assert_matches_golden(result.err, f"cli/{name}_{form}")
