"""Why there is no picture."""

from __future__ import annotations

from streamplan.errors import StreamPlanError


class NoMatplotlibError(StreamPlanError, ImportError):
    """matplotlib, which is an extra, is not installed."""


class NotDrawableError(StreamPlanError, ValueError):
    """There is nothing to draw: the plan has no forecast, or a step cannot be measured."""
