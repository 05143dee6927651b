"""The ways to compute one training step, and their names on the command line.

plain, checkpoint, lightstream
recompute, reuse                  streamed, by how tiles get their halos, with every lowering pass
reuse-no-passes                   without any
reuse-without-inplace             with all but one
reuse-only-inplace                with one
reuse-keep-4                      the last 4 tiles are not computed again; a suffix to any of these
reuse-graphs                      recorded on a GPU and played again, no tile kept; a suffix to any of these
reuse@224x1120                    with tiles of 224 rows and 1120 columns instead of the case's
reuse@224x1120@body.layer3        and with another cut
lightstream@1920x1920
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace

import streamplan.options

HALOS = ("recompute", "reuse")
"""Methods that stream; the others are plain, checkpoint and lightstream."""

PASSES: tuple[str, ...] = tuple(getattr(streamplan.options, "PASSES", ()))
"""Names of the lowering passes of the installed streamplan."""


@dataclass(frozen=True)
class Variant:
    """One way to compute a training step."""

    name: str
    method: str
    """`plain`, `checkpoint`, `recompute`, `reuse` or `lightstream`."""
    passes: tuple[str, ...] | None = None
    """Lowering passes to ask for; None leaves them to streamplan's default."""
    tile_size: tuple[int, ...] | None = None
    """Rows and columns; None takes those of the case."""
    cut: str | None = None
    """None takes that of the case."""
    keep_tiles: int | None = None
    """How many tiles are not computed again; None leaves it to streamplan's default."""
    cuda_graphs: bool = False
    """Whether tiles are recorded on a GPU."""


def parse_variant(name: str) -> Variant:
    """The variant of a name.

    >>> parse_variant("reuse-no-passes")
    Variant(name='reuse-no-passes', method='reuse', passes=())

    Raises:
        ValueError: The name is not of the forms above.
    """
    if (variant := _with_suffix(name)) is not None:
        return variant
    if name in ("plain", "checkpoint", "lightstream", *HALOS):
        return Variant(name, name)
    if match := re.fullmatch(r"(\w+)@(\d+)x(\d+)(?:@(.+))?", name):
        method, rows, columns, cut = match.groups()
        is_square = method == "lightstream" and rows == columns and cut is None
        if method in HALOS or is_square:
            return Variant(name, method, tile_size=(int(rows), int(columns)), cut=cut)
    method, _, rest = name.partition("-")
    kind, _, lowering_pass = rest.partition("-")
    if method in HALOS and rest == "no-passes":
        return Variant(name, method, ())
    if method in HALOS and lowering_pass in PASSES:
        if kind == "without":
            return Variant(name, method, tuple(each for each in PASSES if each != lowering_pass))
        if kind == "only":
            return Variant(name, method, (lowering_pass,))
    raise ValueError(f"{name!r} is not a variant; see `python -m benchmarks.run --help`")


def _with_suffix(name: str) -> Variant | None:
    """The variant of a name that ends in a suffix; None if it has none."""
    match = re.fullmatch(r"(\w+.*?)-(?:graphs|keep-(\d+))", name)
    if match is None:
        return None
    variant = parse_variant(match[1])
    if variant.method not in HALOS or variant.keep_tiles is not None:
        return None
    has_graphs = match[2] is None
    return replace(variant, name=name, cuda_graphs=has_graphs, keep_tiles=0 if has_graphs else int(match[2]))


def default_variants() -> tuple[Variant, ...]:
    """What is run unless variants are named; each pass is taken away from `reuse` in turn."""
    names = ["plain", "checkpoint", "lightstream", "recompute", "reuse"]
    if PASSES:
        names += [
            "recompute-no-passes",
            "reuse-no-passes",
            "reuse-keep-0",
            *(f"reuse-without-{each}" for each in PASSES),
        ]
    return tuple(map(parse_variant, names))
