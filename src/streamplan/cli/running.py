"""`main`: the line to its command, the outcome to standard output, errors to standard error and an exit code."""

from __future__ import annotations

import sys
import traceback
from argparse import Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING

from streamplan.cli.failures import ExitCode, UnexpectedError, UsageError, exit_code
from streamplan.cli.parser import parse_line
from streamplan.cli.streams import own_output, tell
from streamplan.errors import StreamPlanError

if TYPE_CHECKING:
    from streamplan.cli.output import Outcome


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None takes those of the process, which then ends with the command.

    Returns:
        The exit code, an `ExitCode`.

    Raises:
        SystemExit: With code 0, after `--help` and `--version`.
    """
    is_process = argv is None and sys.stdout is sys.__stdout__
    try:
        line = parse_line(argv)
        with own_output(is_process=is_process) as stream:
            outcome = _outcome(line)
        outcome.write(stream)
    except StreamPlanError as error:
        tell(f"error: {error}")
        return exit_code(error)
    except BrokenPipeError:
        return ExitCode.UNREAD
    except KeyboardInterrupt:
        tell("interrupted")
        return ExitCode.INTERRUPTED
    return outcome.code


def _outcome(line: Namespace) -> Outcome:
    """Run a command.

    Raises:
        StreamPlanError: It failed, whatever the user's code or torch raised.
    """
    try:
        from streamplan.cli.commands import run_command  # noqa: PLC0415 - torch, which takes seconds

        return run_command(line)
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        if line.traceback:
            tell(traceback.format_exc())
        if isinstance(error, StreamPlanError):
            raise
        raise _told(error, line.command) from error


def _told(error: BaseException, command: str) -> StreamPlanError:
    """An error that is none of streamplan's own, as one."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    told = {"where": f"{where.filename}:{where.lineno}: {where.line}", "why": f"{type(error).__name__}: {error}"}
    if isinstance(error, SystemExit):
        return UsageError("the model ended the process", **told, do="let it raise an error instead")
    return UnexpectedError(f"{command} failed", **told, do="--traceback shows how it came to that")
