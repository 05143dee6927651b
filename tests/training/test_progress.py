"""The bar over tiles: there when asked for, gone afterwards, at peace with other bars, and quiet otherwise."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from typing import Any

import numpy as np
import pytest

from tests.training.terminal import ROOT, Screen, run_in_terminal

TRAIN = """
import sys, torch, streamplan
from torch import nn
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
streamed = streamplan.compile(net, (1, 3, 40, 40), 16, progress="progress" in sys.argv)
"""
ONE_STEP = TRAIN + "streamed(torch.rand(1, 3, 40, 40)).sum().backward()\n"
WITH_TQDM = (
    TRAIN
    + """
import time, tqdm
bar = tqdm.tqdm(range(3), desc="epoch", ncols=100, file=getattr(sys, sys.argv[1]), mininterval=0)
for _ in bar:
    streamed(torch.rand(1, 3, 40, 40)).sum().backward()
    print("a line", file=sys.stderr) if "print" in sys.argv else None
print("done")
"""
)
WITH_TRAINER = """
import sys, warnings, torch, lightning, streamplan
from lightning.pytorch import callbacks
from torch.utils.data import DataLoader
from examples.lightning_module import Classifier, Discs, make_net
warnings.simplefilter("ignore")
net = streamplan.compile(make_net(), (1, 3, 48, 48), 16, batch_norm="frozen", progress="progress" in sys.argv)
kind = getattr(callbacks, sys.argv[1])
trainer = lightning.Trainer(
    max_epochs=2, accelerator="cpu", logger=False, enable_checkpointing=False, enable_model_summary=False,
    callbacks=[kind(refresh_rate=1)],
)
trainer.fit(Classifier(net), DataLoader(Discs(48, 4)))
"""


def test_the_screen_itself() -> None:
    """The oracle of this file: overwriting, wrapping, erasing and moving up."""
    screen = Screen()
    screen.feed("first\n\rsecond\rS\n\rthird\x1b[2K\r\x1b[1A\x1b[31mmore\x1b[0m")
    assert screen.text() == "first\nmorend"
    screen.feed("\r" + "x" * 125)
    assert screen.text() == "first\n" + "x" * 120 + "\nxxxxx"
    with pytest.raises(AssertionError, match="unknown code"):
        screen.feed("\x1b[5J")


def test_nothing_stays_of_the_bar() -> None:
    sent, shown, _ = run_in_terminal(ONE_STEP, "progress")
    assert "forward tiles" in sent
    assert "backward tiles" in sent
    assert shown == ""


def test_quiet_unless_asked() -> None:
    assert run_in_terminal(ONE_STEP) == ("", "", "")


def test_quiet_where_standard_error_is_no_terminal() -> None:
    paths = [str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths)}
    command = [sys.executable, "-c", ONE_STEP, "progress"]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"", b"")


@pytest.mark.parametrize(
    ("stream", "prints"),
    [
        ("stdout", True),
        pytest.param("stderr", False, marks=pytest.mark.more),
        pytest.param("stderr", True, marks=pytest.mark.more),
        pytest.param("stdout", False, marks=pytest.mark.more),
    ],
)
def test_beside_tqdm(stream: str, prints: bool) -> None:
    """The screen is that of tqdm alone: its bar once, full, and no trace of tiles."""
    arguments = [stream, "print"] if prints else [stream]
    _, alone, _ = run_in_terminal(WITH_TQDM, *arguments)
    sent, shown, _ = run_in_terminal(WITH_TQDM, *arguments, "progress")
    assert "forward tiles" in sent
    assert "tiles" not in shown
    assert shown.count("epoch: 100%") == 1
    assert shown.splitlines()[-1] == alone.splitlines()[-1] == "done"
    assert shown.count("a line") == alone.count("a line") == (3 if prints else 0)
    if not prints:
        assert [line[:12] for line in shown.splitlines()] == [line[:12] for line in alone.splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["TQDMProgressBar", pytest.param("RichProgressBar", marks=pytest.mark.more)])
def test_beside_the_bar_of_a_lightning_trainer(kind: str) -> None:
    _, alone, _ = run_in_terminal(WITH_TRAINER, kind)
    sent, shown, _ = run_in_terminal(WITH_TRAINER, kind, "progress")
    assert "forward tiles" in sent
    assert "backward tiles" in sent
    assert "tiles" not in shown
    bars = [[line for line in screen.splitlines() if line.startswith("Epoch")] for screen in (alone, shown)]
    assert 1 <= len(bars[1]) <= len(bars[0]), "no line is left behind"
    assert bars[0][-1][:8] == bars[1][-1][:8]
    assert "4/4" in bars[1][-1]


def test_standard_output_is_left_alone() -> None:
    """What is printed while the bar is there goes where it would go without."""
    script = TRAIN + (
        "from streamplan.module.progress_bar import ProgressBar\n"
        "bar = ProgressBar()\n"
        "bar('forward', 1, 3)\n"
        "print('a result')\n"
        "bar.close()\n"
    )
    sent, shown, output = run_in_terminal(script, "progress", pipe_output=True)
    assert "forward tiles" in sent
    assert output == "a result\n"
    assert "a result" not in shown


class FailsLater:
    """An array that can be read for a while."""

    shape = (3, 40, 40)
    dtype = np.dtype(np.float32)

    def __init__(self, num_reads: int) -> None:
        self.num_reads = num_reads

    def __getitem__(self, index: Any) -> np.ndarray[Any, Any]:
        self.num_reads -= 1
        if self.num_reads < 0:
            raise OSError("the disk is gone")
        return np.zeros(self.shape, np.float32)[index]


def is_a_bar_alive() -> bool:
    """Whether a bar's thread goes on; one that was told to stop does not, though it may need a moment to end."""
    threads = [thread for thread in threading.enumerate() if type(thread).__module__.startswith("rich.")]
    return any(not thread.done.is_set() for thread in threads)  # type: ignore[attr-defined]


FAILS = """
import streamplan, torch, sys
from torch import nn
from tests.training.test_progress import FailsLater, is_a_bar_alive
net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
streamed = streamplan.compile(net, (1, 3, 40, 40), 16, progress=True)
num_tiles = streamed.plan.num_tiles
source = streamplan.Source(FailsLater(num_tiles - 2 if sys.argv[1] == "forward" else num_tiles + 3))
try:
    streamed(source).sum().backward()
except OSError as error:
    print(f"failed: {error}; a bar is alive: {is_a_bar_alive()}")
"""
ONE_BAR = """
from streamplan.module.progress_bar import ProgressBar
from tests.training.test_progress import is_a_bar_alive
bar = ProgressBar()
bar("forward", 1, 3)
print(f"a bar is alive: {is_a_bar_alive()}")
bar.close()
print(f"a bar is alive: {is_a_bar_alive()}")
"""


@pytest.mark.parametrize("phase", ["forward", "backward"])
def test_a_failure_in_the_middle_takes_the_bar_down(phase: str) -> None:
    sent, shown, _ = run_in_terminal(FAILS, phase)
    assert f"{phase} tiles" in sent
    assert ("backward tiles" in sent) == (phase == "backward")
    assert shown == "failed: the disk is gone; a bar is alive: False"


def test_a_bar_is_alive_until_it_is_closed() -> None:
    """So that the test above can fail."""
    _, _, output = run_in_terminal(ONE_BAR, pipe_output=True)
    assert output == "a bar is alive: True\na bar is alive: False\n"
