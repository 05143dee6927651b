"""For tests of models that are streamed: what the streamed net must equal, random operations included."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import nn

from streamplan.checks import check_instance
from streamplan.features.batches import check_streamed
from streamplan.module.streamed_module import StreamedModule

__all__ = ["reference"]


def reference(streamed: StreamedModule, model: nn.Module | None = None) -> Callable[..., Any]:
    """The plain model with the random numbers that the last call of `streamed` drew.

    A streamed net draws the masks of Dropout, Dropout2d and DropPath once per call; tiles and recomputation share them.
    This runs the same operations on whole tensors with the same masks, and restores the generators for what the
    resident part draws, so that outputs and gradients can be compared exactly.

    Args:
        streamed: A streamed module that has been called.
        model: The model to run, of the same architecture; None takes the one `streamed` shares its parameters with.

    Returns:
        A function that takes what the model takes and returns what it returns, with gradients.

    Raises:
        NothingRecordedError: `streamed` has not been called.
    """
    module = check_streamed(streamed)
    if model is not None:
        check_instance("model", model, nn.Module, "pass the plain model, or None for the one it shares")
    return module._reference(model)
