"""The file of what was measured: it may be unwritable, damaged, or written by several processes at once."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

import streamplan
from streamplan.costs import calibration
from streamplan.costs.calibration import Calibration, cache_path, load_calibration, save_calibration

CPU = torch.device("cpu")


@pytest.fixture
def path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of the CPU, which does not exist, in a folder that does not exist either."""
    monkeypatch.setenv("STREAMPLAN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibration, "_UNWRITTEN", {})
    return cache_path(CPU)


def measured(**speeds: float) -> Calibration:
    return Calibration(CPU, {"convolution": 12}, speeds)


def _folder_is_a_file(path: Path) -> None:
    path.parents[1].write_text("here", encoding="utf-8")


def _file_is_a_folder(path: Path) -> None:
    path.mkdir(parents=True)


def _folder_is_a_device(path: Path) -> None:
    path.parents[1].symlink_to("/dev/null")


UNWRITABLE = [_folder_is_a_file, _file_is_a_folder, _folder_is_a_device]


@pytest.mark.parametrize("spoil", UNWRITABLE)
def test_what_cannot_be_written_is_remembered_and_said_once(path: Path, spoil: Callable[[Path], None]) -> None:
    spoil(path)
    with pytest.warns(UserWarning, match="cannot be kept in") as caught:
        save_calibration(measured(a=1.0))
    assert len(caught) == 1
    assert str(path) in str(caught[0].message)
    save_calibration(measured(b=2.0))  # a second warning would be an error
    known = load_calibration(CPU)
    assert known.speeds == {"a": 1.0, "b": 2.0}
    assert known.work_space == {"convolution": 12}
    assert [entry for entry in path.parents[2].rglob("*") if entry.is_file()] in ([], [path.parents[1]])


def test_a_full_disk(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def write_text(self: Path, text: str, **_: str) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", write_text)
    with pytest.warns(UserWarning, match="No space left on device"):
        save_calibration(measured(a=1.0))
    assert list(path.parent.iterdir()) == []
    monkeypatch.undo()


def test_a_plan_is_calibrated_where_nothing_can_be_written(path: Path) -> None:
    """Measured numbers are in the plan, and the next plan measures nothing that is known."""
    path.parents[1].write_text("here", encoding="utf-8")
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU())
    with pytest.warns(UserWarning, match="cannot be kept"):
        first = streamplan.plan(model, (1, 3, 40, 36), 16, calibrate=True)
    second = streamplan.plan(model, (1, 3, 40, 36), 16)
    assert first.forecast is not None
    assert second.forecast is not None
    assert second.forecast.time.seconds == first.forecast.time.seconds is not None
    assert "measured" in second.forecast.memory.reserve


def test_a_warning_that_is_an_error_loses_nothing(path: Path) -> None:
    path.parents[1].write_text("here", encoding="utf-8")
    with pytest.raises(UserWarning, match="cannot be kept"):  # as every warning in these tests
        save_calibration(measured(a=1.0))
    assert load_calibration(CPU).speeds == {"a": 1.0}


def test_what_becomes_writable_is_written(path: Path) -> None:
    path.parents[1].write_text("here", encoding="utf-8")
    with pytest.warns(UserWarning, match="cannot be kept"):
        save_calibration(measured(a=1.0))
    path.parents[1].unlink()
    save_calibration(measured(b=2.0))
    assert json.loads(path.read_text(encoding="utf-8"))["speeds"] == {"a": 1.0, "b": 2.0}


DAMAGED = {
    "empty": b"",
    "half": b'{"work_space": {"convolution": 1',
    "binary": bytes(range(256)),
    "a list": b"[]",
    "a number": b"3",
    "deep": b"[" * 100_000,
    "another form": b'{"work_space": [], "speeds": {}}',
    "words for numbers": b'{"work_space": {"convolution": "many"}, "speeds": {}}',
    "infinite": b'{"work_space": {"convolution": Infinity}, "speeds": {}}',
    "negative": b'{"work_space": {"convolution": -1}, "speeds": {}}',
    "no speed": b'{"work_space": {}, "speeds": {"a": 0.0}}',
    "not a number": b'{"work_space": {}, "speeds": {"a": NaN}}',
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_replaced(path: Path, content: bytes) -> None:
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    known = load_calibration(CPU)
    assert (known.work_space, known.speeds) == ({}, {})
    save_calibration(measured(a=1.0))
    known = load_calibration(CPU)
    assert (known.work_space, known.speeds) == ({"convolution": 12}, {"a": 1.0})


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_pipe_is_not_waited_for(path: Path) -> None:
    path.parent.mkdir(parents=True)
    os.mkfifo(path)
    assert load_calibration(CPU).speeds == {}


def test_a_user_without_a_home(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("STREAMPLAN_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    assert cache_path(CPU).is_absolute()
    assert load_calibration(CPU).speeds == {}


WRITER = """
import select, sys, torch
from itertools import count
from streamplan.costs.calibration import Calibration, save_calibration

def save(what):
    save_calibration(Calibration(torch.device("cpu"), {}, {f"{sys.argv[1]} {what}": 1.0}))

numbers = count()
while not select.select([sys.stdin], [], [], 0)[0]:
    save(next(numbers))
save("last")
"""


def test_processes_that_write_at_once(path: Path) -> None:
    """Whoever reads meanwhile sees a whole file, and what is left is one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", WRITER]
    writers = [subprocess.Popen([*command, name], env=environment, stdin=subprocess.PIPE) for name in "ab"]
    seen: set[str] = set()
    while len(seen) < 10 and all(writer.poll() is None for writer in writers):  # however fast they are
        if path.exists():
            seen.add(path.read_text(encoding="utf-8"))
    for writer in writers:
        writer.communicate()  # closes its input
    assert [writer.returncode for writer in writers] == [0, 0]
    assert len(seen) == 10
    assert all(json.loads(text) for text in seen)
    assert list(path.parent.iterdir()) == [path]
    assert {"a last", "b last"} & set(load_calibration(CPU).speeds)
