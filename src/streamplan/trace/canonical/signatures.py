"""How torch's functions and methods spell canonical operations.

Each line of the tables reads `spelling -> canonical operation, argument names in positional order`. A spelling is a
function of `torch`, `torch.nn.functional` or `operator`, or a method of `torch.Tensor`; `name_` in-place variants of
elementwise operations come for free.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

REQUIRED = object()
"""Default of an argument that has none."""


@dataclass(frozen=True)
class Signature:
    """A canonical operation and how one spelling of it takes its arguments."""

    op: str
    """Canonical operation."""
    names: tuple[str, ...]
    """Argument names in positional order."""
    defaults: tuple[Any, ...]
    """Their defaults; `REQUIRED` where there is none."""
    fixed: tuple[tuple[str, Any], ...] = ()
    """Arguments that the spelling itself fixes, such as the number of axes of `max_pool2d`."""
    num_variadic: int = 0
    """1 if the last name collects all remaining positional arguments, as in `x.permute(0, 2, 3, 1)`."""

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        """Arguments by canonical name, defaults filled in.

        Raises:
            TypeError: An argument is missing, or one is given that the signature does not have.
        """
        if self.num_variadic:
            fixed = len(self.names) - 1
            rest: Any = args[fixed:]
            rest = rest[0] if len(rest) == 1 and isinstance(rest[0], tuple | list) else tuple(rest)
            args = (*args[:fixed], rest) if rest else args[:fixed]
        if len(args) > len(self.names):
            raise TypeError(f"{len(args)} positional arguments, {len(self.names)} known")
        bound = dict(zip(self.names, args, strict=False))
        for name, value in kwargs.items():
            if name not in self.names or name in bound:
                raise TypeError(f"argument {name!r} is not known")
            bound[name] = value
        for name, default in zip(self.names, self.defaults, strict=True):
            if name not in bound:
                if default is REQUIRED:
                    raise TypeError(f"argument {name!r} is missing")
                bound[name] = default
        return {name: bound[name] for name in self.names} | dict(self.fixed)


def signature(op: str, text: str, **fixed: Any) -> Signature:
    """Parse `"input kernel_size stride=None *dims"`.

    >>> signature("relu", "input inplace=False").bind(("x",), {})
    {'input': 'x', 'inplace': False}
    """
    names, defaults, variadic = [], [], 0
    for part in text.split():
        name, separator, default = part.partition("=")
        if name.startswith("*"):
            name, variadic = name[1:], 1
        names.append(name)
        defaults.append(eval(default, {}) if separator else REQUIRED)  # our own literals below
    return Signature(op, tuple(names), tuple(defaults), tuple(fixed.items()), variadic)


_UNARY = {
    "abs acos asin atan ceil cos cosh erf erfc exp expm1 floor frac log log10 log1p log2 logsigmoid neg reciprocal "
    "round rsqrt sigmoid sign sin sinh softsign sqrt square tan tanh tanhshrink trunc": "input",
    "relu relu6 selu silu mish hardswish hardsigmoid": "input inplace=False",
    "celu": "input alpha=1.0 inplace=False",
    "elu": "input alpha=1.0 inplace=False",
    "gelu": "input approximate='none'",
    "hardshrink softshrink": "input lambd=0.5",
    "hardtanh": "input min_val=-1.0 max_val=1.0 inplace=False",
    "leaky_relu": "input negative_slope=0.01 inplace=False",
    "logit": "input eps=None",
    "nan_to_num": "input nan=None posinf=None neginf=None",
    "prelu": "input weight",
    "softplus": "input beta=1.0 threshold=20.0",
    "threshold": "input threshold value inplace=False",
    "clamp": "input min=None max=None",
    "clamp_min": "input min",
    "clamp_max": "input max",
}
_ALIASES = {
    "absolute": "abs", "negative": "neg", "clip": "clamp", "subtract": "sub", "multiply": "mul", "divide": "div",
    "true_divide": "div", "concat": "cat", "concatenate": "cat", "truediv": "div", "pos": "identity",
    "arccos": "acos", "arcsin": "asin", "arctan": "atan", "not_equal": "ne", "greater": "gt", "less": "lt",
    "greater_equal": "ge", "less_equal": "le", "remainder": "mod", "fix": "trunc",
}  # fmt: skip
_CALLS = {
    "add sub": "input other alpha=1",
    "mul eq ne lt le gt ge pow maximum minimum atan2 mod": "input other",
    "div": "input other rounding_mode=None",
    "lerp": "input end weight",
    "addcmul addcdiv": "input tensor1 tensor2 value=1",
    "cat stack": "tensors dim=0",
    "masked_fill": "input mask value",
    "index_select": "input dim index",
    "softmax log_softmax": "input dim dtype=None",
    "sum mean": "input dim=None keepdim=False dtype=None",
    "amax amin": "input dim=() keepdim=False",
    "argmax argmin": "input dim=None keepdim=False",
    "permute": "input *dims",
    "transpose swapaxes": "input dim0 dim1",
    "movedim": "input source destination",
    "chunk": "input chunks dim=0",
    "split": "input split_size_or_sections dim=0",
    "unbind": "input dim=0",
    "narrow": "input dim start length",
    "select": "input dim index",
    "squeeze": "input dim=None",
    "unsqueeze": "input dim",
    "clone": "input memory_format=None",
    "contiguous": "input memory_format=None",
    "detach": "input",
    "dropout": "input p=0.5 training=True inplace=False",
    "alpha_dropout feature_alpha_dropout feature_dropout dropout1d dropout2d dropout3d":
        "input p=0.5 training=False inplace=False",
    "layer_norm": "input normalized_shape weight=None bias=None eps=1e-05",
    "group_norm": "input num_groups weight=None bias=None eps=1e-05",
    "linear": "input weight bias=None",
    "pixel_shuffle": "input upscale_factor",
    "pixel_unshuffle": "input downscale_factor",
    "float half double bfloat16": "input memory_format=None",
    "flatten": "input start_dim=0 end_dim=-1",
    "unflatten": "input dim sizes",
    "flip": "input *dims",
    "roll": "input shifts dims=None",
    "var std": "input dim=None unbiased=None keepdim=False correction=None",
    "matmul bmm": "input other",
    "view reshape": "input *shape",
    "expand": "input *size",
    "expand_as": "input other",
    "repeat": "input *repeats",
    "tile": "input *dims",
    "broadcast_to": "input size",
    "repeat_interleave": "input repeats dim=None output_size=None",
    "as_tensor": "input dtype=None device=None",
}  # fmt: skip
_CONVOLUTION = "input weight bias=None stride=1 padding=0 dilation=1 groups=1"
_TRANSPOSED = "input weight bias=None stride=1 padding=0 output_padding=0 groups=1 dilation=1"
_MAX_POOL = "input kernel_size stride=None padding=0 dilation=1 ceil_mode=False return_indices=False"
_AVG_POOL = "input kernel_size stride=None padding=0 ceil_mode=False count_include_pad=True divisor_override=None"
_AXES = (1, 2, 3)


def _canonical(name: str) -> str:
    """Canonical operation of a call whose spelling is shared by methods and functions."""
    special = {
        "swapaxes": "transpose", "clone": "identity", "contiguous": "identity", "bmm": "matmul",
        "float": "to", "half": "to", "double": "to", "bfloat16": "to", "reshape": "view", "flatten": "view",
        "unflatten": "view", "squeeze": "view", "unsqueeze": "view", "expand_as": "expand", "broadcast_to": "expand",
    }  # fmt: skip
    if "dropout" in name:
        return "alpha_dropout" if "alpha" in name else name if name == "dropout" else "feature_dropout"
    return special.get(name, name)


def _named_signatures() -> Iterator[tuple[str, Signature]]:
    """Name, and signature of the functions and methods of that name."""
    table = {**_UNARY, **_CALLS}
    known = {}
    for names, text in table.items():
        for name in names.split():
            known[name] = signature(_canonical(name), text)
    yield from known.items()
    for alias, name in _ALIASES.items():
        if name in known:
            yield alias, known[name]


NAMED: dict[str, Signature] = dict(_named_signatures())
"""Spellings that mean the same as a function of torch, as one of torch.nn.functional, and as a method."""


def _function_signatures() -> Iterator[tuple[Callable[..., Any], Signature]]:
    for name, known in NAMED.items():
        for spelling in (name, f"{name}_"):
            for module in (torch, F, torch.special):
                function = getattr(module, spelling, None)
                if callable(function):
                    yield function, known
    for axes in _AXES:
        yield getattr(F, f"conv{axes}d"), signature("conv", _CONVOLUTION)
        yield getattr(torch, f"conv{axes}d"), signature("conv", _CONVOLUTION)
        yield getattr(F, f"conv_transpose{axes}d"), signature("conv_transpose", _TRANSPOSED)
        yield getattr(torch, f"conv_transpose{axes}d"), signature("conv_transpose", _TRANSPOSED)
        yield getattr(F, f"max_pool{axes}d"), signature("max_pool", _MAX_POOL, num_axes=axes)
        yield getattr(torch, f"max_pool{axes}d"), signature("max_pool", _MAX_POOL, num_axes=axes)
        yield getattr(F, f"avg_pool{axes}d"), signature("avg_pool", _AVG_POOL, num_axes=axes)
        yield (
            getattr(F, f"adaptive_avg_pool{axes}d"),
            signature("adaptive_avg_pool", "input output_size", num_axes=axes),
        )
        yield (
            getattr(F, f"adaptive_max_pool{axes}d"),
            signature("adaptive_max_pool", "input output_size return_indices=False", num_axes=axes),
        )
    norm = "input running_mean running_var weight=None bias=None training=False momentum=0.1 eps=1e-05"
    yield F.batch_norm, signature("batch_norm", norm)
    native = "input weight bias running_mean running_var training momentum eps cudnn_enabled=True"
    yield torch.batch_norm, signature("batch_norm", native)
    yield (
        F.instance_norm,
        signature(
            "instance_norm",
            "input running_mean=None running_var=None weight=None bias=None use_input_stats=True momentum=0.1 eps=1e-5",
        ),
    )
    resize = (
        "input size=None scale_factor=None mode='nearest' align_corners=None recompute_scale_factor=None "
        "antialias=False"
    )
    yield F.interpolate, signature("interpolate", resize)
    yield F.upsample, signature("interpolate", "input size=None scale_factor=None mode='nearest' align_corners=None")
    for name in ("softmax", "log_softmax"):
        yield getattr(F, name), signature(name, "input dim=None _stacklevel=3 dtype=None")
    yield F.glu, signature("glu", "input dim=-1")
    yield F.normalize, signature("normalize", "input p=2.0 dim=1 eps=1e-12 out=None")
    yield F.local_response_norm, signature("local_response_norm", "input size alpha=0.0001 beta=0.75 k=1.0")
    yield F.pad, signature("pad", "input pad mode='constant' value=None")
    yield torch.where, signature("where", "condition input other")
    yield F.grid_sample, signature("grid_sample", "input grid mode='bilinear' padding_mode='zeros' align_corners=None")
    yield F.unfold, signature("unfold", "input kernel_size dilation=1 padding=0 stride=1")
    yield (
        F.scaled_dot_product_attention,
        signature("scaled_dot_product_attention", "input key value attn_mask=None dropout_p=0.0 is_causal=False"),
    )
    for name in ("add", "sub", "mul", "truediv", "floordiv", "mod", "pow"):
        op = {"truediv": "div"}.get(name, name)
        yield getattr(operator, name), signature(op, "input other")
        yield getattr(operator, f"i{name}"), signature(op, "input other")
    for name in ("eq", "ne", "lt", "le", "gt", "ge"):
        yield getattr(operator, name), signature(name, "input other")
    yield operator.neg, signature("neg", "input")
    yield operator.pos, signature("identity", "input")
    yield operator.getitem, signature("getitem", "input index")
    yield operator.matmul, signature("matmul", "input other")


FUNCTIONS: dict[Callable[..., Any], Signature] = dict(_function_signatures())
"""Functions by themselves."""

METHODS: dict[str, Signature] = {
    **{spelling: known for name, known in NAMED.items() for spelling in (name, f"{name}_")},
    "to": signature("to", "input *options"),
    "type_as": signature("to", "input other"),
    "type": signature("to", "input dtype"),
    "__getitem__": signature("getitem", "input index"),
}
"""Methods by name."""
