"""What can go wrong, as exit codes of the process."""

from __future__ import annotations

from enum import IntEnum

from streamplan.errors import (
    CutError,
    InputSizeError,
    ModelTypeError,
    OptionError,
    StreamPlanError,
    TileSizeError,
    VerificationError,
)


class UsageError(StreamPlanError):
    """The line names something that does not exist, or has not the form it must have."""


class ExitCode(IntEnum):
    """What a run of the command line comes to."""

    DONE = 0
    """What was asked for was done."""
    DIFFERENT = 1
    """The streamed net differs from the plain one by more than the tolerance."""
    USAGE = 2
    """Another line is needed: an option, a size, a cut or the model is not what it should be."""
    REFUSED = 3
    """No plan: the model cannot be streamed, or nothing fits the budget."""


_USAGE_ERRORS = (UsageError, OptionError, InputSizeError, ModelTypeError, CutError, ImportError)
"""Those that another line, or the installation of an extra, mends."""


def exit_code(error: StreamPlanError) -> ExitCode:
    """The exit code that an error ends the process with."""
    if isinstance(error, VerificationError):
        return ExitCode.DIFFERENT
    is_malformed_tile = isinstance(error, TileSizeError) and not error.smallest_tile_size
    return ExitCode.USAGE if is_malformed_tile or isinstance(error, _USAGE_ERRORS) else ExitCode.REFUSED
