"""One net of the zoo, planned, tiled and verified; in a process of its own, under a time limit.

    build -> float64, eval mode, random weights fitted to the image -> plan -> cut and tile size
          -> verify with recomputed halos, verify with carried halos -> Outcome

The latest cut is taken if it divides into at least two tiles at the entry's image size, else the latest of the earlier
cuts that does.
"""

from __future__ import annotations

import multiprocessing
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

import streamplan
from streamplan.errors import StreamPlanError
from tests.nets.randomize import randomize_
from tests.planned import plan_only
from tests.zoo.monai_nets import ZOO, ZooNet

RTOL = {torch.float64: 1e-10, torch.float32: 1e-4}
"""Largest relative error that counts as exact."""

HALOS = ("recompute", "reuse")

TIME_LIMIT_SECONDS = 480
"""For one net, its process included."""

_TILE_FRACTIONS = (0.3, 0.6, 0.0)
"""Tile sizes to try, as shares of the way from the smallest feasible one to the whole image."""

_FEWEST_TILES, _MOST_TILES = 2, 40

_MOST_EARLIER_CUTS = 3
"""Earlier cuts to try: each takes a few traces of the net."""

_LARGEST_SHARE = 0.8
"""An earlier cut is tried if one of its positions reads at most this share of the image along some axis."""


@dataclass(frozen=True)
class Outcome:
    """What became of one net."""

    verdict: str
    """`verified`, `refused`, `wrong`, `crashed`, `slow`, or `not built` if MONAI itself cannot build or run the net."""
    reason: str = ""
    """Error class and what it says, in one line; empty if verified."""
    cut: str = ""
    """Module paths of the cut values."""
    is_latest_cut: bool = True
    streamed_bytes_share: float = 0.0
    """Share of the plain net's activation bytes that is streamed."""
    streamed_flops_share: float = 0.0
    """Share of its forward FLOPs."""
    num_tiles: int = 0
    """With recomputed halos."""
    errors: tuple[float, ...] = ()
    """The worst relative error of all tensors, with recomputed and with carried halos."""
    barrier: str = ""
    """The first operation that ends the local part; empty if the net is local to its end."""
    seconds: float = 0.0


def check_in_process(name: str, limit_seconds: float = TIME_LIMIT_SECONDS) -> Outcome:
    """`check` in a process of its own; one that takes longer than the limit is ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["tests.zoo.checking"])
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(target=_send_outcome, args=(name, sender))
    started = time.monotonic()
    process.start()
    sender.close()
    try:
        outcome: Outcome = (
            receiver.recv() if receiver.poll(limit_seconds) else Outcome("slow", f"over {limit_seconds:.0f} s")
        )
    except EOFError:
        outcome = Outcome("crashed", "the process ended without a result")
    process.kill()
    process.join()
    return Outcome(**{**vars(outcome), "seconds": time.monotonic() - started})


def _send_outcome(name: str, sender: Connection) -> None:
    warnings.simplefilter("ignore")  # constructors warn about their own defaults
    torch.set_num_threads(1)
    sender.send(check(ZOO[name]))


def check(entry: ZooNet) -> Outcome:
    """Plan and verify one net."""
    try:
        arguments = tree_map_only(torch.Tensor, lambda x: _converted(x, entry.dtype), entry.arguments())
        model = _random_model(entry, arguments)
    except Exception as problem:  # noqa: BLE001 - whatever MONAI raises ends up in the table
        return Outcome("not built", _one_line(problem))
    try:
        return _plan_and_verify(model, arguments, entry.dtype)
    except StreamPlanError as problem:
        return Outcome("refused", _one_line(problem))
    except Exception as problem:  # noqa: BLE001 - an untyped error is a bug, which the table shows
        return Outcome("crashed", _one_line(problem))


def _converted(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


class _OfImage(nn.Module):
    """A net as a function of its first argument."""

    def __init__(self, model: nn.Module, others: tuple[Any, ...]) -> None:
        super().__init__()
        self.model = model
        self.others = others

    def forward(self, image: Any) -> Any:
        return self.model(image, *self.others)


def _random_model(entry: ZooNet, arguments: tuple[Any, ...]) -> nn.Module:
    torch.manual_seed(1)
    model = entry.build().to(entry.dtype).eval()
    for module in model.modules():
        for name, value in list(vars(module).items()):  # tensors that are not buffers, which `to` leaves as they are
            if isinstance(value, Tensor):
                setattr(module, name, _converted(value, entry.dtype))
    randomize_(_OfImage(model, arguments[1:]), seed=1, sample=arguments[0])
    return model


def _plan_and_verify(model: nn.Module, arguments: tuple[Any, ...], dtype: torch.dtype) -> Outcome:
    extents = tuple(arguments[0].shape[2:])
    latest = plan_only(model, tile_size=extents, example_inputs=arguments, halo="recompute")
    plan = next(_tiled_plans(model, arguments, latest), latest)
    reports = [_verify(model, arguments, plan, dtype, halo) for halo in HALOS]
    wrong = [f"{halo}: {r.worst.kind} {r.worst.name}" for halo, r in zip(HALOS, reports, strict=True) if not r.passed]
    costs = plan.costs
    return Outcome(
        "wrong" if wrong else "verified",
        "; ".join(wrong),
        cut=_cut_text(plan),
        is_latest_cut=plan.cut == latest.cut,
        streamed_bytes_share=costs.streamed_activation_bytes / max(costs.activation_bytes, 1),
        streamed_flops_share=costs.streamed_flops / max(costs.flops, 1),
        num_tiles=plan.num_tiles,
        errors=tuple(report.worst.error for report in reports),
        barrier=latest.barriers[0].reason.split(":")[0] if latest.barriers else "",
    )


def _verify(
    model: nn.Module, arguments: tuple[Any, ...], plan: streamplan.Plan, dtype: torch.dtype, halo: str
) -> streamplan.VerificationReport:
    return streamplan.verify(
        model, inputs=arguments, tile_size=plan.tile_size, cut=plan.cut, halo=halo, dtype=dtype, rtol=RTOL[dtype],
        raise_exception=False,
    )  # fmt: skip


def _tiled_plans(model: nn.Module, arguments: tuple[Any, ...], latest: streamplan.Plan) -> Iterator[streamplan.Plan]:
    """Plans with more than one tile, those with the latest cut first."""
    extents = tuple(max(image.shape[axis] for image in latest.inputs) for axis in range(2, len(latest.input_size)))
    smallest: dict[str | tuple[str, ...], tuple[int, ...]] = {}
    if any(map(int.__lt__, latest.smallest_tile_size, extents)):
        smallest["latest"] = latest.smallest_tile_size
    for candidate in reversed(latest.cuts):
        if candidate.values != latest.cut and _fits(candidate.receptive_field, extents):
            smallest[candidate.values] = candidate.receptive_field
    for cut, sizes in list(smallest.items())[: 1 + _MOST_EARLIER_CUTS]:
        for fraction in _TILE_FRACTIONS:
            least = map(min, sizes, extents)
            tile_size = tuple(round(n + fraction * (extent - n)) for n, extent in zip(least, extents, strict=True))
            plan = plan_only(model, example_inputs=arguments, tile_size=tile_size, cut=cut, halo="recompute")
            if _FEWEST_TILES <= plan.num_tiles <= _MOST_TILES:
                yield plan


def _fits(receptive_field: tuple[int, ...], extents: tuple[int, ...]) -> bool:
    """Whether a tile can be clearly smaller than the image along some axis."""
    return any(read <= _LARGEST_SHARE * extent for read, extent in zip(receptive_field, extents, strict=True))


def _cut_text(plan: streamplan.Plan) -> str:
    """Module path of a cut, or the number of its values."""
    if len(plan.cut) > 1:
        return f"{len(plan.cut)} values, the last {plan.chosen.module_path or plan.cut[-1]}"
    return plan.chosen.module_path or plan.cut[0]


def _one_line(problem: BaseException) -> str:
    """Error class, what, why and where."""
    is_typed = isinstance(problem, StreamPlanError)
    parts = [problem.what, problem.why] if is_typed else [str(problem)]
    text = ": ".join(part.splitlines()[0] for part in parts if part)
    where = f" ({problem.where.splitlines()[0]})" if is_typed and problem.where else ""
    return f"{type(problem).__name__}: {text}{where}"
