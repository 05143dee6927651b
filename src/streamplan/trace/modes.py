"""Global switches of torch a model may flip inside `forward`, which a graph has no place for.

In: the switches at the start of the trace and at a node. Out: the difference, in words for an error message. A flipped
gradient switch is harmless where no gradient could flow anyway (`with torch.no_grad(): grid = torch.arange(8)`).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

import torch

_AUTOCAST_DEVICES = ("cpu", "cuda")


@contextmanager
def no_autocast() -> Iterator[None]:
    """Switch autocast off on all devices.

    A graph is the same with and without it: what it does happens when the graph runs.
    """
    enabled = [device for device in _AUTOCAST_DEVICES if torch.is_autocast_enabled(device)]
    for device in enabled:
        torch.set_autocast_enabled(device, False)
    try:
        yield
    finally:
        for device in enabled:
            torch.set_autocast_enabled(device, True)


@contextmanager
def as_in_a_call() -> Iterator[None]:
    """The switches a model's code is run under for a call: those of the caller.

    Inference mode is off, since its tensors could not be used by another run; autograd is off in it all the same.
    Autocast remembers no cast of a weight, so that two runs make the same casts.
    """
    is_differentiated, remembers = torch.is_grad_enabled(), torch.is_autocast_cache_enabled()
    torch.set_autocast_cache_enabled(False)
    try:
        with torch.inference_mode(False), torch.set_grad_enabled(is_differentiated):
            yield
    finally:
        torch.set_autocast_cache_enabled(remembers)


@contextmanager
def default_dtype(dtype: torch.dtype | None = None) -> Iterator[None]:
    """Set the default dtype, or leave it, and put back what it was, whatever is set inside the `with` block."""
    before = torch.get_default_dtype()
    if dtype is not None:
        torch.set_default_dtype(dtype)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _saved_hooks() -> tuple[int, ...]:
    """The hooks on the tensors that autograd saves; those of torch's own, as of `save_on_cpu`, change no number."""
    hooks = torch._C._autograd._top_saved_tensors_default_hooks(False)
    if hooks is None:  # torch says that there are always some
        return ()  # type: ignore[unreachable]
    return () if getattr(hooks[0], "__module__", "") == "torch.autograd.graph" else tuple(map(id, hooks))


@dataclass(frozen=True, slots=True)
class AmbientModes:
    """State of the switches."""

    gradient: bool
    """Whether autograd records."""
    inference: bool
    """Whether inference mode is on."""
    autocast: tuple[tuple[bool, torch.dtype], ...]
    """Whether autocast is on, and its dtype, per device type."""
    default_dtype: torch.dtype
    """Of new tensors of fractions."""
    saved_hooks: tuple[int, ...] = field(compare=False)
    """Which functions are applied to the tensors that autograd saves; empty if none that change numbers."""

    @classmethod
    def current(cls) -> AmbientModes:
        """The switches as they are now."""
        return cls(
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            tuple((torch.is_autocast_enabled(d), torch.get_autocast_dtype(d)) for d in _AUTOCAST_DEVICES),
            torch.get_default_dtype(),
            _saved_hooks(),
        )

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Inside the `with` block, the switches are as here."""
        with ExitStack() as stack:
            stack.enter_context(torch.inference_mode(self.inference))
            stack.enter_context(torch.set_grad_enabled(self.gradient))
            stack.enter_context(default_dtype(self.default_dtype))
            for device, (is_enabled, dtype) in zip(_AUTOCAST_DEVICES, self.autocast, strict=True):
                now = torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
                if now != (is_enabled, dtype):
                    stack.enter_context(torch.autocast(device, dtype=dtype, enabled=is_enabled))
            yield

    def difference(self, other: AmbientModes, *, ignore_gradient: bool) -> str:
        """What `other` has switched, such as "under torch.no_grad()"; "" if nothing that matters."""
        if self.autocast != other.autocast:
            return "under another torch.autocast than the model was called with"
        if self.default_dtype != other.default_dtype:
            return "under another default dtype than the model was called with"
        if ignore_gradient:
            return ""
        if self.saved_hooks != other.saved_hooks:
            return "under hooks on the tensors that autograd saves"
        if self.inference != other.inference:
            return "under torch.inference_mode()"
        if self.gradient != other.gradient:
            return "under torch.enable_grad()" if other.gradient else "under torch.no_grad()"
        return ""
