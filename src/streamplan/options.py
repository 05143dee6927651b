"""The options of `compile` and `plan`, checked where they enter."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from numbers import Real
from types import MappingProxyType
from typing import Any, Literal

from streamplan.checks import check_choice, is_one_of, shown
from streamplan.errors import OptionError

BatchNormPolicy = Literal["error", "frozen", "resident"]
"""What to do about BatchNorm in training mode in the way of streaming."""
HaloPolicy = Literal["auto", "recompute", "reuse"]
"""How tiles get the samples around them that they read."""

GuardPolicy = Literal["full", "state"]
"""How a call finds out whether the model does what its program was made from."""
CarryPlacement = Literal["device", "host"]
"""Where carried samples wait for the backward pass."""

ImagePlacement = Literal["device", "host"]
"""Where the image is: on the device that computes, or where tiles read it region by region."""
Optimizer = Literal["sgd", "momentum", "adam"]
"""Optimisers by the state they keep."""

OPTIMIZER_STATES = MappingProxyType({"sgd": 0, "momentum": 1, "adam": 2})
"""Tensors that an optimiser keeps for every parameter: `momentum` also stands for RMSprop, `adam` for AdamW."""
IMAGE_PLACEMENTS = ("device", "host")
CARRY_PLACEMENTS = ("device", "host")
BATCH_NORM_POLICIES = ("error", "frozen", "resident")
HALO_POLICIES = ("auto", "recompute", "reuse")
GUARD_POLICIES = ("full", "state")


PASSES = MappingProxyType(
    {
        "fold_batch_norm": "eval-mode BatchNorm folded into the convolution before it, differentiably",
        "fuse_relu": "ReLU, and a sum before it, computed with the convolution before them",
        "native_padding": "zero padding equal on both sides of a tile stays inside the operation",
        "inplace": "activations and sums written over an operand that nothing else reads",
        "channels_last": "tiles and convolution weights in channels-last memory order",
    }
)
"""What is done to make tiles cheap, by name, in the order it is done."""


def resolve_passes(passes: Any) -> tuple[str, ...]:
    """The `passes` argument as names in the order of `PASSES`.

    Raises:
        OptionError: A name is not known.
    """
    if isinstance(passes, str):
        names: Sequence[Any] = tuple(PASSES) if passes == "all" else (passes,)
    else:
        names = tuple(passes) if isinstance(passes, tuple | list | set | frozenset) else (passes,)
    unknown = [name for name in names if not is_one_of(name, PASSES)]
    if unknown:
        known = ", ".join(map(repr, PASSES))
        raise OptionError(
            f"passes={shown(passes)} is not known",
            why=f"{shown(unknown[0])} is not a lowering pass",
            do=f'pass "all" or a tuple of {known}; () for none',
        )
    return tuple(name for name in PASSES if name in names)


@dataclass(frozen=True)
class Options:
    """What `compile` was asked for, besides sizes; it applies again when another image size is planned."""

    tile_size: int | tuple[int, ...] | None = None
    """Input samples a tile may read, per axis or for all; None lets the planner choose."""
    cut: str | tuple[str, ...] = "latest"
    """Where the resident part begins."""
    halo: HaloPolicy = "auto"
    batch_norm: BatchNormPolicy = "error"
    passes: tuple[str, ...] = tuple(PASSES)
    """Lowering passes, by name."""
    carries: CarryPlacement | None = None
    """Where what tiles hand to each other is kept for the backward pass; None lets the planner choose."""
    keep_tiles: int | None = None
    """How many tiles, from the last, keep what autograd saves from forward to backward instead of being recomputed;
    None lets the planner choose."""

    image: ImagePlacement = "device"
    """Where the image is."""
    optimizer: Optimizer = "sgd"
    """What the optimiser keeps."""
    memory_budget: int | None = None
    """Bytes that a step may take on the device."""
    max_slowdown: float | None = None
    """Most time that a step may take, over that of the plain net."""

    def settled(self) -> Options:
        """The same with nothing to choose: carried samples on the device, one kept tile unless it is said otherwise."""
        return replace(
            self,
            carries=self.carries or "device",
            keep_tiles=1 if self.keep_tiles is None else self.keep_tiles,
            memory_budget=None,
            max_slowdown=None,
        )

    @property
    def is_open(self) -> bool:
        """Whether there is something to choose."""
        return self.tile_size is None or self.memory_budget is not None or self.max_slowdown is not None

    def __post_init__(self) -> None:
        check_choice("image", self.image, IMAGE_PLACEMENTS)
        check_choice("optimizer", self.optimizer, tuple(OPTIMIZER_STATES))
        _check_slowdown(self.max_slowdown)
        check_choice("halo", self.halo, HALO_POLICIES)
        check_choice("batch_norm", self.batch_norm, BATCH_NORM_POLICIES)
        if self.carries is not None:
            check_choice("carries", self.carries, CARRY_PLACEMENTS)
        if self.keep_tiles is not None:
            _check_num_tiles("keep_tiles", self.keep_tiles)
        names: tuple[object, ...] = self.cut if isinstance(self.cut, tuple) else (self.cut,)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise OptionError(
                f"cut={shown(self.cut)} is not a cut",
                why="a cut is named by modules or values of the net",
                do='pass "latest", a module path, the name of a value, or a tuple of them',
            )

    @property
    def cut_names(self) -> tuple[str, ...]:
        """The requested cut as a tuple of names; empty for the latest."""
        if self.cut == "latest":
            return ()
        return (self.cut,) if isinstance(self.cut, str) else self.cut


def _check_slowdown(value: Any) -> None:
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    if value is not None and not (is_number and (0 < value < _MAX_NUMBER or value == math.inf)):
        raise OptionError(
            f"max_slowdown={shown(value)} is not a factor",
            why="a step may take at most so many times the plain net's time",
            do="pass 1.25, say",
        )


_MAX_NUMBER = 2**63
"""Numbers from here on are a slip: of bytes or tiles no machine has so many."""

_UNITS = MappingProxyType(
    {"": 1, "B": 1, **{f"{p}iB": 1024 ** (i + 1) for i, p in enumerate("KMGT")}}
    | {f"{p}B": 1000 ** (i + 1) for i, p in enumerate("KMGT")}
)


def resolve_budget(budget: Any) -> int | None:
    """The `memory_budget` argument in bytes.

    >>> resolve_budget("1.5 GiB"), resolve_budget("20GB"), resolve_budget(4096)
    (1610612736, 20000000000, 4096)

    Raises:
        OptionError: It is no number of bytes.
    """
    if budget is None:
        return None
    num_bytes = _bytes_of(budget)
    if num_bytes is None or not 0 < num_bytes < _MAX_NUMBER:
        raise OptionError(
            f"memory_budget={shown(budget)} is not a number of bytes",
            why="it is a positive number less than 2 to the power of 63, with a unit or without: "
            + ", ".join(filter(None, _UNITS)),
            do='pass "20GiB", "512MiB" or a number of bytes',
        )
    return num_bytes


def _bytes_of(budget: Any) -> int | None:
    """A number, or text with a unit, in bytes; None if it is neither."""
    if isinstance(budget, bool):
        return None
    if isinstance(budget, Real):
        number: Any = budget
        return round(number) if 0 < number < _MAX_NUMBER else None
    found = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)\s*([KMGT]?i?B?)", budget.strip()) if isinstance(budget, str) else None
    if found is None or found[2] not in _UNITS:
        return None
    num_bytes: int = round(Decimal(found[1]) * int(_UNITS[found[2]]))
    return num_bytes


def _check_num_tiles(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < _MAX_NUMBER:
        raise OptionError(
            f"{name}={shown(value)} is not a number of tiles",
            why="so many tiles, the last ones, keep what autograd saves and are not computed again",
            do="pass an integer from 0 on; 1 is the default, and each more costs the activations of a tile",
        )
