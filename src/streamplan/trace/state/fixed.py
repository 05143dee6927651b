"""What a run of a model's code must leave as it was, because a streamed program could not change it in its midst.

A layer is called with the settings that it has when `forward` returns, since the program is made from those:

    self.drop.train()                 set before the call and left so: fine
    y = self.drop(x)
    self.drop.eval()                  set otherwise afterwards: refused
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, fields
from typing import Any

import torch

from streamplan.errors import TracingError
from streamplan.trace.locations import place
from streamplan.trace.recorder import Recorder
from streamplan.trace.script import Event
from streamplan.trace.skeleton import Skeleton

_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_WHATS = {
    "requires_grad": "forward changes which parameters require a gradient",
    "classes": "forward changes the class of a module",
    "hooks": "forward registers or removes a hook",
    "default_dtype": "forward leaves another default dtype",
}


@dataclass(frozen=True)
class Fixed:
    """See above; settings of layers are not among it."""

    requires_grad: tuple[bool, ...]
    """Of each tensor of the model."""
    classes: tuple[type, ...]
    """Of each module."""
    hooks: tuple[tuple[Any, ...], ...]
    """Keys of those of each module."""
    default_dtype: torch.dtype

    @classmethod
    def of(cls, skeleton: Skeleton) -> Fixed:
        """What it is now."""
        modules = list(skeleton.root.modules())
        return cls(
            tuple(tensor.requires_grad for tensor in skeleton.tensors.values()),
            tuple(map(type, modules)),
            tuple(tuple(vars(module)[name]) for module in modules for name in _HOOKS if vars(module).get(name)),
            torch.get_default_dtype(),
        )

    def check(self, skeleton: Skeleton) -> None:
        """Compare it with what a run has left.

        Raises:
            TracingError: The run has changed it.
        """
        now = Fixed.of(skeleton)
        for field in fields(self):
            if getattr(self, field.name) != getattr(now, field.name):
                raise TracingError(
                    _WHATS[field.name],
                    where=type(skeleton.root).__name__,
                    why="a program computes with what there was when the call began",
                    do="change it before or after the call of the model",
                )


def check_settings(recorder: Recorder, events: Collection[Event], paths: Collection[str] | None = None) -> None:
    """Compare the settings that layers were called with, as one, with those that a run has left.

    Args:
        recorder: Who recorded the run.
        events: What it recorded.
        paths: The modules to look at; None for all.

    Raises:
        TracingError: They differ.
    """
    for event in events:
        is_called = event.kind == "call_module" and (paths is None or event.target in paths)
        if is_called and recorder.settings(event.kind, event.target) != event.settings:
            raise TracingError(
                f"forward sets attributes of {event.target} after it has called it",
                where=place(event.target, *event.module[1:], event.location),
                why="a program is made from the settings that a layer has when forward returns",
                do="set it before that, or outside forward; or use two layers that share their parameters",
            )
