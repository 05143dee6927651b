"""The options of `compile` and `plan`, checked where they enter."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from streamplan.errors import OptionError

BatchNormPolicy = Literal["error", "frozen", "resident"]
"""What to do about BatchNorm in training mode in the way of streaming."""
HaloPolicy = Literal["auto", "recompute", "reuse"]
"""How tiles get the samples around them that they read."""

CarryPlacement = Literal["device", "host"]
"""Where carried samples wait for the backward pass."""

CARRY_PLACEMENTS = ("device", "host")
BATCH_NORM_POLICIES = ("error", "frozen", "resident")
HALO_POLICIES = ("auto", "recompute", "reuse")


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
    names: Sequence[Any] = tuple(PASSES) if passes == "all" else (passes,) if isinstance(passes, str) else tuple(passes)
    for name in names:
        if name not in PASSES:
            known = ", ".join(map(repr, PASSES))
            raise OptionError(
                f"passes={passes!r} is not known",
                why=f"{name!r} is not a lowering pass",
                do=f'pass "all" or a tuple of {known}',
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
    carries: CarryPlacement = "device"
    """Where what tiles hand to each other is kept for the backward pass."""
    keep_tiles: int = 1
    """How many tiles, from the last, keep what autograd saves from forward to backward instead of being recomputed."""

    def __post_init__(self) -> None:
        _check_choice("halo", self.halo, HALO_POLICIES)
        _check_choice("batch_norm", self.batch_norm, BATCH_NORM_POLICIES)
        _check_choice("carries", self.carries, CARRY_PLACEMENTS)
        _check_num_tiles("keep_tiles", self.keep_tiles)
        names: tuple[object, ...] = self.cut if isinstance(self.cut, tuple) else (self.cut,)
        if not names or not all(isinstance(name, str) and name for name in names):
            raise OptionError(
                f"cut={self.cut!r} is not a cut",
                why="a cut is named by modules or values of the net",
                do='pass "latest", a module path, the name of a value, or a tuple of them',
            )

    @property
    def cut_names(self) -> tuple[str, ...]:
        """The requested cut as a tuple of names; empty for the latest."""
        if self.cut == "latest":
            return ()
        return (self.cut,) if isinstance(self.cut, str) else self.cut


def _check_choice(name: str, value: object, choices: tuple[str, ...]) -> None:
    if value not in choices:
        known = ", ".join(repr(choice) for choice in choices)
        raise OptionError(f"{name}={value!r} is not known", why=f"{name} is one of {known}", do=f"pass one of {known}")


def _check_num_tiles(name: str, value: object) -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise OptionError(
            f"{name}={value!r} is not a number of tiles",
            why="so many tiles, the last ones, keep what autograd saves and are not computed again",
            do="pass an integer from 0 on; 1 is the default, and each more costs the activations of a tile",
        )
