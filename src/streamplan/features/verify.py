"""`verify`: the streamed net against the plain net, in float64, tensor by tensor.

    error of a result    max |streamed - plain| / max |plain|
    error of a gradient  max |streamed - plain| / max(max |plain|, floor x norm of all plain gradients together)

Some true gradients are zero (a convolution's bias before a BatchNorm): sums over all positions that cancel. Either net
finds rounding noise instead, and the second term keeps it from counting as an error. The floor is 1e-6, or more where
the tolerance would otherwise ask for less than four roundings of that norm: 4 x eps / rtol, 9e-6 by default.
"""

from __future__ import annotations

import copy
import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree as pytree

from streamplan.checks import check_flag, shown
from streamplan.dtypes import in_precision, is_differentiable
from streamplan.errors import ModelTypeError, OptionError, StreamPlanError, TracingError, VerificationError
from streamplan.ir import TensorSpec
from streamplan.module.compile import resolve_tile_size
from streamplan.module.requests import (
    bind_call,
    check_model,
    check_plan,
    check_tensors,
    cut_option,
    resolve_arguments,
)
from streamplan.module.streamed import planned
from streamplan.module.streamed_module import StreamedModule
from streamplan.options import BatchNormPolicy, HaloPolicy, Options, resolve_passes
from streamplan.planning import Plan, build_plan, trace_and_lower
from streamplan.planning.arguments import CallArguments, as_integer, is_integer
from streamplan.planning.model import default_device, default_dtype
from streamplan.printed import Printed
from streamplan.trace.containers import leaves, mapped
from streamplan.trace.state.python_state import PythonState

_GRADIENT_FLOOR = 1e-6
"""Smallest reference a gradient is compared with, as a share of the norm of all gradients together..."""
_ROUNDINGS = 4
"""... unless that share times the tolerance is less than so many roundings."""


@dataclass(frozen=True)
class TensorError:
    """How far one tensor of the streamed net is from the plain net's."""

    kind: str
    """`output`, `gradient`, `input gradient` or `buffer`."""
    name: str
    error: float
    """Relative error; infinite if one net has the tensor and the other has not, or shapes differ."""
    scale: float
    """Largest absolute value of the plain net's tensor."""


@dataclass(frozen=True)
class VerificationReport(Printed):
    """The outcome of `verify`."""

    errors: tuple[TensorError, ...]
    """One entry per compared tensor."""
    rtol: float
    dtype: str
    plan: Plan

    @property
    def worst(self) -> TensorError:
        """The tensor with the largest error."""
        return max(self.errors, key=lambda item: item.error)

    @property
    def passed(self) -> bool:
        """Whether every error is within the tolerance."""
        return all(item.error <= self.rtol for item in self.errors)

    def __str__(self) -> str:
        verdict = "exact" if self.passed else "DIFFERENT"
        lines = [
            f"{self.plan.model}, input {self.plan.input_size}, {self.plan.num_tiles} tiles: {verdict} in {self.dtype} "
            f"(worst {self.worst.error:.1e}, tolerance {self.rtol:.0e})"
        ]
        lines.append(f"  {'tensors':<16}{'compared':>9}{'worst error':>13}  worst tensor")
        for kind in dict.fromkeys(item.kind for item in self.errors):
            of_kind = [item for item in self.errors if item.kind == kind]
            worst = max(of_kind, key=lambda item: item.error)
            lines.append(f"  {kind:<16}{len(of_kind):>9}{worst.error:>13.1e}  {worst.name}")
        failed = [item for item in self.errors if item.error > self.rtol]
        lines += [f"  FAILED {item.kind} {item.name}: error {item.error:.1e}" for item in failed[:10]]
        return "\n".join(lines)


def verify(  # noqa: PLR0913 - every option is a keyword
    model: nn.Module,
    input_size: Any = None,
    tile_size: int | tuple[int, ...] | None = None,
    *,
    inputs: Any = None,
    plan: Plan | None = None,
    cut: str | tuple[str, ...] = "latest",
    halo: HaloPolicy = "auto",
    batch_norm: BatchNormPolicy = "error",
    passes: str | Sequence[str] = "all",
    dtype: torch.dtype = torch.float64,
    rtol: float = 1e-10,
    seed: int = 0,
    raise_exception: bool = True,
) -> VerificationReport:
    """Compare the streamed net with the plain net: outputs, every parameter's gradient, input gradients, buffers.

    Both nets are copies of `model` in `dtype`; the model itself is not touched. The loss is a fixed random weighting of
    the outputs, so that every output position has its own cotangent. Use an image small enough for the plain net.

    Args:
        model: The model.
        input_size: Size of a random image, batch and channels included.
        tile_size: As for `compile`, but that None takes a quarter of the image along each axis, or more if that is not
            feasible.
        inputs: Instead of `input_size`: real inputs, a tensor, a tuple of positional or a dict of keyword arguments.
        plan: A plan whose cut, tile size, halo, BatchNorm policy and passes to verify instead of those given; also
            its input size, if no other is given.
        cut: As for `compile`.
        halo: As for `compile`.
        batch_norm: As for `compile`.
        passes: As for `compile`.
        dtype: Floating-point dtype to compare in.
        rtol: Largest relative error that counts as exact.
        seed: Seed of the random image, the cotangents, and any randomness in the resident part.
        raise_exception: Whether a failure raises.

    Returns:
        The report; `print` shows it.

    Raises:
        TracingError: The model cannot be traced, or not in `dtype`.
        VerificationError: A tensor differs by more than `rtol`.
    """
    check_model(model)
    seed = _check_options(dtype, rtol, seed, raise_exception)
    if plan is not None:
        check_plan(plan)
    generator = torch.Generator().manual_seed(seed)
    plain = _copied(model)
    plain._apply(lambda x: x.to(in_precision(x.dtype, dtype)))  # type: ignore[no-untyped-call] # `to` drops imaginary parts
    args, kwargs = _call_inputs(plain, input_size, inputs, plan, dtype, generator)
    options = (
        Options(cut=cut_option(cut), halo=halo, batch_norm=batch_norm, passes=resolve_passes(passes))
        if plan is None
        else plan.options
    )
    arguments, device = CallArguments.of_tensors(args, kwargs), default_device(plain)
    options = dataclasses.replace(options, tile_size=resolve_tile_size(tile_size) or options.tile_size)
    with _explaining_dtypes(model, arguments, dtype):
        if options.tile_size is None:
            options = dataclasses.replace(options, tile_size=build_plan(plain, arguments, options, device).tile_size)
        streamed = StreamedModule(copy.deepcopy(plain), arguments, options, device=device)
    python = PythonState.current(plain)
    with _torch_seeds_kept(device), python.again(plain):
        actual = _run(streamed, streamed, args, kwargs, seed)
    with _torch_seeds_kept(device), python.again(plain), streamed.reference_mode(plain):
        reference = streamed._reference(plain)
        expected = _run(plain, reference if reference.has_streamed_draws else plain, args, kwargs, seed)
    report = VerificationReport(
        tuple(_compare(expected, actual, rtol, dtype)), rtol, str(dtype).removeprefix("torch."), planned(streamed)
    )
    if raise_exception and not report.passed:
        worst = report.worst
        raise VerificationError(
            f"the streamed {worst.kind} {worst.name} differs from the plain net's by {worst.error:.1e}",
            where=type(model).__name__,
            why=f"the tolerance is {rtol:.0e} in {report.dtype}\n{report}",
            do="do not train on this plan; please report the model, the sizes and this table",
        )
    return report


def _copied(model: nn.Module) -> nn.Module:
    """A copy, which may be changed.

    Raises:
        ModelTypeError: The model cannot be copied.
    """
    try:
        return copy.deepcopy(model)
    except Exception as error:
        raise ModelTypeError(
            "the model cannot be copied",
            where=type(model).__name__,
            why=f"{type(error).__name__}: {error}",
            do="give the module that holds what cannot be copied a __deepcopy__",
        ) from error


def _check_options(dtype: Any, rtol: Any, seed: Any, raise_exception: Any) -> int:
    """Refuse options that are not what they should be; returns the seed.

    Raises:
        OptionError: One is not.
    """
    check_flag("raise_exception", raise_exception)
    if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
        raise OptionError(
            f"dtype={shown(dtype)} is not a dtype to compare in",
            why="gradients are floating-point numbers",
            do="pass torch.float64, the default, or torch.float32",
        )
    if isinstance(rtol, bool) or not isinstance(rtol, int | float) or not 0 <= rtol < 1:
        raise OptionError(
            f"rtol={shown(rtol)} is not a tolerance",
            why="it is the largest relative error that counts as exact, from 0 to less than 1",
            do="pass 1e-10, the default",
        )
    number = as_integer(seed)
    if not is_integer(number) or not -(2**63) <= number < 2**63:
        raise OptionError(
            f"seed={shown(seed)} is not a seed", why="a generator takes an integer of 64 bits", do="pass 0, say"
        )
    return int(number)


@contextmanager
def _explaining_dtypes(model: nn.Module, arguments: CallArguments, dtype: torch.dtype) -> Iterator[None]:
    """Inside the `with` block, a model that can be traced in its own dtype alone is refused for that."""
    try:
        yield
    except TracingError as error:
        own = default_dtype(model)
        try:
            trace_and_lower(model, arguments.with_float_dtype(own))
        except StreamPlanError:
            raise error from None
        name = str(dtype).removeprefix("torch.")
        raise TracingError(
            f"the model runs in {str(own).removeprefix('torch.')} alone, not in {name}, in which it is compared",
            where=error.where,
            why=f"{error.why}\nforward seems to convert to a fixed dtype, as x.float() does",
            do=f"convert to the dtype of a weight, x.to(self.weight.dtype), or pass dtype={own} and rtol=1e-4",
        ) from error


@dataclass(frozen=True)
class _Results:
    """Everything one net computed."""

    outputs: Mapping[str, Tensor]
    gradients: Mapping[str, Tensor | None]
    input_gradients: Mapping[str, Tensor | None]
    buffers: Mapping[str, Tensor]


def _call_inputs(
    model: nn.Module,
    input_size: Any,
    inputs: Any,
    plan: Plan | None,
    dtype: torch.dtype,
    generator: torch.Generator,
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Arguments of the call: the user's with floating-point tensors in `dtype`, or random ones."""
    if inputs is not None:
        positional = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
        args, kwargs = bind_call(model, positional, inputs if isinstance(inputs, Mapping) else {})
        check_tensors((args, kwargs))
        return _map_tensors(args, dtype), _map_tensors(kwargs, dtype)
    if plan is not None and input_size is None:
        arguments = plan.arguments
    else:
        arguments = resolve_arguments(model, input_size, None, dtype)

    def make(_: str, value: Any) -> Any:
        if not isinstance(value, TensorSpec):
            return value
        if not is_differentiable(value.dtype):
            return torch.randint(0, 256, value.shape, generator=generator).to(value.dtype)
        return torch.randn(value.shape, generator=generator, dtype=in_precision(value.dtype, dtype))

    return mapped(make, tuple(arguments.args)), mapped(make, dict(arguments.kwargs))


def _map_tensors(value: Any, dtype: torch.dtype) -> Any:
    def convert(_: str, item: Any) -> Any:
        return item.detach().to(in_precision(item.dtype, dtype)) if isinstance(item, Tensor) else item

    return mapped(convert, value)


def _run(
    module: nn.Module, call: Callable[..., Any], args: tuple[Any, ...], kwargs: Mapping[str, Any], seed: int
) -> _Results:
    """One forward and backward pass."""
    args, kwargs = mapped(_leaf, (tuple(args), dict(kwargs)))
    module.zero_grad(set_to_none=True)
    torch.manual_seed(seed)
    outputs = [leaf for leaf in pytree.tree_leaves(call(*args, **kwargs)) if isinstance(leaf, Tensor)]
    generator = torch.Generator().manual_seed(seed + 1)
    differentiable = [output for output in outputs if output.requires_grad]
    cotangents = [_cotangent(output, generator) for output in differentiable]
    if differentiable:
        torch.autograd.backward(differentiable, cotangents)
    given = {**{str(number): value for number, value in enumerate(args)}, **kwargs}
    inputs = [pair for place, value in given.items() for pair in leaves(value, place)]
    return _Results(
        outputs={f"output {index}": output.detach() for index, output in enumerate(outputs)},
        gradients={name: p.grad for name, p in module.named_parameters() if p.requires_grad},
        input_gradients={f"input {path}": x.grad for path, x in inputs if isinstance(x, Tensor) and x.requires_grad},
        buffers=dict(module.named_buffers()),
    )


def _torch_seeds_kept(device: torch.device) -> AbstractContextManager[None]:
    """Inside the `with` block, torch's random numbers may be seeded; afterwards they go on as before it."""
    return torch.random.fork_rng([device] if device.type == "cuda" else [])


def _leaf(_: str, value: Any) -> Any:
    """A tensor of its own whose gradient is recorded, if it can have one."""
    if not isinstance(value, Tensor):
        return value
    return value.detach().clone().requires_grad_(is_differentiable(value.dtype))


def _cotangent(output: Tensor, generator: torch.Generator) -> Tensor:
    return torch.randn(output.shape, generator=generator, dtype=output.dtype).to(output.device)


def _compare(expected: _Results, actual: _Results, rtol: float, dtype: torch.dtype) -> Iterator[TensorError]:
    gradients = {**expected.gradients, **expected.input_gradients}
    share = max(_GRADIENT_FLOOR, _ROUNDINGS * torch.finfo(dtype).eps / rtol) if rtol else _GRADIENT_FLOOR
    floor = share * math.hypot(*(_norm(g) for g in gradients.values() if g is not None))
    for kind, field, least in (
        ("output", "outputs", 0.0),
        ("gradient", "gradients", floor),
        ("input gradient", "input_gradients", floor),
        ("buffer", "buffers", 0.0),
    ):
        reference, found = getattr(expected, field), getattr(actual, field)
        for name in dict.fromkeys((*reference, *found)):
            yield _tensor_error(kind, name, reference.get(name), found.get(name), least)


def _tensor_error(kind: str, name: str, reference: Tensor | None, found: Tensor | None, least: float) -> TensorError:
    if reference is None and found is None:
        return TensorError(kind, name, 0.0, 0.0)
    if reference is None or found is None or reference.shape != found.shape or reference.dtype != found.dtype:
        return TensorError(kind, name, math.inf, 0.0 if reference is None else _scale(reference))
    scale = _scale(reference)
    wanted, given = _parts(reference), _parts(found)
    both_nan = wanted.isnan() & given.isnan()
    difference = torch.where(both_nan | (wanted == given), 0.0, (given.double() - wanted.double()).abs())
    largest = float(difference.max()) if difference.numel() else 0.0
    if math.isnan(largest):
        return TensorError(kind, name, math.inf, scale)
    divisor = max(scale, least)
    return TensorError(kind, name, largest / divisor if divisor else (0.0 if largest == 0.0 else math.inf), scale)


def _parts(tensor: Tensor) -> Tensor:
    """Real and imaginary parts of complex numbers; real ones as they are."""
    tensor = tensor.detach()
    return torch.view_as_real(tensor.resolve_conj()) if tensor.is_complex() else tensor


def _norm(tensor: Tensor) -> float:
    """Euclidean norm of the finite values."""
    values = _parts(tensor).double()
    return float(torch.linalg.vector_norm(values[values.isfinite()]))


def _scale(tensor: Tensor) -> float:
    """Largest finite absolute value."""
    values = _parts(tensor).double().abs()
    finite = values[values.isfinite()]
    return float(finite.max()) if finite.numel() else 0.0
