"""Reports that show the same text wherever they are looked at.

print(plan)         the text
plan                at the end of a notebook's cell: the text as a block
rich.print(plan)    the text, in which nothing is markup
"""

from __future__ import annotations

import html

from rich.text import Text


class Printed:
    """Base of classes whose `str` is a report of several lines."""

    def _repr_html_(self) -> str:
        """The report for notebooks; names of the model's may hold any character, and are escaped."""
        return f'<pre style="line-height: 1.3; overflow-x: auto">{html.escape(str(self))}</pre>'

    def __rich__(self) -> Text:
        """The report for rich."""
        return Text(str(self))
