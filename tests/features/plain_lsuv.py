"""LSUV on the plain model and whole images, channel by channel with loops: what the streamed one must equal."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

MAX_ITER = 10


def layer_outputs(model: nn.Module, path: str, batches: Sequence[tuple[Tensor, ...]]) -> Tensor:
    """Everything that the module at a path returns for all batches, (channels, positions)."""
    module, seen = model.get_submodule(path), list[Tensor]()

    def keep(_module: nn.Module, _args: object, out: Tensor) -> None:
        dim = -1 if isinstance(module, nn.Linear) else 1
        seen.append(out.detach().clone().movedim(dim, 0).flatten(1))

    handle = module.register_forward_hook(keep)
    with torch.no_grad():
        for batch in batches:
            model(*batch)
    handle.remove()
    return torch.cat(seen, 1)


def plain_lsuv_(
    model: nn.Module, paths: Sequence[str], batches: Sequence[tuple[Tensor, ...]], tol: float, *, orthogonal: bool
) -> dict[str, int]:
    """Initialise the layers at the given paths, in that order; how often each was measured."""
    if orthogonal:
        for path in paths:
            nn.init.orthogonal_(model.get_submodule(path).weight)
    passes = {}
    for path in paths:
        for number in range(1, MAX_ITER + 2):
            variance = layer_outputs(model, path, batches).var(1, correction=0)
            passes[path] = number
            if float((variance - 1).abs().max()) <= tol or number == MAX_ITER + 1:
                break
            with torch.no_grad():
                for channel, value in enumerate(variance.tolist()):
                    _output_channel(model.get_submodule(path), channel).div_(value**0.5)
    return passes


def _output_channel(module: nn.Module, channel: int) -> Tensor:
    """A view of the weights that one output channel is computed with."""
    if not isinstance(module, nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d):
        return module.weight[channel]
    per_group = module.out_channels // module.groups
    inputs = module.in_channels // module.groups
    group, within = divmod(channel, per_group)
    return module.weight[group * inputs : (group + 1) * inputs, within]
