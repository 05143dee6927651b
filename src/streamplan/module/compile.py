"""`compile` and `plan`: one line from a model to a streamed model, or to the plan of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from streamplan.checks import check_choice, check_flag, shown
from streamplan.costs import Question, Search, load_calibration
from streamplan.errors import OptionError, TileSizeError
from streamplan.module.collection import paused_collection
from streamplan.module.forecasting import complete, settle
from streamplan.module.requests import (
    check_model,
    check_plan,
    cut_option,
    image_option,
    resolve_arguments,
    resolve_device,
)
from streamplan.module.streamed_module import StreamedModule
from streamplan.options import (
    GUARD_POLICIES,
    BatchNormPolicy,
    CarryPlacement,
    GuardPolicy,
    HaloPolicy,
    Optimizer,
    Options,
    resolve_budget,
    resolve_passes,
)
from streamplan.planning import Plan, trace_and_lower
from streamplan.planning.arguments import as_integer, is_integer


@paused_collection()
def compile(  # noqa: PLR0913 - streamplan.compile reads like torch.compile; every option is a keyword
    model: nn.Module,
    input_size: Any = None,
    tile_size: int | tuple[int, ...] | None = None,
    *,
    example_inputs: Any = None,
    plan: Plan | None = None,
    cut: str | tuple[str, ...] = "latest",
    halo: HaloPolicy = "auto",
    batch_norm: BatchNormPolicy = "error",
    passes: str | Sequence[str] = "all",
    carries: CarryPlacement | None = None,
    keep_tiles: int | None = None,
    memory_budget: int | str | None = None,
    max_slowdown: float | None = None,
    optimizer: Optimizer = "sgd",
    calibrate: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    cuda_graphs: bool = False,
    progress: bool = False,
    guard: GuardPolicy = "full",
) -> StreamedModule:
    """Make a module with the same parameters, outputs and gradients that computes its local part tile by tile.

    Args:
        model: Any `nn.Module`; it is neither changed nor copied, and the result shares its parameters and buffers.
        input_size: Size of the image, batch and channels included: `(1, 3, 8192, 8192)`; a sequence of sizes for a
            model with several inputs.
        tile_size: One number, or one per axis, in input samples: what a tile advances by at most, so what it reads but
            for what it has received; with recomputed halos what it reads at most, its halo included. None lets the
            planner choose for `memory_budget` or `max_slowdown`; without these for what the device has free.
        example_inputs: Instead of `input_size`: a tensor or `Source`, a tuple of positional arguments, or a dict of
            keyword arguments. Only shapes and dtypes are used.
        plan: A plan to follow, instead of sizes and options.
        cut: Where the resident part begins: "latest", a module path, the name of a value, or a tuple of them.
        halo: How tiles get the samples around them: "recompute" computes them in every tile, "reuse" carries them from
            tile to tile so that every value is computed once; "auto" reuses.
        batch_norm: BatchNorm in training mode in the way of streaming: "error"; "frozen" keeps streamed BatchNorm in
            eval mode whatever `train()` says, without touching the model's flags; "resident" cuts the net before it.
        passes: Lowering passes, which make tiles cheaper without changing what is computed: "all", or a tuple of names
            from `streamplan.options.PASSES`.
        carries: Where what tiles hand to each other waits for the backward pass: on the "device", or in "host" memory,
            pinned if the device is a GPU. The plan says how many bytes that is. None is "device", unless the planner
            chooses.
        keep_tiles: How many tiles, from the last, keep what autograd saves from forward to backward instead of being
            computed again: each more costs the activations of one tile in memory, and saves one tile's forward pass.
            None is 1, unless the planner chooses.
        memory_budget: What a training step may take on the device, in bytes or as "20GiB": the fastest plan that fits
            is taken, tile size, cut, halo, keep_tiles and carries chosen where they are not given.
        max_slowdown: The most time a step may take, over the plain net's: the plan with the least memory is taken.
        optimizer: Whose state is counted: "sgd" has none, "momentum" one tensor per parameter, "adam" two.
        calibrate: Whether to measure now, on this device, what plans of this model need to know and what was not
            measured before: work space and speed of its operations. It takes some seconds, and is remembered.
        dtype: Dtype of the image; None takes that of the model's parameters.
        device: Device to plan for; None takes that of the model's parameters.
        cuda_graphs: Whether a GPU records the tiles of each kind and plays them again, which takes the host far less
            time: for tiles so small that the GPU waits for it. Use it with `keep_tiles=0`, since kept tiles run as
            usual; the memory of a tile stays taken. Nets that resize are run as usual, and so is everything elsewhere.
        progress: Whether to show a bar over the tiles of each pass on standard error.
        guard: How a call finds out whether the model still does what its program was made from. "full" runs the
            model's own Python once per call, on tensors without data, and compares; what it does beside computing (it
            counts, draws random numbers) happens once per call, as in the plain net. "state" compares the state of the
            model alone, which takes less time; docs/limits.md lists what that does not notice.

    Returns:
        The streamed module.

    Raises:
        StreamPlanError: One of its kinds, saying what, where, why and what to do; see `streamplan.errors`.

    Source: Pinckaers, van Ginneken and Litjens, "Streaming convolutional neural networks for end-to-end learning with
    multi-megapixel images", 2020.
    """
    model = check_model(model)
    for name, value in (("calibrate", calibrate), ("cuda_graphs", cuda_graphs), ("progress", progress)):
        check_flag(name, value)
    check_choice("guard", guard, GUARD_POLICIES)
    if plan is not None:
        check_plan(plan)
        given = {"input_size": input_size, "tile_size": tile_size, "example_inputs": example_inputs, "dtype": dtype}
        given |= {"cut": _beside(cut, "latest"), "halo": _beside(halo, "auto")}
        given |= {"batch_norm": _beside(batch_norm, "error")}
        given |= {"carries": carries, "keep_tiles": keep_tiles}
        given |= {"passes": _beside(passes, "all")}
        given |= {"memory_budget": memory_budget, "max_slowdown": max_slowdown}
        given |= {"optimizer": _beside(optimizer, "sgd")}
        beside = [name for name, value in given.items() if value is not None]
        if beside:
            raise OptionError(
                f"a plan is given together with {', '.join(beside)}",
                why="a plan already fixes sizes, dtype, cut, halo, the BatchNorm policy and the passes",
                do="pass either plan= or the options; streamplan.plan(...) makes a plan with other options",
            )
        return StreamedModule(
            model,
            plan.arguments,
            plan.options,
            plan=plan,
            device=resolve_device(model, device),
            progress=progress,
            cuda_graphs=cuda_graphs,
            calibrate=calibrate,
            guard=guard,
        )
    options = resolve_options(
        tile_size,
        example_inputs,
        device,
        cut=cut,
        halo=halo,
        batch_norm=batch_norm,
        passes=passes,
        carries=carries,
        keep_tiles=keep_tiles,
        memory_budget=memory_budget,
        max_slowdown=max_slowdown,
        optimizer=optimizer,
    )
    arguments = resolve_arguments(model, input_size, example_inputs, dtype)
    return StreamedModule(
        model,
        arguments,
        options,
        device=resolve_device(model, device),
        progress=progress,
        cuda_graphs=cuda_graphs,
        calibrate=calibrate,
        guard=guard,
    )


@paused_collection()
def plan(  # noqa: PLR0913 - every option is a keyword
    model: nn.Module,
    input_size: Any = None,
    tile_size: int | tuple[int, ...] | None = None,
    *,
    example_inputs: Any = None,
    cut: str | tuple[str, ...] = "latest",
    halo: HaloPolicy = "auto",
    batch_norm: BatchNormPolicy = "error",
    passes: str | Sequence[str] = "all",
    carries: CarryPlacement | None = None,
    keep_tiles: int | None = None,
    memory_budget: int | str | None = None,
    max_slowdown: float | None = None,
    optimizer: Optimizer = "sgd",
    calibrate: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Plan:
    """Plan how `compile` would stream a model; nothing is computed and nothing large is allocated.

    The arguments are those of `compile`. The model may be on the meta device, without any data.

    Returns:
        The plan; `print` shows it as a report.
    """
    search = Search(
        resolve_question(
            model,
            input_size,
            tile_size,
            example_inputs=example_inputs,
            cut=cut,
            halo=halo,
            batch_norm=batch_norm,
            passes=passes,
            carries=carries,
            keep_tiles=keep_tiles,
            memory_budget=memory_budget,
            max_slowdown=max_slowdown,
            optimizer=optimizer,
            calibrate=calibrate,
            dtype=dtype,
            device=device,
        )
    )
    return complete(search, settle(search))


def resolve_question(
    model: Any,
    input_size: Any = None,
    tile_size: Any = None,
    *,
    example_inputs: Any = None,
    calibrate: bool = False,
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    **options: Any,
) -> Question:
    """What planning needs to know, from the arguments of `plan`.

    Raises:
        StreamPlanError: An argument is not what it should be, or the model cannot be traced.
    """
    model = check_model(model)
    check_flag("calibrate", calibrate)
    resolved = resolve_options(tile_size, example_inputs, device, **options)
    arguments = resolve_arguments(model, input_size, example_inputs, dtype)
    chosen = resolve_device(model, device)
    calibration = load_calibration(chosen, is_measuring=calibrate)
    return Question(model, arguments, resolved, chosen, trace_and_lower(model, arguments, chosen), calibration)


def resolve_options(
    tile_size: Any,
    example_inputs: Any,
    device: torch.device | str | None,
    *,
    cut: Any = "latest",
    passes: Any = "all",
    memory_budget: int | str | None = None,
    keep_tiles: Any = None,
    **options: Any,
) -> Options:
    """The options of `plan` and `compile`, checked.

    Raises:
        OptionError: One is not what it should be.
    """
    return Options(
        resolve_tile_size(tile_size),
        cut_option(cut),
        passes=resolve_passes(passes),
        image=image_option(example_inputs, device),
        memory_budget=resolve_budget(memory_budget),
        keep_tiles=as_integer(keep_tiles),
        **options,
    )


def resolve_tile_size(tile_size: Any) -> int | tuple[int, ...] | None:
    """A tile size as an integer, or as a tuple of them; numbers of other integer types, numpy's, are converted.

    Raises:
        TileSizeError: It consists of something else.
    """
    if tile_size is None:
        return None
    is_sequence = isinstance(tile_size, list | tuple)
    sizes = tuple(map(as_integer, tile_size if is_sequence else (tile_size,)))
    if not sizes or not all(is_integer(size) and 0 < size < _MAX_TILE for size in sizes):
        raise TileSizeError(
            f"tile_size={shown(tile_size)} is not a size",
            why="a tile size is one positive integer, or one for each axis of the image, in input samples",
            do="pass an integer, or a tuple of integers",
        )
    return sizes if is_sequence else cast(int, sizes[0])


def _beside(value: Any, default: str) -> Any:
    """An option that was given; None if it is the default."""
    return None if isinstance(value, str) and value == default else value


_MAX_TILE = 2**63
"""No tensor has an extent from here on."""
