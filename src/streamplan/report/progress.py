"""A progress bar over tiles."""

from __future__ import annotations

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


class ProgressBar:
    """Shows one bar per phase of a pass on standard error; gone when the phase is done."""

    def __init__(self) -> None:
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __call__(self, phase: str, done: int, total: int) -> None:
        """Tiles done so far; the first call of a phase starts its bar, the last ends it."""
        if self._progress is None:
            columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._task = self._progress.add_task(f"{phase} tiles", total=total)
            self._progress.start()
        assert self._task is not None
        self._progress.update(self._task, completed=done)
        if done == total:
            self.close()

    def close(self) -> None:
        """Take the bar down; also after an exception in the middle of a phase."""
        if self._progress is not None:
            self._progress.stop()
        self._progress = self._task = None
