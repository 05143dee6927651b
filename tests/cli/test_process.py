"""The command line as a process: when torch is imported, whose standard output is, and how it ends."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import streamplan
from streamplan.cli import main

COMMAND = "import sys; from streamplan.cli import main; sys.exit(main())"
"""What the script that pip makes of the entry point does."""
LINE = "--input-size 1,3,40,36 --tile-size 16"
NETS = """
import atexit, ctypes, os, subprocess, sys, threading, time
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(3, 4, 3)
        self.größe = nn.Conv2d(4, 4, 3)
    def forward(self, x):
        return self.größe(torch.relu(self.first(x)))

class Stop(BaseException):
    pass

class Grad(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return 1 * x
    @staticmethod
    def backward(ctx, grad):
        sys.exit(0)

class ExitsInForward(Net):
    def forward(self, x):
        sys.exit(0)

class ExitsInBackward(Net):
    def forward(self, x):
        return Grad.apply(super().forward(x))

class ExitsInTrain(Net):
    def train(self, mode=True):
        sys.exit(0)

def exits():
    sys.exit(0)

def exits_with_nothing():
    raise SystemExit

def exits_with_words():
    sys.exit("done")

def stops():
    raise Stop

def __getattr__(name):
    if name == "exits_when_looked_up":
        sys.exit(0)
    raise AttributeError(name)

def speaks():
    print("by print")
    sys.__stdout__.write("by the stream of the start\\n")
    os.write(1, b"by descriptor\\n")
    subprocess.run(["echo", "by subprocess"])
    ctypes.CDLL(None).printf(b"by libc\\n")
    atexit.register(print, "at exit")
    atexit.register(os.system, "echo by subprocess at exit")
    threading.Thread(target=lambda: [(print("by thread"), time.sleep(0.01)) for _ in range(1000)], daemon=True).start()
    return Net()

def closes():
    os.close(1)
    return Net()
"""
POSIX = pytest.mark.skipif(os.name != "posix", reason="descriptors and signals of POSIX")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "nets.py").write_text(NETS, encoding="utf-8")
    (tmp_path / "exits_on_import.py").write_text("raise SystemExit(0)\n", encoding="utf-8")
    return tmp_path


def run(
    folder: Path, line: str, redirected: str = "", script: str = COMMAND, **variables: str
) -> subprocess.CompletedProcess[str]:
    """Run a line in a shell, which redirects what it is told to."""
    environment = {**os.environ, "STREAMPLAN_CACHE": str(folder / "cache"), "PYTHONIOENCODING": "utf-8", **variables}
    shell = f'exec {redirected}\n"$PYTHON" -c "$SCRIPT" {line}\n'
    return subprocess.run(
        ["bash", "-c", shell],
        cwd=folder,
        env={**environment, "PYTHON": sys.executable, "SCRIPT": script},
        capture_output=True,
        text=True,
        encoding="utf-8",
        errors="replace",
        check=False,
    )


# -------------------------------------------------------------------------------------------------------- before torch


TELLS_OF_TORCH = """
import sys
from streamplan.cli import main
try:
    code = main()
except SystemExit as error:
    code = error.code
sys.stderr.write(f"\\n{code} {'torch' in sys.modules}")
"""
WITHOUT_TORCH = [
    ("--help", 0),
    ("--version", 0),
    ("plan --help", 0),
    ("plot --help", 0),
    ("", 2),
    ("draw", 2),
    ("plan", 2),
    (f"plot nets:Net {LINE}", 2),
    (f"plot nets:Net {LINE} --output one.png", 2),
    (f"plot nets:Net {LINE} --output one.svg --what tiles", 2),
    (f"plan nets:Net {LINE} --tile 16", 2),
    (f"plan nets:Net {LINE} --unknown", 2),
    ("plan nets:Net", 2),
    ("plan nets:Net --input-size 1x3x40x36", 2),
    ("plan nets:Net --input-size 1,3,0,36", 2),
    (f"plan nets:Net {LINE} --dtype float31", 2),
    (f"plan nets:Net {LINE} --device gpu0", 2),
    (f"plan nets:Net {LINE} --halo none", 2),
    (f"plan nets:Net {LINE} --keep-tiles some", 2),
    (f"plan nets:Net {LINE} --json --verbose", 2),
    (f"plan nets {LINE}", 2),
    (f"plan missing.py:Net {LINE}", 2),
    (f"verify nets:Net {LINE} --seed 1e3", 2),
    (f"verify nets:Net {LINE} --calibrate", 2),
]


@pytest.mark.parametrize(("line", "code"), WITHOUT_TORCH)
def test_torch_is_not_imported_for_a_line_that_is_not_run(folder: Path, line: str, code: int) -> None:
    done = run(folder, line, script=TELLS_OF_TORCH)
    assert done.stderr.splitlines()[-1] == f"{code} False"
    assert ("error: " in done.stderr) == bool(code)
    assert bool(done.stdout) == (not code)


def test_torch_is_imported_for_a_line_that_is_run(folder: Path) -> None:
    assert run(folder, f"plan nets:exits {LINE}", script=TELLS_OF_TORCH).stderr.endswith("\n2 True")


PACKAGE = """
import sys
import streamplan
assert "torch" not in sys.modules
assert issubclass(streamplan.errors.OptionError, streamplan.StreamPlanError)  # before and after a name was used
assert "torch" in sys.modules
assert set(streamplan.__all__) <= set(dir(streamplan))
assert all(hasattr(streamplan, name) for name in streamplan.__all__)
assert not hasattr(streamplan, "nothing")
assert streamplan.plan is streamplan.plan
from streamplan import *
assert compile is streamplan.compile and init is streamplan.init and __version__ == streamplan.__version__
"""


def test_the_package_looks_its_names_up_when_they_are_used(folder: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PACKAGE], cwd=folder, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# ------------------------------------------------------------------------------------------- code that ends the process


@pytest.mark.parametrize("command", ["verify", "plan"])
@pytest.mark.parametrize(
    "name",
    [
        *("exits", "exits_with_nothing", "exits_with_words", "stops", "exits_when_looked_up"),
        *("ExitsInForward", "ExitsInBackward", "ExitsInTrain"),
    ],
)
def test_a_model_that_ends_the_process(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, command: str, name: str
) -> None:
    monkeypatch.chdir(folder)
    code = main([command, f"nets.py:{name}", *LINE.split()])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert captured.err.startswith("error: ")
    assert ("Stop" if name == "stops" else "SystemExit") in captured.err
    assert "nets.py:" in captured.err


def test_a_process_that_its_model_ends(folder: Path) -> None:
    done = run(folder, f"verify nets:exits {LINE}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: nets:exits fails when called with no arguments\n")
    assert "Traceback" not in done.stderr


def test_a_traceback(folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    assert main(["plan", "nets.py:exits", *LINE.split(), "--traceback"]) == 2
    told = capsys.readouterr().err
    assert told.index("Traceback (most recent call last):") < told.index("SystemExit: 0\n") < told.index("error: ")


def test_a_module_that_ends_the_process(folder: Path) -> None:
    done = run(folder, f"verify exits_on_import:Net {LINE}")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("error: exits_on_import cannot be imported\n")


@POSIX
def test_an_interruption(folder: Path) -> None:
    (folder / "waits.py").write_text(
        textwrap.dedent("""
            import os, signal
            def net():
                os.kill(os.getpid(), signal.SIGINT)
        """),
        encoding="utf-8",
    )
    done = run(folder, f"plan waits:net {LINE}")
    assert (done.returncode, done.stdout, done.stderr) == (128 + signal.SIGINT, "", "interrupted\n")


# ------------------------------------------------------------------------------------------------------ standard output


@POSIX
@pytest.mark.slow
@pytest.mark.parametrize(("command", "unbuffered"), [("plan", ""), ("verify", "1"), ("receptive-field", "")])
def test_standard_output_is_the_json_alone(folder: Path, command: str, unbuffered: str) -> None:
    done = run(folder, f"{command} nets:speaks {LINE} --json", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 0
    assert isinstance(json.loads(done.stdout), dict)
    ways = ("print", "the stream of the start", "descriptor", "subprocess", "libc", "thread", "subprocess at exit")
    assert [way for way in ways if f"by {way}\n" not in done.stderr] == []
    assert "at exit\n" in done.stderr


@pytest.mark.slow
@POSIX
def test_a_model_that_closes_standard_output(folder: Path) -> None:
    done = run(folder, f"plan nets:closes {LINE} --json")
    assert done.returncode == 0
    assert streamplan.Plan.from_json(done.stdout).num_tiles == 9


LINES = [f"plan nets:Net {LINE}", f"verify nets:Net {LINE} --json", "plan --help", "--version"]
WRITTEN = [
    *zip(LINES, ["", "1", "", "1"], strict=True),
    *(pytest.param(line, other, marks=pytest.mark.more) for line, other in zip(LINES, ["1", "", "1", ""], strict=True)),
]


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(("line", "unbuffered"), WRITTEN)
def test_a_reader_that_has_left(folder: Path, line: str, unbuffered: str) -> None:
    done = run(folder, line, "> >(exec true); sleep 0.2", PYTHONUNBUFFERED=unbuffered)
    assert (done.returncode, done.stderr) == (128 + signal.SIGPIPE, "")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no device that is always full")
@pytest.mark.parametrize(("line", "unbuffered"), WRITTEN)
def test_a_full_disk(folder: Path, line: str, unbuffered: str) -> None:
    done = run(folder, line, "> /dev/full", PYTHONUNBUFFERED=unbuffered)
    assert done.returncode == 74
    assert done.stderr.startswith("error: the result cannot be written\n  why:   [Errno 28]")
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(
    ("line", "redirected", "code"),
    [
        (f"plan nets:Net {LINE}", ">&-", 74),
        pytest.param(f"plan nets:Net {LINE}", ">&- 2>&-", 74, marks=pytest.mark.more),
        (f"plan nets:speaks {LINE}", "2>&-", 0),
        (f"plan nets:Net {LINE}", "2>/dev/full", 0),
        (f"verify nets:exits {LINE}", "2>&-", 2),
        pytest.param(f"verify nets:exits {LINE}", "2>/dev/full", 2, marks=pytest.mark.more),
        ("plan", ">&-", 2),
        ("plan", "2>&-", 2),
        ("plan", "2>/dev/full", 2),
        ("--help", ">&-", 0),
    ],
)
def test_closed_and_full_streams(folder: Path, line: str, redirected: str, code: int) -> None:
    done = run(folder, line, redirected)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0 and redirected != ">&-")
    assert bool(done.stderr) == (code != 0 and "2>" not in redirected)
    assert "Traceback" not in done.stderr


# ------------------------------------------------------------------------------------------------------------ encodings


ASCII = [
    {"PYTHONIOENCODING": "ascii"},
    {"PYTHONIOENCODING": "", "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"},
]


@pytest.mark.slow
@POSIX
@pytest.mark.parametrize(
    "variables", [ASCII[0], pytest.param(ASCII[1], marks=pytest.mark.more)], ids=["PYTHONIOENCODING", "LC_ALL"]
)
@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"plan nets:Net {LINE}", 0),
        pytest.param(f"plan nets:Net {LINE} --json", 0, marks=pytest.mark.more),
        pytest.param(f"verify nets:Net {LINE}", 0, marks=pytest.mark.more),
        pytest.param(f"receptive-field nets:Net {LINE}", 0, marks=pytest.mark.more),
        (f"plot nets:Net {LINE} --what tiles --output größe", 0),
        (f"plan nets:Net {LINE} --cut größer", 2),
        ("plan größe", 2),
        ("plot --help", 0),
    ],
)
def test_a_terminal_of_ascii(folder: Path, line: str, code: int, variables: dict[str, str]) -> None:
    done = run(folder, line, **variables)
    assert done.returncode == code
    assert (done.stdout + done.stderr).isascii()
    assert ("error: " in done.stderr) == bool(code)
    assert "Traceback" not in done.stderr
    if "--json" in line:
        assert streamplan.Plan.from_json(done.stdout).num_tiles == 9
