"""Every error streamplan raises, in one form: what, where, why, what to do.

    NothingToStreamError: nothing can be streamed: the first operation is global
      where: flatten (Net), net.py:12: x = torch.flatten(x, 1)
      why:   flatten mixes positions of the map, so its output reads the whole map
      do:    move it behind the convolutions

All errors derive from `StreamPlanError`. Where Python or torch would raise a built-in type for the same mistake, the
class derives from that type too, so `except ValueError` written for the plain net still works.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class StreamPlanError(Exception):
    """Base of all streamplan errors.

    Args:
        what: The problem in one line, without a trailing period.
        where: Module path, operation or source line it was found at; "" if it has no place.
        why: The reason, with the numbers of both sides where numbers are compared.
        do: What the user can change.
    """

    def __init__(self, what: str, *, where: str = "", why: str = "", do: str = "") -> None:
        self.what = what
        self.where = where
        self.why = why
        self.do = do
        super().__init__(self._message())

    def _message(self) -> str:
        lines = [self.what]
        for label, text in (("where:", self.where), ("why:", self.why), ("do:", self.do)):
            if text:
                body = text.replace("\n", "\n" + " " * 9)
                lines.append(f"  {label:<7}{body}")
        return "\n".join(lines)

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.__dict__.copy())


def _rebuild(cls: type[StreamPlanError], state: dict[str, Any]) -> StreamPlanError:
    """Unpickle without calling the subclass's constructor, whose signature differs."""
    error = cls.__new__(cls)
    error.__dict__.update(state)
    Exception.__init__(error, error._message())
    return error


class ModelTypeError(StreamPlanError, TypeError):
    """The thing to stream is not an `nn.Module`, or is one that cannot be taken apart: streamed or compiled already."""


class InputSizeError(StreamPlanError, ValueError):
    """The planned input size has the wrong rank, or an extent that is not a positive integer."""


class TileSizeError(StreamPlanError, ValueError):
    """The tile is smaller than the smallest feasible one, or malformed.

    Attributes:
        smallest_tile_size: The smallest feasible tile size per axis, in input samples; empty if the tile size was
            malformed rather than too small.
    """

    def __init__(self, what: str, *, smallest_tile_size: tuple[int, ...] = (), **parts: str) -> None:
        self.smallest_tile_size = smallest_tile_size
        super().__init__(what, **parts)


class InfeasibleBudgetError(StreamPlanError, ValueError):
    """No plan is small enough, or fast enough."""

    def __init__(self, what: str, *, least_budget: int | None = None, **parts: str) -> None:
        self.least_budget = least_budget
        """The least `memory_budget` that is feasible, in bytes; None if that is not what is missing."""
        super().__init__(what, **parts)


class OptionError(StreamPlanError, ValueError):
    """An option of a public function has a value it does not take."""


class TracingError(StreamPlanError):
    """The model could not be traced into a graph."""


class TraceMismatchError(TracingError):
    """The traced graph does not compute what the eager model computes."""


class NothingToStreamError(StreamPlanError):
    """No local operation stands before the first global or unknown one."""


class CutError(StreamPlanError, ValueError):
    """The requested cut does not exist, or does not lie in the local part of the net."""


class TrainingBatchNormError(StreamPlanError):
    """A BatchNorm in training mode, which needs statistics of the whole map, stands in the way of streaming."""


class HookError(StreamPlanError):
    """A module that streamplan does not call carries a hook, which would never fire."""


class InputMismatchError(StreamPlanError, ValueError):
    """A call's input does not fit the plan: another rank, channel count, dtype or argument."""


class BatchesError(StreamPlanError, ValueError):
    """A series of images is not one, is empty, or can be gone through only once where that is not enough."""


class InitialisationError(StreamPlanError, ValueError):
    """A layer cannot be brought to unit variance: its output is constant or not finite, or its weight is computed.

    Attributes:
        channels: The output channels that cannot; empty if the reason is another one.
    """

    def __init__(self, what: str, *, channels: tuple[int, ...] = (), **parts: str) -> None:
        self.channels = channels
        super().__init__(what, **parts)


class SourceError(StreamPlanError, ValueError):
    """An array cannot be read or written as an image, or something needs it as a whole tensor."""


class PlanMismatchError(StreamPlanError, ValueError):
    """A plan was made for another model, or by another version of the plan format."""


class StaleStateError(StreamPlanError, RuntimeError):
    """A parameter, buffer or input changed between forward and backward; the recomputation would be wrong."""


class OutOfMemoryError(StreamPlanError, RuntimeError):
    """Memory ran out while a call or its backward pass ran; on a GPU it is a `torch.OutOfMemoryError` as well.

    The backward pass of the resident part is not streamplan's, and raises torch's own error.

    Attributes:
        phase: `preparation`, `forward`, `head` (the resident part's forward pass), `recomputation` or `backward`.
        tile: Number of the tile, from 0, in the order of the pass; None outside the tiles.
        projected: What the phase needs at its largest, in bytes, by item.
        measured: What the allocator or the system said when memory ran out, in bytes.
    """

    def __init__(
        self,
        what: str,
        *,
        phase: str,
        tile: int | None,
        projected: Mapping[str, int],
        measured: Mapping[str, int],
        **parts: str,
    ) -> None:
        self.phase = phase
        self.tile = tile
        self.projected = dict(projected)
        self.measured = dict(measured)
        super().__init__(what, **parts)


class DoubleBackwardError(StreamPlanError, RuntimeError):
    """A gradient of a gradient was asked for; the streamed part gives first derivatives only."""


class TargetError(StreamPlanError, ValueError):
    """What an image is to be differentiated for is not one number per image, or does not depend on the image."""


class NothingRecordedError(StreamPlanError, RuntimeError):
    """The random numbers of a forward pass were asked for, and there was none."""


class VerificationError(StreamPlanError, AssertionError):
    """The streamed net differs from the plain net by more than the tolerance."""


class ProbeMismatchError(StreamPlanError):
    """What a rule says an operation reads differs from what the averaging-kernel probe finds."""


class RuleTargetError(StreamPlanError, TypeError):
    """`register_rule` was given something that cannot have a rule, or something that is not a rule."""


class RuleConflictError(StreamPlanError, ValueError):
    """The module class or function has a rule already, or is known not to be local."""


class RuleError(StreamPlanError):
    """A registered rule does not fit a call of its module or function."""
