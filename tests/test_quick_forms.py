"""The quick form of every benchmark and example, and every command, in a clean checkout: git sees no change."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
QUICK = {
    "benchmarks/planning.py": [["--quick"]],
    "benchmarks/run.py": [
        *[["--quick", "--cases", "quick-unet", "--variants", "plain", "reuse", "--repeats", "1", "--no-checks"]]
    ],
    "benchmarks/scaling.py": [["--quick", "--steps", "1"], ["--draw"]],
    "examples/imagenette.py": [["--quick"]],
    "examples/larger_than_memory.py": [["--extent", "192", "--tile-size", "64", "192"]],
    "examples/lightning_module.py": [["--extent", "64", "--tile-size", "32", "--steps", "1"]],
    "examples/quickstart.py": [["--net", "resnet18", "--mode", "streamed"]],
    "examples/saliency.py": [["--quick", "--steps", "2"]],
    "examples/whole_slide.py": [["--quick"]],
}
"""Arguments of each script that is run by hand; whatever runs from the command line must be among them."""
_MORE = dict.fromkeys(
    """benchmarks/planning.py benchmarks/scaling.py examples/imagenette.py examples/larger_than_memory.py
    examples/quickstart.py examples/whole_slide.py""".split(),
    pytest.mark.more,
)
"""The slowest of them."""
COMMANDS = [
    "plan tests.cli.factories:Small --calibrate",
    "receptive-field tests.cli.factories:Small",
    "verify tests.cli.factories:Small",
    "plot tests.cli.factories:Small --output demo-output",
]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working tree as it is, all of it committed in a repository of its own."""
    folder = tmp_path_factory.mktemp("checkout") / "streamplan"
    ignored = shutil.ignore_patterns(".git", ".venv", "*_cache", "__pycache__", ".hypothesis", "site", "demo-output")
    shutil.copytree(ROOT, folder, ignore=ignored)
    git(folder, "init", "--quiet")
    git(folder, "add", "--all")
    git(folder, *"-c user.name=test -c user.email=test@localhost commit --quiet --message all".split())
    return folder


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, check=True, capture_output=True, text=True).stdout


def run(folder: Path, *words: str) -> None:
    """Run Python on the checkout's code, with a cache and a home of its own."""
    own = {"PYTHONPATH": f"{folder / 'src'}{os.pathsep}{folder}", "STREAMPLAN_CACHE": str(folder.parent / "cache")}
    environment = {**os.environ, **own, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def test_every_script_is_run_here() -> None:
    """`benchmarks/worker.py` is started by the others alone."""
    scripts = {path for folder in ("benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")}
    started = {str(path.relative_to(ROOT)) for path in scripts if "ArgumentParser(" in path.read_text(encoding="utf-8")}
    assert started == set(QUICK)


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("script", [pytest.param(one, marks=_MORE.get(one, [])) for one in QUICK])
def test_a_quick_form_changes_no_file(checkout: Path, script: str) -> None:
    is_module = script.startswith("benchmarks/")
    name = ["-m", script.removesuffix(".py").replace("/", ".")] if is_module else [script]
    for arguments in QUICK[script]:
        run(checkout, *name, *arguments)
    assert git(checkout, "status", "--porcelain") == ""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")
@pytest.mark.parametrize("command", [*COMMANDS[::3], *(pytest.param(c, marks=pytest.mark.more) for c in COMMANDS[1:3])])
def test_a_command_changes_no_file(checkout: Path, command: str) -> None:
    script = "import sys; from streamplan.cli import main; sys.exit(main())"
    run(checkout, "-c", script, *command.split(), "--input-size", "1,3,40,36", "--tile-size", "16")
    assert git(checkout, "status", "--porcelain") == ""
