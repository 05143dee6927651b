"""Examples of elementwise operations, joins, norms and layouts."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.rules.spellings import SIZE_1D, SIZE_2D, SIZE_3D, Example, Net, example, function

_SMALL = (2, 3, 4)
"""Size of examples whose operation needs no more."""

_POSITIVE = "log log10 log1p log2 rsqrt sqrt reciprocal"
_BOUNDED = "acos asin logit"
_ANY = "abs atan ceil cos cosh erf erfc exp expm1 floor neg relu round sigmoid sign sin sinh square tan tanh trunc"
_FUNCTIONAL = (
    "elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 silu softplus softshrink "
    "softsign tanhshrink celu selu"
)


def _unary(name: str, source: object, prepare: Callable[[Tensor], Tensor]) -> Example:
    call = getattr(source, name)
    return function(name, "function", lambda net, x: call(prepare(x)), _SMALL)


def _comparison(name: str) -> Example:
    call = getattr(torch, name)
    return function(name, "mask", lambda net, x: x * call(x.round(), x.sin().round()), _SMALL)


_UNARY = [
    *[_unary(name, torch, lambda x: x.abs() + 0.5) for name in _POSITIVE.split()],
    *[_unary(name, torch, lambda x: torch.sigmoid(x) * 0.9 + 0.05) for name in _BOUNDED.split()],
    *[_unary(name, torch, lambda x: x) for name in _ANY.split()],
    *[_unary(name, F, lambda x: 4 * x) for name in _FUNCTIONAL.split()],
    function("frac", "method", lambda net, x: x - x.floor() + torch.frac(2 * x), _SMALL),
    function("nan_to_num", "values", lambda net, x: torch.nan_to_num(torch.log(x), nan=-3.0, neginf=1.0), _SMALL),
    function("relu", "in place", lambda net, x: (x + 1).relu_(), _SMALL),
    function("clamp", "one end", lambda net, x: x.clamp(min=-0.3), _SMALL),
    function("clamp", "by channel", lambda net, x: torch.clamp(x, net.low, net.low + 1), _SMALL, low=(3, 1)),
    function("clamp", "by map", lambda net, x: torch.clamp(x, max=x.cos()), _SMALL),
    function("clamp_min", "number", lambda net, x: torch.clamp_min(x, 0.1), _SMALL),
    function("clamp_max", "number", lambda net, x: x.clamp_max(0.2), _SMALL),
    function("threshold", "function", lambda net, x: F.threshold(x, 0.1, -2.0), _SMALL),
    example("threshold", "module", lambda: nn.Threshold(0.2, 1.0), _SMALL),
    example("prelu", "one weight", nn.PReLU, SIZE_2D),
    example("prelu", "by channel", lambda: nn.PReLU(3, init=0.1), SIZE_2D),
    function("prelu", "function", lambda net, x: F.prelu(x, net.w), SIZE_1D, w=(3,)),
    example("elu", "module", lambda: nn.ELU(0.7), _SMALL),
    example("gelu", "tanh", lambda: nn.GELU("tanh"), _SMALL),
    example("leaky_relu", "slope", lambda: nn.LeakyReLU(0.3), _SMALL),
    example("hardtanh", "range", lambda: nn.Hardtanh(-0.2, 0.6), _SMALL),
    example("softplus", "beta", lambda: nn.Softplus(2.0, 3.0), _SMALL),
    function("hardshrink", "lambda", lambda net, x: F.hardshrink(x, 0.8), _SMALL),
    function("celu", "alpha", lambda net, x: F.celu(x, alpha=0.4), _SMALL),
]

_ARITHMETIC = [
    function("add", "alpha", lambda net, x: torch.add(x, x.sin(), alpha=-2), SIZE_2D),
    function("add", "per channel", lambda net, x: x + net.bias, SIZE_2D, bias=(3, 1, 1)),
    function("add", "two images", lambda net, x, y: x + y, SIZE_2D, SIZE_2D),
    function("add", "batch of one", lambda net, x, y: x + y, SIZE_2D, (1, 3, 7, 9)),
    function("add", "one channel", lambda net, x: x + x[:, :1], SIZE_3D),
    function("add", "in place", lambda net, x: x.mul(2).add_(1), _SMALL),
    function("sub", "reversed", lambda net, x: 1.5 - x, _SMALL),
    function("mul", "scale", lambda net, x: net.scale * x, _SMALL, scale=(1, 3, 1)),
    function("div", "number", lambda net, x: x / 3, _SMALL),
    function("div", "reversed", lambda net, x: 2 / (x.abs() + 1), _SMALL),
    function("floordiv", "operator", lambda net, x: x + x.detach() // 0.7, _SMALL),
    function("mod", "operator", lambda net, x: x % 0.7, _SMALL),
    function("pow", "square", lambda net, x: x**2, _SMALL),
    function("pow", "negative", lambda net, x: (x.abs() + 1) ** -1.5, _SMALL),
    function("pow", "constant base", lambda net, x: 2.0**x, _SMALL),
    function("pow", "negative base", lambda net, x: (-2.0) ** torch.round(x) + x, _SMALL),
    function("maximum", "maps", lambda net, x: torch.maximum(x, x.cos()), _SMALL),
    function("minimum", "channel", lambda net, x: torch.minimum(x, net.top), _SMALL, top=(3, 1)),
    function("atan2", "maps", lambda net, x: torch.atan2(x, x.exp()), _SMALL),
    function("where", "maps", lambda net, x: torch.where(x > 0, x.sin(), net.other), SIZE_2D, other=(3, 1, 1)),
    function("where", "number", lambda net, x: torch.where(x < 0.3, 0.0, x), _SMALL),
    function("lerp", "number", lambda net, x: torch.lerp(x, x.sin(), 0.3), _SMALL),
    function("lerp", "map", lambda net, x: torch.lerp(x, x.sin(), x.cos()), _SMALL),
    function("addcmul", "value", lambda net, x: torch.addcmul(x, x.sin(), net.scale, value=0.5), _SMALL, scale=(3, 1)),
    function("addcdiv", "maps", lambda net, x: torch.addcdiv(x, x.sin(), x.exp(), value=-2), _SMALL),
    *[_comparison(name) for name in "eq ne lt le gt ge".split()],
    function("gt", "result", lambda net, x: (x > 0.2, x.sin()), _SMALL),
]

_JOINS = [
    function("cat", "channels", lambda net, x: torch.cat([x, x.sin(), x], 1), SIZE_2D),
    function("cat", "batch", lambda net, x, y: torch.cat((x, y), dim=0), SIZE_1D, (1, 3, 11)),
    function("cat", "negative dimension", lambda net, x: torch.concat([x, x.cos()], dim=-3), SIZE_2D),
    function("softmax", "channels", lambda net, x: torch.softmax(x, 1), SIZE_2D),
    function("softmax", "dtype", lambda net, x: torch.softmax(x.float(), 1, torch.float64) * x, _SMALL),
    example("log_softmax", "module", lambda: nn.LogSoftmax(1), SIZE_1D),
    function("sum", "keepdim", lambda net, x: x.sum(1, keepdim=True), SIZE_2D),
    function("sum", "drop channels", lambda net, x: torch.sum(x * x, dim=1), SIZE_2D),
    function("sum", "drop batch", lambda net, x: torch.tanh(x.sum(0)), SIZE_1D),
    function("mean", "channels and batch", lambda net, x: x.mean((0, 1), keepdim=True) * x, SIZE_2D),
    function("mean", "drop channels", lambda net, x: x.mean(-3), SIZE_2D),
    function("amax", "keepdim", lambda net, x: torch.cat([x.amax(1, True), x.mean(1, True)], 1), SIZE_2D),
    function("amax", "drop", lambda net, x: x.amax(dim=1), SIZE_1D),
    function("argmax", "keepdim", lambda net, x: x * x.argmax(1, True), SIZE_2D),
    function("argmin", "drop", lambda net, x: x * torch.argmin(x, dim=1).unsqueeze(1), SIZE_1D),
    function("amin", "drop", lambda net, x: torch.amin(x, (0, 1)), SIZE_2D),
]


def _trained(norm: nn.Module) -> nn.Module:
    """Statistics and affine parameters that are not those of an identity."""
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            tensor.data.uniform_(0.5, 1.5)
    return norm


def _channels_last(inner: nn.Module) -> nn.Module:
    return Net(lambda net, x: net.inner(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2), inner=inner)


_LAYERS = [
    example("batch_norm", "1-D", lambda: _trained(nn.BatchNorm1d(3)), SIZE_1D),
    example("batch_norm", "2-D", lambda: _trained(nn.BatchNorm2d(3, eps=0.1)), SIZE_2D),
    example("batch_norm", "3-D, not affine", lambda: _trained(nn.BatchNorm3d(3, affine=False)), SIZE_3D),
    example("layer_norm", "channels last", lambda: _channels_last(_trained(nn.LayerNorm(3))), SIZE_2D),
    example("layer_norm", "not affine", lambda: _channels_last(nn.LayerNorm(3, elementwise_affine=False)), SIZE_2D),
    example("linear", "channels last", lambda: _channels_last(nn.Linear(3, 2)), SIZE_2D),
    example("linear", "no bias", lambda: _channels_last(nn.Linear(3, 2, bias=False)), SIZE_2D),
    function("permute", "method", lambda net, x: torch.sin(x.permute(2, 0, 3, 1)), SIZE_2D),
    function("permute", "swapped axes", lambda net, x: x.transpose(2, 3) * 2, SIZE_2D),
    function("permute", "movedim", lambda net, x: torch.movedim(x, 1, -1), SIZE_3D),
    function("to", "float", lambda net, x: x.float() * 2, _SMALL),
    function("to", "there and back", lambda net, x: x.to(torch.float32).double(), _SMALL),
    function("to", "type_as", lambda net, x: (x > 0).type_as(x) * x, _SMALL),
    example("identity", "module", lambda: nn.Sequential(nn.Identity(), nn.Tanh()), _SMALL),
    function("identity", "clone", lambda net, x: x.clone().contiguous(), _SMALL),
    function("detach", "method", lambda net, x: x * x.detach(), _SMALL),
    example("dropout", "eval", lambda: nn.Sequential(nn.Dropout(0.5), nn.Tanh()), SIZE_2D),
    example("feature_dropout", "eval", lambda: nn.Sequential(nn.Dropout2d(0.5), nn.Tanh()), SIZE_2D),
    example("alpha_dropout", "eval", lambda: nn.Sequential(nn.AlphaDropout(0.5), nn.Tanh()), SIZE_2D),
    function("dropout", "p=0 in training", lambda net, x: F.dropout(x, 0.0) * 2, _SMALL),
]

_CHANNELS = [
    function("flip", "channels", lambda net, x: x.flip(1) * 2, SIZE_2D),
    function("roll", "channels", lambda net, x: torch.roll(x, 2, 1) + x, SIZE_2D),
    function("glu", "channels", lambda net, x: F.glu(x, 1), (2, 4, 7, 9)),
    function("normalize", "channels", lambda net, x: F.normalize(x, dim=1), SIZE_2D),
    function("std", "channels", lambda net, x: x.std(1, keepdim=True), SIZE_2D),
    function("var", "channels", lambda net, x: x.var(1), SIZE_2D),
    function("masked_fill", "number", lambda net, x: x.masked_fill(x > 0.4, -1.0), SIZE_2D),
    function("stack", "new dimension", lambda net, x: torch.stack([x, x.sin()], 1).sum(1), SIZE_2D),
    function("view", "split channels", lambda net, x: x.view(2, 2, 2, 7, 9).sum(1), (2, 4, 7, 9)),
    example("local_response_norm", "size 3", lambda: nn.LocalResponseNorm(3, alpha=0.5), SIZE_2D),
]


_REPETITIONS = [
    function("expand", "channels", lambda net, x: x.mean(1, keepdim=True).expand(-1, 4, -1, -1) * 2, SIZE_2D),
    function("expand", "new dimension", lambda net, x: x.expand(5, *x.shape).sin().sum(0), SIZE_2D),
    function("expand", "like another map", lambda net, x: x[:, :1].expand_as(x) * x, SIZE_1D),
    function("expand", "broadcast_to", lambda net, x: torch.broadcast_to(x[:, 1:2], x.shape) + x, SIZE_3D),
    function("repeat", "channels", lambda net, x: x.repeat(1, 3, 1, 1).sin(), SIZE_2D),
    function("repeat", "new dimension", lambda net, x: x.repeat([2, 1, 1, 1, 1]).mean(0) * x, SIZE_2D),
    function("repeat", "tile", lambda net, x: torch.tile(x.movedim(1, -1), (2,)).sin(), SIZE_2D),
    function("repeat_interleave", "channels", lambda net, x: torch.repeat_interleave(x, 2, dim=1).sin(), SIZE_2D),
    function("repeat_interleave", "batch", lambda net, x: x.repeat_interleave(3, 0) * 2, SIZE_1D),
    function("identity", "as_tensor", lambda net, x: torch.as_tensor(x.sin()) * x, _SMALL),
    function("identity", "as_tensor, in place", lambda net, x: _aliased(x * 1), _SMALL),
]


def _aliased(x: Tensor) -> Tensor:
    return torch.as_tensor(x).mul_(3) + x.sin()


def _with_order() -> nn.Module:
    net = Net(lambda net, x: x.index_select(1, net.order))
    net.register_buffer("order", torch.tensor([2, 0, 0]))
    return net


POINTWISE = (
    *_CHANNELS,
    *_REPETITIONS,
    example("index_select", "channels", _with_order, SIZE_2D),
    *_UNARY,
    *_ARITHMETIC,
    *_JOINS,
    *_LAYERS,
)
