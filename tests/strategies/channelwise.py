"""What acts position by position in other ways than an activation, and convolutions whose weights are computed.

`ChannelShuffle`, `Partition`, `ChannelsLast`, `LocalNorm`, `Gate`, `Affine`, `InPlace` and `StandardizedConv`.
Parameters that `randomize_` does not draw begin as ramps: equal recipes build equal nets.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
import torch.nn.functional as F
from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies import op_modules
from tests.strategies.axis import Window, conv_windows, window_extent
from tests.strategies.draws import LARGEST, Extents, per_axis
from tests.strategies.recipe import Node, Signal


def ramp(count: int, low: float = 0.5, high: float = 1.5) -> Tensor:
    return torch.linspace(low, high, count)


@dataclass(frozen=True, repr=False)
class ChannelShuffle(Node):
    """Channels of several groups, interleaved."""

    groups: int
    """A divisor of the channels."""
    spelling: Literal["view", "unflatten", "reshape"] = "view"

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _ShuffleModule(self)


class _ShuffleModule(nn.Module):
    def __init__(self, recipe: ChannelShuffle) -> None:
        super().__init__()
        self.groups, self.spelling = recipe.groups, recipe.spelling

    def forward(self, x: Tensor) -> Tensor:
        batch, channels, *extents = x.size()
        if self.spelling == "unflatten":
            return x.unflatten(1, (self.groups, -1)).transpose(1, 2).flatten(1, 2)
        if self.spelling == "reshape":
            return x.reshape(batch, self.groups, -1, *extents).swapaxes(1, 2).reshape(x.shape)
        x = x.contiguous().view(batch, self.groups, channels // self.groups, *extents)
        return torch.transpose(x, 1, 2).contiguous().view(batch, -1, *extents)


PartitionKind = Literal["chunk", "split", "sizes", "unbind", "slices", "stack", "select", "repeat", "expand"]
PARTITIONS = get_args(PartitionKind)


@dataclass(frozen=True, repr=False)
class Partition(Node):
    """Channels taken apart, changed one by one, and put together in reverse."""

    how: PartitionKind
    parts: int = 2

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _PartitionModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


class _PartitionModule(nn.Module):
    def __init__(self, recipe: Partition, signal: Signal) -> None:
        super().__init__()
        self.how = recipe.how
        self.parts = min(recipe.parts, signal.channels)
        self.channels = signal.channels

    def forward(self, x: Tensor) -> Tensor:
        if self.how == "stack":
            return torch.stack((x, torch.tanh(x), -x), dim=2).sum(2)
        if self.how == "repeat":
            rest = (1,) * (x.dim() - 2)
            return x.repeat(1, 2, *rest)[:, 1 : 1 + self.channels] + x.repeat_interleave(2, dim=1)[:, : self.channels]
        if self.how == "expand":
            return x * x[:, :1].expand_as(x) - torch.tile(
                x.mean(1, keepdim=True), (self.channels,) + (1,) * (x.dim() - 2)
            )
        if self.how == "unbind":
            return torch.stack([part * (1 + i) for i, part in enumerate(reversed(x.unbind(1)))], dim=1)
        if self.how == "select":
            channels = [x[:, i] for i in reversed(range(self.channels))]
            return torch.cat([torch.unsqueeze(channel, 1) for channel in channels], 1)
        return torch.cat([part * (1 + i) for i, part in enumerate(reversed(self._pieces(x)))], 1)

    def _pieces(self, x: Tensor) -> tuple[Tensor, ...]:
        if self.how == "chunk":
            return torch.chunk(x, self.parts, dim=1)
        if self.how == "split":
            return x.split(-(-self.channels // self.parts), dim=1)
        first = self.channels // self.parts
        if self.how == "sizes":
            return torch.split(x, [first, self.channels - first] if first < self.channels else [first], 1)
        return x[:, :first], x[:, first:, ...]


@dataclass(frozen=True, repr=False)
class ChannelsLast(Node):
    """Permute, norm and linear layers over the last dimension, permute back."""

    hidden: int
    """Features between two linear layers; 0 for one of them."""
    norm: bool = True
    spelling: Literal["permute", "movedim", "transpose"] = "permute"

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _ChannelsLastModule(self, signal)


class _ChannelsLastModule(nn.Module):
    def __init__(self, recipe: ChannelsLast, signal: Signal) -> None:
        super().__init__()
        channels, self.spelling = signal.channels, recipe.spelling
        self.norm = nn.LayerNorm(channels, eps=1e-3) if recipe.norm else nn.Identity()
        if isinstance(self.norm, nn.LayerNorm):
            self.norm.weight.data, self.norm.bias.data = ramp(channels), ramp(channels, -0.2, 0.3)
        hidden = recipe.hidden or channels
        self.layers = nn.Sequential(nn.Linear(channels, hidden))
        if recipe.hidden:
            self.layers.append(nn.GELU()).append(nn.Linear(hidden, channels))

    def forward(self, x: Tensor) -> Tensor:
        if self.spelling == "movedim":
            return torch.movedim(self.layers(self.norm(x.movedim(1, -1))), -1, 1)
        if self.spelling == "transpose":  # of channels with the last axis, which then stands in their place
            return self.layers(self.norm(x.transpose(1, -1))).transpose(1, -1)
        axes = range(2, x.dim())
        x = self.layers(self.norm(x.permute(0, *axes, 1)))
        return x.permute(0, -1, *range(1, x.dim() - 1))


@dataclass(frozen=True, repr=False)
class LocalNorm(Node):
    """Local response normalisation."""

    size: int
    module_spelling: bool = True

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        options: dict[str, Any] = {"size": self.size, "alpha": 0.3, "beta": 0.75, "k": 1.5}
        return (
            nn.LocalResponseNorm(**options)
            if self.module_spelling
            else op_modules.Called(F.local_response_norm, **options)
        )


GATES = ("mean", "amax", "sum", "softmax", "normalize", "var", "glu", "spatial")


@dataclass(frozen=True, repr=False)
class Gate(Node):
    """The map scaled by a function of its channels; "spatial" filters their mean and maximum first (CBAM)."""

    kind: str

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _GateModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


class _GateModule(nn.Module):
    def __init__(self, recipe: Gate, signal: Signal) -> None:
        super().__init__()
        self.kind = recipe.kind
        if self.kind == "spatial":
            conv: Any = op_modules.CONVS[signal.ndim - 1]
            self.conv = conv(2, 1, 3, padding=1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "spatial":
            pooled = torch.cat([torch.mean(x, 1, keepdim=True), x.amax(dim=1, keepdim=True)], dim=1)
            return x * torch.sigmoid(self.conv(pooled))
        if self.kind == "glu":
            return F.glu(torch.cat([x, x * 2], 1), dim=1)
        return self._scaled(x)

    def _scaled(self, x: Tensor) -> Tensor:
        if self.kind == "mean":
            return x * x.mean(1, keepdim=True).sigmoid()
        if self.kind == "amax":
            return torch.amax(x, 1, keepdim=True).tanh() * x
        if self.kind == "sum":
            return x.mul(torch.sigmoid(x.sum(dim=1).unsqueeze(1)))
        if self.kind == "softmax":
            return x * x.softmax(1)
        if self.kind == "normalize":
            return F.normalize(x, dim=1, eps=0.3)
        return x * torch.var(x, 1, unbiased=False, keepdim=True).add(1).rsqrt()


@dataclass(frozen=True, repr=False)
class Affine(Node):
    """Scale and shift by small tensors that do not depend on the image: parameters, buffers, functions of them."""

    how: Literal["parameter", "buffer", "scalar", "computed", "folded", "addcmul"]

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _AffineModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


class _AffineModule(nn.Module):
    shift: Tensor
    mean: Tensor

    def __init__(self, recipe: Affine, signal: Signal) -> None:
        super().__init__()
        self.how, channels = recipe.how, signal.channels
        ones = (1,) * signal.ndim
        shape = () if self.how == "scalar" else (channels, *ones) if self.how == "parameter" else (channels,)
        self.scale = nn.Parameter(torch.tensor(0.8) if self.how == "scalar" else ramp(channels).reshape(shape))
        self.register_buffer("shift", ramp(channels, -0.3, 0.4).reshape(1, channels, *ones))

    def forward(self, x: Tensor) -> Tensor:
        ones = (1,) * (x.dim() - 2)
        if self.how in ("parameter", "scalar"):
            return self.scale * x
        if self.how == "buffer":
            return (x - self.shift) / self.scale.view(1, -1, *ones)
        if self.how == "addcmul":
            return torch.addcmul(self.shift, x, self.scale.reshape(-1, *ones))
        scale = F.softplus(self.scale).reshape(1, -1, *ones)
        if self.how == "folded":  # as frozen norms do: both factors computed from attributes alone
            return x * scale + (self.shift - self.shift.mean() * scale)
        return x + scale.exp() * self.shift


IN_PLACE = (
    "mul_", "add_", "sub_", "div_", "*=", "+=", "-=", "/=", "scale *=", "add_ alpha", "torch.relu_", "F.relu",
    "F.leaky_relu_", "F.elu_", "silu", "hardswish", "clamp_", "F.hardtanh_", "tanh_", "torch.sigmoid_", "neg_", "abs_",
)  # fmt: skip
"""Spellings of operations that overwrite their input."""


@dataclass(frozen=True, repr=False)
class InPlace(Node):
    """An operation that overwrites its input; only where nobody else needs it."""

    spelling: str

    def after(self, signal: Signal) -> Signal:
        return signal

    def module(self, signal: Signal) -> nn.Module:
        return _InPlaceModule(self.spelling)

    @property
    def is_fresh(self) -> bool:
        return self.spelling in ("mul_", "add_", "sub_", "div_", "*=", "+=", "-=", "/=", "add_ alpha", "neg_")


class _InPlaceModule(nn.Module):
    def __init__(self, spelling: str) -> None:
        super().__init__()
        self.spelling = spelling
        if spelling == "scale *=":
            self.scale = nn.Parameter(torch.tensor(0.9))

    def forward(self, x: Tensor) -> Tensor:
        operators = ("*=", "+=", "-=", "/=", "scale *=")
        if self.spelling in operators:
            return self._augmented(x)
        return _CALLS[self.spelling](x)

    def _augmented(self, x: Tensor) -> Tensor:
        if self.spelling == "*=":
            x *= 0.7
        elif self.spelling == "+=":
            x += 0.25
        elif self.spelling == "-=":
            x -= 0.25
        elif self.spelling == "/=":
            x /= 1.25
        else:
            x *= self.scale
        return x


_CALLS: dict[str, Any] = {
    "mul_": lambda x: x.mul_(1.2),
    "add_": lambda x: x.add_(0.3),
    "sub_": lambda x: x.sub_(0.3),
    "div_": lambda x: x.div_(0.8),
    "add_ alpha": lambda x: x.add_(2, alpha=0.2),
    "torch.relu_": torch.relu_,
    "F.relu": lambda x: F.relu(x, inplace=True),
    "F.leaky_relu_": lambda x: F.leaky_relu_(x, 0.2),
    "F.elu_": F.elu_,
    "silu": lambda x: F.silu(x, inplace=True),
    "hardswish": lambda x: F.hardswish(x, inplace=True),
    "clamp_": lambda x: x.clamp_(-1.0, 1.5),
    "F.hardtanh_": lambda x: F.hardtanh_(x, -1.2, 1.2),
    "tanh_": lambda x: x.tanh_(),
    "torch.sigmoid_": torch.sigmoid_,
    "neg_": lambda x: x.neg_(),
    "abs_": lambda x: x.abs_(),
}


@dataclass(frozen=True, repr=False)
class StandardizedConv(Node):
    """Convolution whose weights are standardised whenever they are used."""

    channels: int
    kernel: Extents
    stride: Extents
    padding: Extents
    spelling: Literal["batch_norm", "by hand"] = "batch_norm"

    def after(self, signal: Signal) -> Signal:
        windows = [Window(*axis) for axis in zip(self.kernel, self.stride, self.padding, strict=True)]
        return Signal(self.channels, tuple(map(window_extent, signal.extents, windows)))

    def module(self, signal: Signal) -> nn.Module:
        return _StandardizedModule(self, signal)

    @property
    def is_fresh(self) -> bool:
        return True


_CONVOLVE = (F.conv1d, F.conv2d, F.conv3d)


class _StandardizedModule(nn.Module):
    def __init__(self, recipe: StandardizedConv, signal: Signal) -> None:
        super().__init__()
        kind: Any = op_modules.CONVS[signal.ndim - 1]
        self.conv = kind(signal.channels, recipe.channels, recipe.kernel, recipe.stride, recipe.padding)
        self.gain = nn.Parameter(ramp(recipe.channels))
        self.by_hand, self.ndim = recipe.spelling == "by hand", signal.ndim

    def forward(self, x: Tensor) -> Tensor:
        conv = self.conv
        fan_in = conv.weight[0].numel()
        if self.by_hand:
            dims = tuple(range(1, 2 + self.ndim))
            mean = conv.weight.mean(dim=dims, keepdim=True)
            var = conv.weight.var(dim=dims, unbiased=False, keepdim=True)
            gain = self.gain.view(-1, *(1,) * (1 + self.ndim))
            weight = (conv.weight - mean) * torch.rsqrt(var * fan_in + 1e-2) * gain
        else:
            flat = conv.weight.reshape(1, conv.out_channels, -1)
            weight = F.batch_norm(flat, None, None, self.gain * fan_in**-0.5, training=True, eps=1e-2)
            weight = weight.reshape_as(conv.weight)
        return _CONVOLVE[self.ndim - 1](x, weight, conv.bias, conv.stride, conv.padding)


def draw_standardized_conv(draw: DrawFn, signal: Signal) -> StandardizedConv:
    """Draws a convolution that reads more than one number per output channel."""
    most = LARGEST[signal.ndim]
    windows = per_axis(draw, signal, lambda a: conv_windows(signal.extents[a], strides=(1, 2), most=most))
    if signal.channels == 1 and all(window.kernel == 1 for window in windows):
        windows[-1] = Window(2, 1, 1)
    kernel, stride, padding, _ = zip(*windows, strict=True)
    spelling = draw(st.sampled_from(("batch_norm", "by hand")))
    return StandardizedConv(draw(st.integers(1, 4)), kernel, stride, padding, spelling)


def draw_channelwise(draw: DrawFn, signal: Signal) -> Node:
    """Draws an operation that keeps the size, but `InPlace`."""
    kind = draw(st.sampled_from(("gate", "affine", "partition", "shuffle", "last", "norm")))
    if kind == "gate":
        return Gate(draw(st.sampled_from(GATES)))
    if kind == "affine":
        return Affine(draw(st.sampled_from(("parameter", "buffer", "scalar", "computed", "folded", "addcmul"))))
    if kind == "partition":
        return Partition(draw(st.sampled_from(PARTITIONS)), draw(st.integers(2, 3)))
    if kind == "shuffle":
        groups = draw(st.sampled_from([g for g in (2, 3, 4, 1) if signal.channels % g == 0]))
        return ChannelShuffle(groups, draw(st.sampled_from(("view", "unflatten", "reshape"))))
    if kind == "last":
        spelling = draw(st.sampled_from(("permute", "movedim", "transpose")))
        return ChannelsLast(draw(st.sampled_from((0, 0, 3))), draw(st.booleans()), spelling)
    return LocalNorm(draw(st.integers(1, 5)), draw(st.booleans()))
