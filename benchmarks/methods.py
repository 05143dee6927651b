"""The training step by each method: the forward pass, the loss and the backward pass, as one callable.

The loss is the mean of the squares of the net's output.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import streamplan
from benchmarks.lightstream_method import prepare_lightstream
from benchmarks.nets import Net
from benchmarks.spec import Spec
from benchmarks.variants import HALOS


@dataclass(frozen=True)
class Step:
    """One method, ready to run."""

    run: Callable[[Tensor], None]
    """Computes the loss of an image and adds to the gradients of the parameters."""
    parameters: dict[str, nn.Parameter]
    """Those that get gradients, named as in the plain net."""
    notes: dict[str, Any]
    """What to report beside the measurements."""

    def zero_grad(self) -> None:
        """Forget the gradients, as optimisers do."""
        for parameter in self.parameters.values():
            parameter.grad = None


def prepare_step(net: Net, spec: Spec) -> Step:
    """Make the net ready to take steps by the method of a specification.

    Args:
        net: The plain net, which this changes; its parameters are those that get gradients, except in lightstream.
        spec: Names the method, sizes and lowering passes.

    Raises:
        ImportError: The method's package is not installed.
    """
    if spec.method == "lightstream":
        tile_size = spec.tile_size[0] if isinstance(spec.tile_size, tuple) else spec.tile_size
        run, parameters, notes = prepare_lightstream(net, tile_size, spec.device)
        return Step(run, parameters, notes)
    parameters = dict(net.named_parameters())
    if spec.method in HALOS:
        streamed = _compiled(net, spec)
        return Step(partial(_step, streamed, spec), parameters, {"grid": _grid(streamed.plan)})
    if spec.method == "checkpoint":
        _checkpoint_blocks(net)
    return Step(partial(_step, net, spec), parameters, {})


def _step(model: nn.Module, spec: Spec, image: Tensor) -> None:
    with torch.autocast(spec.device, torch.bfloat16, enabled=spec.is_autocast):
        loss = model(image).float().square().mean() if spec.is_autocast else model(image).square().mean()
    loss.backward()


def _compiled(net: Net, spec: Spec) -> streamplan.StreamedModule:
    options = plan_options(net, spec)
    if spec.cuda_graphs:
        options["cuda_graphs"] = True
    return streamplan.compile(net, (1, 3, *spec.image_size), spec.tile_size, **options)


def plan_options(net: Net, spec: Spec) -> dict[str, Any]:
    """What a plan is asked for besides sizes."""
    options: dict[str, Any] = {"cut": spec.cut, "halo": spec.method}
    if spec.passes is not None:
        options["passes"] = spec.passes
    if spec.keep_tiles is not None:
        options["keep_tiles"] = spec.keep_tiles
    if net.training:
        options["batch_norm"] = "resident"
    if spec.has_host_bytes:
        options["dtype"] = torch.uint8
    return options


def _grid(plan: streamplan.Plan) -> list[int]:
    """Tiles along each axis."""
    return [len(boundaries) - 1 for boundaries in plan.boundaries]


def _checkpoint_blocks(net: Net) -> None:
    """Let every block keep its input alone and compute the rest again in the backward pass."""
    for block in net.checkpointed_blocks():
        # Nothing in these nets is random, so the state of the generators need not be kept.
        block.forward = partial(_checkpointed, block.forward)


def _checkpointed(forward: Callable[[Any], Tensor], x: Any) -> Tensor:
    """A block's result; a list is copied, since DenseNet's blocks go on adding to theirs."""
    kept = list(x) if isinstance(x, list) else x
    result: Tensor = checkpoint(forward, kept, use_reentrant=False, preserve_rng_state=False)
    return result
