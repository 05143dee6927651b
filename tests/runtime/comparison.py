"""The suite's own comparison of a streamed net with the plain one: outputs and gradients, tensor by tensor."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import streamplan
from streamplan import StreamedModule


def tensors_of(value: Any) -> list[Tensor]:
    """All tensors of a result, depth first; containers are tuples, lists and dicts."""
    if isinstance(value, Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    return [tensor for item in value for tensor in tensors_of(item)]


def assert_near(actual: Tensor | None, expected: Tensor | None, what: str, rtol: float) -> None:
    """Raise unless two tensors agree to `rtol` of the larger of 1 and the expected tensor's largest value."""
    if expected is None or actual is None:
        if (expected is None) != (actual is None):
            raise AssertionError(f"{what}: {'no' if actual is None else 'a'} gradient, against the plain net")
        return
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise AssertionError(f"{what}: {actual.dtype} {actual.shape}, expected {expected.dtype} {expected.shape}")
    if expected.numel() == 0:
        return
    if not expected.is_floating_point():
        if not torch.equal(actual, expected):
            raise AssertionError(f"{what}: differs")
        return
    scale = max(1.0, float(expected.detach().abs().max()))
    error = float((actual - expected).detach().abs().max())
    if not error <= rtol * scale:  # NaN is an error too
        raise AssertionError(f"{what}: error {error:.3g} at scale {scale:.3g}, allowed {rtol:g} of it")


class TrueBatchNorm(TorchFunctionMode):
    """Batch norms by given statistics, written out for maps with an extent of 1.

    On the CPU torch's own backward is wrong where the memory order of such a map is ambiguous and its gradient comes in
    another order; finite differences tell.
    """

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func is F.batch_norm and 1 in args[0].shape[2:]:
            return _written_out(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _written_out(  # as `F.batch_norm` names and orders its arguments
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    assert not training
    shape = (-1, *(1,) * (input.dim() - 2))
    normed = (input - running_mean.view(shape)) / (running_var.view(shape) + eps).sqrt()
    scaled = normed if weight is None else normed * weight.view(shape)
    return scaled if bias is None else scaled + bias.view(shape)


def run_plain(model: nn.Module, inputs: Sequence[Tensor], seed: int = 7) -> dict[str, Tensor | None]:
    """What `run` gives of the plain net, with `TrueBatchNorm` in the place of torch's."""
    with TrueBatchNorm():
        return run(model, model, inputs, seed)


def run(net: nn.Module, model: nn.Module, inputs: Sequence[Tensor], seed: int = 7) -> dict[str, Tensor | None]:
    """Outputs of `net`, and the gradients that random cotangents leave in the inputs and in `model`'s parameters."""
    leaves = [x.detach().clone().requires_grad_(x.is_floating_point()) for x in inputs]
    model.zero_grad(set_to_none=True)
    outputs = tensors_of(net(*leaves))
    generator = torch.Generator().manual_seed(seed)
    seeded = [(out, torch.randn(out.shape, generator=generator, dtype=torch.float64).to(out.dtype)) for out in outputs]
    seeded = [(out, seed_) for out, seed_ in seeded if out.requires_grad]
    if seeded:
        torch.autograd.backward([out for out, _ in seeded], [seed_ for _, seed_ in seeded])
    results: dict[str, Tensor | None] = {f"output {i}": out.detach() for i, out in enumerate(outputs)}
    results |= {f"gradient of input {i}": x.grad for i, x in enumerate(leaves)}
    results |= {f"gradient of {name}": p.grad for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return results


def assert_same_results(
    actual: dict[str, Tensor | None], expected: dict[str, Tensor | None], rtol: float, context: str = ""
) -> None:
    """Raise unless two results of `run` agree, each tensor on its own."""
    if list(actual) != list(expected):
        raise AssertionError(f"{context}: {list(actual)} instead of {list(expected)}")
    for name, value in expected.items():
        assert_near(actual[name], value, f"{context}: {name}", rtol)


def assert_streams_like_plain(
    model: nn.Module,
    inputs: Sequence[Tensor],
    tile_size: int | tuple[int, ...],
    *,
    rtol: float = 1e-10,
    **options: Any,
) -> StreamedModule:
    """Compile, run both nets, compare everything; returns the streamed module."""
    streamed = streamplan.compile(model, tile_size=tile_size, example_inputs=tuple(inputs), **options)
    expected = run(model, model, inputs)
    assert_same_results(run(streamed, model, inputs), expected, rtol, f"tile size {tile_size}")
    return streamed
