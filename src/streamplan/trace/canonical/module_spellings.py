"""How torch's modules spell canonical operations: the attributes that become arguments.

`nn.Conv2d` at `layer1.0.conv1` is the call `conv(input, layer1.0.conv1.weight, layer1.0.conv1.bias, stride=...)`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

from torch import nn

from streamplan.ir import AttributeRef

Arguments = dict[str, Any]
Reader = Callable[[nn.Module, str], Arguments]
"""Arguments besides `input`, from a module and its path."""


def _attribute(module: nn.Module, path: str, name: str) -> AttributeRef | None:
    """A reference to a tensor attribute, or None if the module has none."""
    if getattr(module, name, None) is None:
        return None
    return AttributeRef(f"{path}.{name}" if path else name)


def _read(*names: str, **fixed: Any) -> Reader:
    """A reader of plain attributes; `op=attribute` renames one."""

    def read(module: nn.Module, path: str) -> Arguments:
        values = {name: getattr(module, name) for name in names}
        return values | {name: getattr(module, value) for name, value in fixed.items()}

    return read


def _convolution(module: nn.Module, path: str) -> Arguments:
    settings = _read("stride", "padding", "dilation", "groups", "padding_mode")(module, path)
    return {"weight": _attribute(module, path, "weight"), "bias": _attribute(module, path, "bias"), **settings}


def _transposed(module: nn.Module, path: str) -> Arguments:
    return {**_convolution(module, path), "output_padding": module.output_padding}


def _batch_norm(module: nn.Module, path: str) -> Arguments:
    assert isinstance(module, nn.modules.batchnorm._NormBase)
    tensors = {name: _attribute(module, path, name) for name in ("running_mean", "running_var", "weight", "bias")}
    training = module.training or module.running_mean is None
    return {**tensors, "training": training, "momentum": module.momentum, "eps": module.eps}


def _dropout(module: nn.Module, path: str) -> Arguments:
    return {"p": module.p, "training": module.training}


def _layer_norm(module: nn.Module, path: str) -> Arguments:
    assert isinstance(module, nn.LayerNorm)
    tensors = {name: _attribute(module, path, name) for name in ("weight", "bias")}
    return {"normalized_shape": tuple(module.normalized_shape), **tensors, "eps": module.eps}


def _weight_and_bias(module: nn.Module, path: str) -> Arguments:
    return {name: _attribute(module, path, name) for name in ("weight", "bias")}


def _pad(mode: str) -> Reader:
    def read(module: nn.Module, path: str) -> Arguments:
        value = getattr(module, "value", 0.0) if mode == "constant" else None
        return {"pad": tuple(cast(tuple[int, ...], module.padding)), "mode": mode, "value": value}

    return read


def _upsample(module: nn.Module, path: str) -> Arguments:
    assert isinstance(module, nn.Upsample)
    return {
        "size": module.size,
        "scale_factor": module.scale_factor,
        "mode": module.mode,
        "align_corners": module.align_corners,
        "recompute_scale_factor": module.recompute_scale_factor,
        "antialias": False,
    }


def _per_axes(name: str) -> list[type[nn.Module]]:
    return [getattr(nn, f"{name}{axes}d") for axes in (1, 2, 3) if hasattr(nn, f"{name}{axes}d")]


def _avg_pool(module: nn.Module, path: str) -> Arguments:
    settings = _read("kernel_size", "stride", "padding", "ceil_mode", "count_include_pad")(module, path)
    return {**settings, "divisor_override": getattr(module, "divisor_override", None)}


_NOTHING = _read()


def _pools(name: str, op: str, read: Reader) -> dict[type[nn.Module], tuple[str, Reader]]:
    """The pooling modules of one kind, each with its number of axes."""

    def with_axes(axes: int) -> Reader:
        return lambda module, path: {**read(module, path), "num_axes": axes}

    return {getattr(nn, f"{name}{axes}d"): (op, with_axes(axes)) for axes in (1, 2, 3)}


MODULES: dict[type[nn.Module], tuple[str, Reader]] = {
    **dict.fromkeys(_per_axes("Conv"), ("conv", _convolution)),
    **dict.fromkeys(_per_axes("ConvTranspose"), ("conv_transpose", _transposed)),
    **dict.fromkeys([*_per_axes("BatchNorm"), nn.SyncBatchNorm], ("batch_norm", _batch_norm)),
    **dict.fromkeys(_per_axes("InstanceNorm"), ("instance_norm", _batch_norm)),
    **_pools(
        "MaxPool",
        "max_pool",
        _read("kernel_size", "stride", "padding", "dilation", "ceil_mode", "return_indices"),
    ),
    **_pools("AvgPool", "avg_pool", _avg_pool),
    **_pools("AdaptiveAvgPool", "adaptive_avg_pool", _read("output_size")),
    **_pools("AdaptiveMaxPool", "adaptive_max_pool", _read("output_size", "return_indices")),
    nn.Dropout: ("dropout", _dropout),
    **dict.fromkeys(_per_axes("Dropout"), ("feature_dropout", _dropout)),
    **dict.fromkeys([nn.AlphaDropout, nn.FeatureAlphaDropout], ("alpha_dropout", _dropout)),
    **dict.fromkeys([*_per_axes("ZeroPad"), *_per_axes("ConstantPad")], ("pad", _pad("constant"))),
    **dict.fromkeys(_per_axes("ReflectionPad"), ("pad", _pad("reflect"))),
    **dict.fromkeys(_per_axes("ReplicationPad"), ("pad", _pad("replicate"))),
    **dict.fromkeys(_per_axes("CircularPad"), ("pad", _pad("circular"))),
    **dict.fromkeys([nn.Upsample, nn.UpsamplingNearest2d, nn.UpsamplingBilinear2d], ("interpolate", _upsample)),
    nn.Identity: ("identity", _NOTHING),
    nn.LayerNorm: ("layer_norm", _layer_norm),
    nn.GroupNorm: ("group_norm", _weight_and_bias),
    nn.Linear: ("linear", _weight_and_bias),
    nn.PixelShuffle: ("pixel_shuffle", _read("upscale_factor")),
    nn.PixelUnshuffle: ("pixel_unshuffle", _read("downscale_factor")),
    nn.Flatten: ("view", _NOTHING),
    nn.Unflatten: ("view", _NOTHING),
    nn.GLU: ("glu", _read("dim")),
    nn.LocalResponseNorm: ("local_response_norm", _read("size", "alpha", "beta", "k")),
    nn.Softmax2d: ("softmax", lambda module, path: {"dim": -3}),
    nn.Softmax: ("softmax", _read("dim")),
    nn.LogSoftmax: ("log_softmax", _read("dim")),
    nn.MultiheadAttention: ("multi_head_attention", _NOTHING),
    nn.ReLU: ("relu", _NOTHING),
    nn.ReLU6: ("relu6", _NOTHING),
    nn.LeakyReLU: ("leaky_relu", _read("negative_slope")),
    nn.PReLU: ("prelu", lambda module, path: {"weight": _attribute(module, path, "weight")}),
    nn.ELU: ("elu", _read("alpha")),
    nn.CELU: ("celu", _read("alpha")),
    nn.SELU: ("selu", _NOTHING),
    nn.GELU: ("gelu", _read("approximate")),
    nn.SiLU: ("silu", _NOTHING),
    nn.Mish: ("mish", _NOTHING),
    nn.Hardswish: ("hardswish", _NOTHING),
    nn.Hardsigmoid: ("hardsigmoid", _NOTHING),
    nn.Hardtanh: ("hardtanh", _read("min_val", "max_val")),
    nn.Hardshrink: ("hardshrink", _read("lambd")),
    nn.Softshrink: ("softshrink", _read("lambd")),
    nn.Softplus: ("softplus", _read("beta", "threshold")),
    nn.Softsign: ("softsign", _NOTHING),
    nn.Sigmoid: ("sigmoid", _NOTHING),
    nn.LogSigmoid: ("logsigmoid", _NOTHING),
    nn.Tanh: ("tanh", _NOTHING),
    nn.Tanhshrink: ("tanhshrink", _NOTHING),
    nn.Threshold: ("threshold", _read("threshold", "value")),
}
"""Module class to canonical operation and reader of its arguments; subclasses made by parametrization count too."""


def spelling_of(module: nn.Module) -> tuple[str, Reader] | None:
    """The spelling of a leaf module; None if its class, or a `forward` of its own, is not in the table."""
    for cls in type(module).__mro__:
        if cls in MODULES:
            return MODULES[cls] if type(module).forward is cls.forward else None
    return None
