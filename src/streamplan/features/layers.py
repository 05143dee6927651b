"""The convolutions and linear layers of a model, with what LSUV needs of them: their outputs and their weights."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from streamplan.errors import InitialisationError
from streamplan.features.observation import called_modules
from streamplan.module.executable import Executable

_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_Weighted = nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d | nn.Linear


@dataclass(frozen=True, eq=False)
class Layer:
    """A weight, and the modules that it is the weight of: one, unless they share it."""

    modules: dict[str, _Weighted]
    """By path."""
    weight: nn.Parameter
    is_streamed: bool
    """Whether all calls of them are streamed."""

    @property
    def _first(self) -> _Weighted:
        return next(iter(self.modules.values()))

    @property
    def name(self) -> str:
        """The paths."""
        return ", ".join(self.modules)

    @property
    def kind(self) -> str:
        """Class name of the module."""
        return type(self._first).__name__

    def channel_dim(self, rank: int) -> int:
        """The dimension of its output that counts channels, for an output of `rank` dimensions."""
        module = self._first
        return rank - 1 if isinstance(module, nn.Linear) else rank - 1 - len(module.kernel_size)

    def divide_(self, std: Tensor) -> None:
        """Divide the weights of each output channel.

        Args:
            std: What to divide by, (output channels,).
        """
        module = self._first
        weight, by = self.weight.double(), std.to(self.weight.device)
        if isinstance(module, _TRANSPOSED):  # (in, out per group, kernel): the group is told by the input channel
            grouped = weight.view(module.groups, -1, *weight.shape[1:])
            scaled = (grouped / by.view(module.groups, 1, -1, *(1 for _ in module.kernel_size))).flatten(0, 1)
        else:  # (out, in per group, kernel)
            scaled = weight / by.view(-1, *(1 for _ in weight.shape[1:]))
        self.weight.copy_(scaled)

    def draw_orthogonal_(self, generator: torch.Generator | None) -> None:
        """Orthonormal weights, as `torch.nn.init.orthogonal_` draws them."""
        has_qr = self.weight.dtype in (torch.float32, torch.float64)
        drawn = torch.empty_like(self.weight, dtype=None if has_qr else torch.float32, requires_grad=False)
        self.weight.copy_(nn.init.orthogonal_(drawn, generator=generator))


def find_layers(model: nn.Module, executable: Executable) -> tuple[Layer, ...]:
    """Layers whose weight is to be initialised, in the order in which they are first called.

    Raises:
        InitialisationError: A layer's weight is computed from other tensors.
    """
    streamed = executable.prepared.cut.streamed
    by_weight: dict[int, dict[str, _Weighted]] = {}
    resident: set[str] = set()
    for value, path in called_modules(executable).items():
        module = model.get_submodule(path)
        if not isinstance(module, _Weighted):
            continue
        _check_weight(path, module)
        if module.weight.requires_grad:
            by_weight.setdefault(id(module.weight), {})[path] = module
            if value not in streamed:
                resident.add(path)
    return tuple(_layer(modules, resident) for modules in by_weight.values())


def _layer(modules: dict[str, _Weighted], resident: set[str]) -> Layer:
    weight = next(iter(modules.values())).weight
    assert isinstance(weight, nn.Parameter)
    return Layer(modules, weight, not resident.intersection(modules))


def _check_weight(path: str, module: nn.Module) -> None:
    weight = module._parameters.get("weight")
    if isinstance(weight, nn.Parameter) and weight.is_complex():
        raise InitialisationError(
            "a layer of complex numbers has no unit variance to be given",
            where=f"{path} ({type(module).__name__})",
            why="the variance per channel is measured of real numbers",
            do="initialise a complex net in another way",
        )
    if isinstance(weight, nn.Parameter):
        return
    is_known = parametrize.is_parametrized(module, "weight")
    raise InitialisationError(
        "the weight of a layer is computed from other tensors and cannot be scaled",
        where=f"{path} ({type(module).__name__})",
        why="it is parametrised: torch.nn.utils.parametrize" if is_known else "it is no parameter of the module",
        do="initialise the model first, and put weight_norm or the like on it afterwards",
    )


def output_values(layer: Layer, executable: Executable) -> Iterator[str]:
    """Names of the values that a layer's calls compute, streamed or resident."""
    yield from (value for value, path in called_modules(executable).items() if path in layer.modules)
