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


class UnexpectedError(StreamPlanError):
    """Something failed with an error that is none of streamplan's own."""


class OutputError(StreamPlanError):
    """The result cannot be written on standard output."""


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
    FAILED = 70
    """An error that is none of streamplan's own (`EX_SOFTWARE`)."""
    UNWRITTEN = 74
    """Standard output is closed, or what it goes to is full (`EX_IOERR`)."""
    INTERRUPTED = 130
    """As shells tell of the signal SIGINT."""
    UNREAD = 141
    """Who reads the output has left; as shells tell of the signal SIGPIPE."""


_USAGE_ERRORS = (UsageError, OptionError, InputSizeError, ModelTypeError, CutError, ImportError)
"""Those that another line, or the installation of an extra, mends."""
_CODES = {VerificationError: ExitCode.DIFFERENT, UnexpectedError: ExitCode.FAILED, OutputError: ExitCode.UNWRITTEN}


def exit_code(error: StreamPlanError) -> ExitCode:
    """The exit code that an error ends the process with."""
    for kind, code in _CODES.items():
        if isinstance(error, kind):
            return code
    is_malformed_tile = isinstance(error, TileSizeError) and not error.smallest_tile_size
    return ExitCode.USAGE if is_malformed_tile or isinstance(error, _USAGE_ERRORS) else ExitCode.REFUSED
