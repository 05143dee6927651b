"""`main`: the line to its command, the outcome to standard output, errors to standard error and an exit code."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence

from streamplan.cli.failures import exit_code
from streamplan.cli.output import Outcome, write
from streamplan.cli.parser import build_parser
from streamplan.errors import StreamPlanError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: The words after the program's name; None takes those of the process.

    Returns:
        The exit code: 0 done, 1 verification failed, 2 the line is wrong, 3 streamplan refuses.

    Raises:
        SystemExit: With code 0, after `--help` and `--version`.
    """
    try:
        line = build_parser().parse_args(argv)
        with contextlib.redirect_stdout(sys.stderr):  # what the user's module prints is no part of the outcome
            outcome: Outcome = line.run(line)
    except StreamPlanError as error:
        sys.stderr.write(f"error: {error}\n")
        return exit_code(error)
    write(outcome)
    return outcome.code
