"""What may be written on the command line. Nothing here imports torch, which takes seconds."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NoReturn

import streamplan
from streamplan.cli.failures import UsageError
from streamplan.cli.figures import FIGURES, figure_paths
from streamplan.cli.streams import writing
from streamplan.cli.values import (
    parse_assignment,
    parse_count,
    parse_device,
    parse_dtype,
    parse_seed,
    parse_size,
    parse_target,
    parse_tile_size,
)
from streamplan.options import BATCH_NORM_POLICIES, CARRY_PLACEMENTS, HALO_POLICIES, OPTIMIZER_STATES

_ABSENT = argparse.SUPPRESS
"""Default of options that `streamplan`'s functions have a default for."""
_EXIT_CODES = (
    "exit codes: 0 done, 1 verification failed, 2 the line is wrong, 3 the model or the budget is refused, "
    "70 another error, 74 the result cannot be written"
)
_METHODS = ("analytic", "probe", "both")


class _Parser(argparse.ArgumentParser):
    """One that raises what it finds wrong, so that all errors are written in one place."""

    def error(self, message: str) -> NoReturn:
        raise UsageError(message, do=f"{self.prog} --help tells what may be written")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Refuse what a command does not know here, where its name is known, and not after it."""
        line, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return line, unknown

    def _print_message(self, message: str, file: Any = None) -> None:
        """Write help or the version; argparse itself says nothing of what goes wrong."""
        if file is None:  # standard output is closed
            return
        with writing(file):
            file.write(message)


def parse_line(words: Sequence[str] | None) -> argparse.Namespace:
    """What a line says; None takes the words of the process.

    Raises:
        UsageError: It is no line that could be run.
        OutputError: Help or the version cannot be written.
        BrokenPipeError: Who reads them has left.
        SystemExit: With code 0, after `--help` and `--version`.
    """
    line = build_parser().parse_args(words)
    if line.command == "plot":
        line.paths = figure_paths(line.what, line.output)
    return line


def build_parser() -> argparse.ArgumentParser:
    """The parser of the whole line."""
    parser = _Parser(
        prog="streamplan",
        description="Plan, check and draw how a convolutional net is trained tile by tile.",
        epilog=_EXIT_CODES,
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"streamplan {streamplan.__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    command = _command(commands, "plan", "what would be streamed, and memory and time of a training step")
    _add_tiling(command)
    _add_budget(command)
    _add_place(command)
    _add_calibration(command)
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print the plan as JSON, for streamplan.Plan.from_json")
    forms.add_argument("--verbose", action="store_true", help="show all cuts, and all phases item by item, as text")

    command = _command(commands, "receptive-field", "what every streamed value reads of the image")
    _add_tile_size_and_cut(command)
    _add_place(command)
    command.add_argument("--method", choices=_METHODS, default=_ABSENT, help="how it is found (default: both)")
    command.add_argument("--json", action="store_true", help="print the numbers as JSON")

    command = _command(commands, "verify", "compare a streamed step with the plain net's, tensor by tensor")
    _add_tiling(command)
    _add_budget(command)
    _add_comparison(command)
    command.add_argument("--json", action="store_true", help="print the comparison and the plan as JSON")

    command = _command(commands, "plot", "draw a plan and its alternatives; needs streamplan[plot]")
    _add_tiling(command)
    _add_budget(command)
    _add_place(command)
    _add_calibration(command)
    _add_figures(command)
    return parser


def _command(commands: Any, name: str, text: str) -> _Parser:
    """A command with the arguments that all have."""
    parser: _Parser = commands.add_parser(
        name, help=text, description=f"{text[0].upper()}{text[1:]}.", epilog=_EXIT_CODES, allow_abbrev=False
    )
    group = parser.add_argument_group("model")
    group.add_argument(
        "model",
        type=parse_target,
        metavar="pkg.mod:factory",
        help="a class or function that makes an nn.Module, or an nn.Module; also path/to/net.py:factory",
    )
    group.add_argument(
        "--arg",
        action="append",
        default=[],
        type=parse_assignment,
        metavar="NAME=VALUE",
        help="an argument of the factory: a Python literal, or else a string; may be repeated",
    )
    group.add_argument(
        "--input-size",
        action="append",
        required=True,
        type=parse_size,
        metavar="N,C,H,W",
        help="size of the image, batch and channels included; repeated for a model with several inputs",
    )
    group.add_argument(
        "--train", action="store_true", help="put the model in training mode (default: it is put in eval mode)"
    )
    parser.add_argument(
        "--traceback", action="store_true", help="show where in Python an error comes from, besides what it says"
    )
    return parser


def _add_tile_size_and_cut(parser: _Parser) -> argparse._ArgumentGroup:
    group = parser.add_argument_group("tiles")
    group.add_argument(
        "--tile-size",
        type=parse_tile_size,
        default=_ABSENT,
        metavar="N[,N]",
        help="input samples that a tile advances by, for all axes or for each (default: it is chosen)",
    )
    group.add_argument(
        "--cut",
        action="append",
        default=_ABSENT,
        metavar="NAME",
        help="module path or value where the resident part begins (default: latest); repeated for several values",
    )
    group.add_argument(
        "--batch-norm",
        choices=BATCH_NORM_POLICIES,
        default=_ABSENT,
        help="BatchNorm in training mode in the way of streaming (default: error)",
    )
    return group


def _add_tiling(parser: _Parser) -> None:
    group = _add_tile_size_and_cut(parser)
    group.add_argument(
        "--halo",
        choices=HALO_POLICIES,
        default=_ABSENT,
        help="how tiles get the samples around them (default: auto)",
    )
    group.add_argument(
        "--carries",
        choices=CARRY_PLACEMENTS,
        default=_ABSENT,
        help="where what tiles hand to each other waits for the backward pass (default: device)",
    )
    group.add_argument(
        "--keep-tiles",
        type=parse_count,
        default=_ABSENT,
        metavar="N",
        help="how many tiles keep their activations for the backward pass (default: 1, or what a budget allows)",
    )


def _add_budget(parser: _Parser) -> None:
    group = parser.add_argument_group("budget", "What is not given above is chosen for it.")
    group.add_argument(
        "--memory-budget",
        default=_ABSENT,
        metavar="BYTES",
        help="most memory of a training step, such as 20GiB: the fastest plan that fits (default: what is free)",
    )
    group.add_argument(
        "--max-slowdown",
        type=float,
        default=_ABSENT,
        metavar="FACTOR",
        help="most time of a step over the plain net's, such as 1.25: the plan with the least memory",
    )
    group.add_argument(
        "--optimizer",
        choices=tuple(OPTIMIZER_STATES),
        default=_ABSENT,
        help="whose state is counted (default: sgd, which has none)",
    )


def _add_place(parser: _Parser) -> None:
    group = parser.add_argument_group("place")
    group.add_argument(
        "--dtype",
        type=parse_dtype,
        default=_ABSENT,
        help="dtype of the image and, if it is a floating-point one, of the model (default: the model's)",
    )
    group.add_argument(
        "--device", type=parse_device, default=_ABSENT, help="device to plan for (default: the model's, else cpu)"
    )


def _add_calibration(parser: _Parser) -> None:
    parser.add_argument(
        "--calibrate",
        action="store_true",
        default=_ABSENT,
        help="measure now, on the device, what plans of this model need to know; remembered in ~/.cache/streamplan",
    )


def _add_comparison(parser: _Parser) -> None:
    group = parser.add_argument_group("comparison")
    group.add_argument("--dtype", type=parse_dtype, default=_ABSENT, help="dtype to compare in (default: float64)")
    group.add_argument(
        "--rtol", type=float, default=_ABSENT, metavar="R", help="largest relative error that passes (default: 1e-10)"
    )
    group.add_argument(
        "--seed", type=parse_seed, default=_ABSENT, metavar="N", help="seed of the weights and the image (default: 0)"
    )


def _add_figures(parser: _Parser) -> None:
    group = parser.add_argument_group("figures", "; ".join(f"{name}: {text}" for name, text in FIGURES.items()))
    group.add_argument("--what", choices=(*FIGURES, "all"), default="all", help="what to draw (default: all)")
    group.add_argument("--output", required=True, metavar="PATH", help="a file x.png for one figure, or else a folder")
