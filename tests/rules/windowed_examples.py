"""Examples of convolutions, pools, padding, resizing and slices."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.rules.spellings import SIZE_1D, SIZE_2D, SIZE_3D, Example, example, function

_CONVOLUTIONS = [
    example("conv", "k3 1-D", lambda: nn.Conv1d(3, 2, 3, padding=1), SIZE_1D),
    example("conv", "k3 2-D", lambda: nn.Conv2d(3, 2, 3, padding=1)),
    example("conv", "k3 3-D", lambda: nn.Conv3d(3, 2, 3, padding=1), SIZE_3D),
    example("conv", "k4 s3 d2 p5", lambda: nn.Conv1d(3, 2, 4, stride=3, padding=5, dilation=2), SIZE_1D),
    example("conv", "k1 p1, windows in padding", lambda: nn.Conv2d(3, 2, 1, padding=1)),
    example("conv", "k1 p3 s2, windows in padding", lambda: nn.Conv1d(3, 2, 1, padding=3, stride=2), SIZE_1D),
    example("conv", "stride beyond kernel", lambda: nn.Conv1d(3, 2, 2, stride=4), SIZE_1D),
    example("conv", "anisotropic", lambda: nn.Conv2d(3, 2, (1, 4), stride=(2, 1), padding=(0, 2), bias=False)),
    example("conv", "same, even kernel", lambda: nn.Conv1d(3, 2, 4, padding="same", dilation=3), SIZE_1D),
    example("conv", "same 2-D", lambda: nn.Conv2d(3, 2, (2, 3), padding="same", dilation=(1, 2))),
    example("conv", "valid", lambda: nn.Conv2d(3, 2, 3, padding="valid")),
    example("conv", "circular", lambda: nn.Conv2d(3, 2, 3, padding=(1, 2), padding_mode="circular")),
    example("conv", "reflect", lambda: nn.Conv1d(3, 2, 5, padding=3, stride=2, padding_mode="reflect"), SIZE_1D),
    example("conv", "depthwise", lambda: nn.Conv2d(3, 6, 3, padding=1, groups=3)),
    function("conv", "functional", lambda net, x: F.conv2d(x, net.w, stride=2, padding=(1, 0)), w=(2, 3, 3, 2)),
]

_TRANSPOSED = [
    example("conv_transpose", "k2 s2 1-D", lambda: nn.ConvTranspose1d(3, 2, 2, stride=2), SIZE_1D),
    example(
        "conv_transpose", "k3 s2 p1 op1", lambda: nn.ConvTranspose2d(3, 2, 3, 2, 1, output_padding=1), (2, 3, 4, 5)
    ),
    example(
        "conv_transpose", "3-D", lambda: nn.ConvTranspose3d(3, 2, (1, 3, 2), (1, 2, 2), (0, 1, 0)), (2, 3, 3, 2, 3)
    ),
    example("conv_transpose", "gaps", lambda: nn.ConvTranspose1d(3, 2, 2, stride=4, output_padding=3), SIZE_1D),
    example("conv_transpose", "k1 s3 gaps", lambda: nn.ConvTranspose1d(3, 2, 1, stride=3, output_padding=2), SIZE_1D),
    example("conv_transpose", "dilation", lambda: nn.ConvTranspose1d(3, 2, 3, 2, 2, dilation=3), SIZE_1D),
    example("conv_transpose", "gaps by dilation", lambda: nn.ConvTranspose1d(3, 2, 2, 3, 0, dilation=4), SIZE_1D),
    example("conv_transpose", "stride 1", lambda: nn.ConvTranspose1d(3, 2, 4, 1, 2), SIZE_1D),
    example(
        "conv_transpose", "groups, no bias", lambda: nn.ConvTranspose2d(4, 6, 3, 2, groups=2, bias=False), (2, 4, 3, 5)
    ),
    function(
        "conv_transpose", "functional", lambda net, x: F.conv_transpose1d(x, net.w, stride=3), SIZE_1D, w=(3, 2, 2)
    ),
    example("pixel_shuffle", "r3", lambda: nn.PixelShuffle(3), (2, 9, 3, 4)),
    function("pixel_shuffle", "functional r2", lambda net, x: F.pixel_shuffle(x, 2), (2, 4, 5, 3)),
    example("pixel_unshuffle", "r3", lambda: nn.PixelUnshuffle(3), (2, 2, 6, 9)),
    function("pixel_unshuffle", "functional r2", lambda net, x: F.pixel_unshuffle(x, 2), (2, 3, 6, 4)),
]

_POOLS = [
    example("max_pool", "1-D", lambda: nn.MaxPool1d(3, 2, 1), SIZE_1D),
    example("max_pool", "3-D", lambda: nn.MaxPool3d((1, 2, 3), (1, 2, 2), (0, 1, 1)), SIZE_3D),
    example("max_pool", "ceil", lambda: nn.MaxPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 8)),
    example("max_pool", "ceil overhang", lambda: nn.MaxPool1d(2, 3, ceil_mode=True), (2, 3, 10)),
    example("max_pool", "dilation", lambda: nn.MaxPool2d(2, 2, 1, dilation=3)),
    function("max_pool", "functional, default stride", lambda net, x: F.max_pool2d(x, (2, 3))),
    example("avg_pool", "1-D", lambda: nn.AvgPool1d(3, 2, 1), SIZE_1D),
    example("avg_pool", "1-D exclude", lambda: nn.AvgPool1d(4, 3, 2, count_include_pad=False), SIZE_1D),
    example("avg_pool", "ceil include", lambda: nn.AvgPool2d(3, 2, 1, ceil_mode=True), (2, 3, 6, 8)),
    example("avg_pool", "ceil exclude", lambda: nn.AvgPool2d(3, 2, 1, True, False), (2, 3, 6, 8)),
    example("avg_pool", "ceil, no padding", lambda: nn.AvgPool1d(3, 4, 0, ceil_mode=True), (2, 3, 10)),
    example("avg_pool", "3-D exclude", lambda: nn.AvgPool3d(2, 2, 1, False, False), SIZE_3D),
    example("avg_pool", "divisor", lambda: nn.AvgPool2d(3, 2, 1, divisor_override=5)),
    function("avg_pool", "functional", lambda net, x: F.avg_pool2d(x, 2, (1, 2))),
    example("adaptive_avg_pool", "own size", lambda: nn.AdaptiveAvgPool2d((7, 9))),
    function("adaptive_avg_pool", "None", lambda net, x: F.adaptive_avg_pool2d(x, (None, 9))),
    example("adaptive_max_pool", "own size", lambda: nn.AdaptiveMaxPool1d(11), SIZE_1D),
]

_PADS = [
    example("pad", "zero 1-D", lambda: nn.ZeroPad1d((2, 3)), SIZE_1D),
    example("pad", "constant 2-D", lambda: nn.ConstantPad2d((1, 0, 2, 3), -1.5)),
    example("pad", "constant 3-D", lambda: nn.ConstantPad3d(1, 0.5), SIZE_3D),
    example("pad", "reflect 1-D", lambda: nn.ReflectionPad1d((4, 2)), SIZE_1D),
    example("pad", "reflect widest", lambda: nn.ReflectionPad1d((10, 10)), SIZE_1D),
    example("pad", "reflect 2-D", lambda: nn.ReflectionPad2d((1, 3, 2, 0))),
    example("pad", "reflect 3-D", lambda: nn.ReflectionPad3d((1, 2, 0, 1, 3, 1)), SIZE_3D),
    example("pad", "replicate 2-D", lambda: nn.ReplicationPad2d((5, 1, 0, 2))),
    example("pad", "circular 1-D", lambda: nn.CircularPad1d((3, 5)), SIZE_1D),
    example("pad", "circular 2-D", lambda: nn.CircularPad2d((1, 2, 3, 0))),
    function("pad", "crop", lambda net, x: F.pad(x, (-2, -1, 1, -3))),
    function("pad", "crop one end, fill the other", lambda net, x: F.pad(x, (-4, 6), value=2.0), SIZE_1D),
    function("pad", "far beyond", lambda net, x: F.pad(x, (7, 9)), (2, 3, 4)),
    function("pad", "channels too", lambda net, x: F.pad(x, (1, 1, 0, 0, 2, 1), value=0.25)),
    function("pad", "reflect function", lambda net, x: F.pad(x, (2, 2, 1, 1), mode="reflect")),
]


def _resize(name: str, input_size: tuple[int, ...], /, **options: object) -> Example:
    return function("interpolate", name, lambda net, x: F.interpolate(x, **options), input_size)


_RESIZES = [
    _resize("nearest x2", SIZE_2D, scale_factor=2),
    _resize("nearest size", SIZE_2D, size=(13, 4)),
    # In one axis and float64, torch's own backward disagrees with its forward here; in two axes it does not.
    _resize("nearest 2 to 82", (1, 2, 2, 3), size=(82, 3)),
    _resize("nearest scale 1.3", (1, 2, 5, 7), scale_factor=1.3),
    _resize("nearest scale 0.4", (1, 2, 9, 11), scale_factor=(0.4, 0.7)),
    _resize("nearest recompute", (1, 2, 9), scale_factor=1.7, recompute_scale_factor=True),
    _resize("nearest-exact 2 to 41", (1, 2, 2, 4), size=(41, 4), mode="nearest-exact"),
    _resize("nearest-exact 1-D", SIZE_1D, size=17, mode="nearest-exact"),
    _resize("nearest 3-D", (1, 2, 3, 2, 4), scale_factor=2),
    _resize("linear x2", SIZE_1D, scale_factor=2, mode="linear"),
    _resize("linear size", SIZE_1D, size=29, mode="linear"),
    _resize("linear down", SIZE_1D, size=4, mode="linear"),
    _resize("linear scale 1.3", SIZE_1D, scale_factor=1.3, mode="linear"),
    _resize("linear scale 1.3 recompute", SIZE_1D, scale_factor=1.3, mode="linear", recompute_scale_factor=True),
    _resize("linear corners", SIZE_1D, size=29, mode="linear", align_corners=True),
    _resize("linear corners to 1", SIZE_1D, size=1, mode="linear", align_corners=True),
    _resize("linear from 1", (2, 3, 1), size=5, mode="linear"),
    _resize("bilinear", SIZE_2D, size=(12, 5), mode="bilinear"),
    _resize("bilinear one axis kept", SIZE_2D, size=(7, 20), mode="bilinear"),
    _resize("bilinear corners", SIZE_2D, scale_factor=2, mode="bilinear", align_corners=True),
    _resize("trilinear", (1, 2, 3, 4, 3), size=(5, 3, 6), mode="trilinear"),
    example("interpolate", "Upsample", lambda: nn.Upsample(scale_factor=2, mode="bilinear", align_corners=True)),
    example("interpolate", "UpsamplingNearest2d", lambda: nn.UpsamplingNearest2d(scale_factor=3), (1, 2, 3, 4)),
]

_SLICES = [
    function("slice", "crop", lambda net, x: x[:, :, 1:-2, 3:]),
    function("slice", "step", lambda net, x: x[:, :, 1::3], SIZE_1D),
    function("slice", "ellipsis, step", lambda net, x: x[..., ::2]),
    function("slice", "channels", lambda net, x: x[:, 1:] * x[:, :2]),
    function("slice", "channel step", lambda net, x: x[:, ::2]),
    function("slice", "one channel", lambda net, x: torch.tanh(x[:, -1])),
    function("slice", "one image", lambda net, x: x[1]),
    function(
        "slice", "space to depth", lambda net, x: torch.cat([x[..., ::2, ::2], x[..., 1::2, 1::2]], 1), (2, 3, 6, 8)
    ),
    function("slice", "narrow", lambda net, x: x.narrow(2, 2, 4)),
    function("slice", "select", lambda net, x: x.select(1, 0)),
    function("slice", "chunk", lambda net, x: torch.mul(*x.chunk(2, 1)), (2, 4, 5, 3)),
    function("slice", "chunk, odd", lambda net, x: x.chunk(2, dim=1)[1]),
    function("slice", "split", lambda net, x: x.split([1, 2], dim=1)[1]),
    function("slice", "split of an axis", lambda net, x: sum(torch.split(x, 4, dim=-1)), (2, 3, 8)),
    function("slice", "unbind", lambda net, x: x.unbind(1)[2] - x.unbind(1)[0]),
]

WINDOWED = (*_CONVOLUTIONS, *_TRANSPOSED, *_POOLS, *_PADS, *_RESIZES, *_SLICES)
