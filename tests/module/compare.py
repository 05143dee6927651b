"""One training step of two nets, compared tensor by tensor; shares no code with `streamplan.verify`.

error of an output, buffer    max |streamed - plain| / max |plain|
error of a gradient           max |streamed - plain| / max(max |plain|, 1e-6 x the largest gradient of the plain net)
"""

from __future__ import annotations

import copy
import zlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn


def assert_same_step(
    plain: nn.Module,
    streamed: nn.Module,
    *inputs: Any,
    rtol: float = 1e-10,
    floor: float = 1e-6,
    set_up: Callable[[nn.Module], object] | None = None,
    **keywords: Any,
) -> None:
    """Raise if two nets differ in an output, a parameter's gradient, an input's gradient or a buffer after one step.

    Args:
        plain: The reference. A copy of it runs, so `streamed` may share its parameters and buffers.
        streamed: The net to test; its gradients are set to None first, its buffers change as in any step.
        *inputs: Positional arguments: tensors, containers of them, constants. They are copied.
        rtol: Largest error.
        floor: Smallest scale of a gradient, as a share of the largest gradient. Where the true gradient is zero, as of
            a bias before a norm over the map, both nets find nothing but rounding, and a test may have to raise it.
        set_up: Called with the copy of `plain` before it runs.
        **keywords: Keyword arguments.
    """
    reference = copy.deepcopy(plain)
    if set_up is not None:
        set_up(reference)
    expected = run_step(reference, inputs, keywords)
    found = run_step(streamed, inputs, keywords)
    assert_same_results(expected, found, rtol, floor)


def run_step(module: nn.Module, inputs: tuple[Any, ...], keywords: dict[str, Any]) -> dict[str, Tensor | None]:
    """Everything one forward and backward pass leaves behind, by name; a gradient that does not arrive is None."""
    args = _fresh(inputs)
    kwargs = _fresh(keywords)
    for parameter in module.parameters():
        parameter.grad = None
    torch.manual_seed(5)
    outputs = dict(_named_tensors("output", module(*args, **kwargs)))
    roots = {name: out for name, out in outputs.items() if out.requires_grad}
    if roots:
        torch.autograd.backward(list(roots.values()), [_cotangent(name, out) for name, out in roots.items()])
    results: dict[str, Tensor | None] = {}
    for name, out in outputs.items():
        results[name] = out.detach().clone()
        results[f"{name} needs a gradient"] = torch.tensor(float(out.requires_grad))
    for name, tensor in _named_tensors("gradient of input", (args, kwargs)):
        results[name] = None if tensor.grad is None else tensor.grad.clone()
    for name, parameter in module.named_parameters():
        results[f"gradient of {name}"] = None if parameter.grad is None else parameter.grad.clone()
    for name, buffer in module.named_buffers():
        results[f"buffer {name}"] = buffer.clone()
    return results


def assert_same_results(
    expected: dict[str, Tensor | None], found: dict[str, Tensor | None], rtol: float = 1e-10, floor: float = 1e-6
) -> None:
    """Raise if any tensor is missing in one of them, of another kind, or further away than `rtol`."""
    assert list(expected) == list(found), "the two nets have tensors of different names"
    gradients = [t for name, t in expected.items() if name.startswith("gradient") and t is not None and t.numel()]
    largest = max((float(t.abs().max()) for t in gradients), default=0.0)
    wrong = []
    for name, reference in expected.items():
        least = floor * largest if name.startswith("gradient") else 0.0
        complaint = _complaint(reference, found[name], least, rtol)
        if complaint:
            wrong.append(f"{name}: {complaint}")
    assert not wrong, "\n".join([f"{len(wrong)} of {len(expected)} tensors differ", *wrong[:20]])


def _complaint(reference: Tensor | None, tensor: Tensor | None, least: float, rtol: float) -> str:
    """What is wrong with a tensor; "" if nothing."""
    if reference is None or tensor is None:
        return "" if reference is tensor else f"{_kind(reference)} in the plain net, {_kind(tensor)} in the streamed"
    if (reference.shape, reference.dtype) != (tensor.shape, tensor.dtype):
        return f"{_kind(reference)} in the plain net, {_kind(tensor)} in the streamed"
    if not reference.numel():
        return ""
    exact = torch.promote_types(reference.dtype, torch.float64)
    distance = float((tensor.to(exact) - reference.to(exact)).abs().max())
    scale = max(float(reference.to(exact).abs().max()), least)
    if distance <= rtol * scale:
        return ""
    return (
        f"differs by {distance:.3g}, that is {distance / scale if scale else float('inf'):.3g} of its scale {scale:.3g}"
    )


def _kind(tensor: Tensor | None) -> str:
    return "absent" if tensor is None else f"{str(tensor.dtype).removeprefix('torch.')}{list(tensor.shape)}"


def _fresh(value: Any) -> Any:
    """A copy; floating-point tensors become leaves, with the `requires_grad` of the original."""
    if isinstance(value, Tensor):
        return value.detach().clone().requires_grad_(value.requires_grad)
    if isinstance(value, dict):
        return {key: _fresh(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_fresh(item) for item in value]
    if isinstance(value, tuple):
        return tuple([_fresh(item) for item in value])
    return value


def _named_tensors(name: str, value: Any) -> Iterator[tuple[str, Tensor]]:
    """Tensors in nested containers, named by the way to them, the container's kind included."""
    if isinstance(value, Tensor):
        yield name, value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _named_tensors(f"{name}.{type(value).__name__}[{key!r}]", item)
    elif isinstance(value, tuple | list):
        for index, item in enumerate(value):
            yield from _named_tensors(f"{name}.{type(value).__name__}[{index}]", item)


def _cotangent(name: str, output: Tensor) -> Tensor:
    """A fixed random weight for every position of an output."""
    generator = torch.Generator().manual_seed(zlib.crc32(name.encode()))
    return torch.randn(output.shape, generator=generator, dtype=output.dtype)
