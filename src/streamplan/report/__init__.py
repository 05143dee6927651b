"""How results are shown in a terminal: progress bars. Plans and verification reports print themselves as text."""

from streamplan.report.progress import ProgressBar

__all__ = ["ProgressBar"]
