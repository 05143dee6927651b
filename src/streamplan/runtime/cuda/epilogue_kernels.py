"""`epilogue` as Triton kernels, for channels-last maps in two dimensions, which may be part of larger ones.

A map is read as positions x channels; position p lies in row p // columns, and rows are where the strides of batch and
rows say. Each program takes BLOCK positions and some channels, and does so STEPS times in a row, so that a bias is
read once and a sum over positions is written once per program:

    positions   0 .. BLOCK | BLOCK .. 2 BLOCK | ...      program 0: the first STEPS blocks, program 1: the next ...
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_ELEMENTS = 4096
"""Of a block."""
_STEPS = 8
"""Blocks that a program takes one after the other."""
_MAX_CHANNELS = 256
"""Of a block."""


@triton.jit
def _offset(p, rows, columns, batch_stride, row_stride, column_stride):  # type: ignore[no-untyped-def]
    row = p // columns
    batch = row // rows
    inside = (row - batch * rows).to(tl.int64) * row_stride + (p - row * columns).to(tl.int64) * column_stride
    return batch.to(tl.int64) * batch_stride + inside


@triton.jit
def _rectify(  # type: ignore[no-untyped-def]
    out, y, bias, addend, count, rows, columns, channels,
    out_batch, out_row, out_column, y_batch, y_row, y_column, z_batch, z_row, z_column,
    HAS_BIAS: tl.constexpr, HAS_ADDEND: tl.constexpr,
    BLOCK: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    b = tl.zeros([CHANNELS], tl.float32)
    if HAS_BIAS:
        b = tl.load(bias + c, mask=inside, other=0).to(tl.float32)
    start = tl.program_id(0) * (BLOCK * STEPS)
    for step in range(STEPS):
        p = start + step * BLOCK + tl.arange(0, BLOCK)
        mask = (p < count)[:, None] & inside[None, :]
        x = tl.load(y + _offset(p, rows, columns, y_batch, y_row, y_column)[:, None] + c[None, :], mask=mask, other=0)
        x = x.to(tl.float32) + b[None, :]
        if HAS_ADDEND:
            z = addend + _offset(p, rows, columns, z_batch, z_row, z_column)[:, None] + c[None, :]
            x += tl.load(z, mask=mask, other=0).to(tl.float32)
        x = tl.where(x <= 0, 0.0, x)  # NaN is not
        target = out + _offset(p, rows, columns, out_batch, out_row, out_column)[:, None] + c[None, :]
        tl.store(target, x.to(out.dtype.element_ty), mask=mask)


@triton.jit
def _mask(  # type: ignore[no-untyped-def]
    masked, gradient, out, totals, count, rows, columns, channels,
    g_batch, g_row, g_column, o_batch, o_row, o_column,
    HAS_SUM: tl.constexpr, BLOCK: tl.constexpr, CHANNELS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    c = tl.program_id(1) * CHANNELS + tl.arange(0, CHANNELS)
    inside = c < channels
    total = tl.zeros([CHANNELS], tl.float32)
    start = tl.program_id(0) * (BLOCK * STEPS)
    for step in range(STEPS):
        p = start + step * BLOCK + tl.arange(0, BLOCK)
        mask = (p < count)[:, None] & inside[None, :]
        g = gradient + _offset(p, rows, columns, g_batch, g_row, g_column)[:, None] + c[None, :]
        o = out + _offset(p, rows, columns, o_batch, o_row, o_column)[:, None] + c[None, :]
        arrived = tl.load(g, mask=mask, other=0)
        passed = tl.where(tl.load(o, mask=mask, other=0) <= 0, tl.zeros_like(arrived), arrived)
        tl.store(masked + p.to(tl.int64)[:, None] * channels + c[None, :], passed, mask=mask)
        if HAS_SUM:
            total += tl.sum(passed.to(tl.float32), 0)
    if HAS_SUM:
        tl.store(totals + tl.program_id(0) * channels + c, total, mask=inside)


def rectify(out: Tensor, y: Tensor, bias: Tensor | None, addend: Tensor | None) -> None:
    """See `epilogue.rectify_into`."""
    count, rows, columns, channels, grid, blocks = _shape(y)
    z = y if addend is None else addend
    with torch.cuda.device(out.device):  # Triton asks for the current one
        _rectify[grid](
            out, y, y if bias is None else bias, z, count, rows, columns, channels,
            *_strides(out), *_strides(y), *_strides(z),
            HAS_BIAS=bias is not None, HAS_ADDEND=addend is not None, **blocks,
        )  # fmt: skip


def mask(gradient: Tensor, out: Tensor, *, wants_sum: bool) -> tuple[Tensor, Tensor | None]:
    """See `epilogue.rectified_gradient`."""
    count, rows, columns, channels, grid, blocks = _shape(out)
    masked = torch.empty(out.shape, dtype=gradient.dtype, device=out.device, memory_format=torch.channels_last)
    totals = torch.empty((grid[0], channels) if wants_sum else (1,), dtype=torch.float32, device=out.device)
    with torch.cuda.device(out.device):
        _mask[grid](
            masked, gradient, out, totals, count, rows, columns, channels, *_strides(gradient), *_strides(out),
            HAS_SUM=wants_sum, **blocks,
        )  # fmt: skip
    return masked, totals.sum(0) if wants_sum else None


def _shape(x: Tensor) -> tuple[int, int, int, int, tuple[int, int], dict[str, int]]:
    """Positions, rows, columns and channels; programs; and the shape of their blocks."""
    batch, channels, rows, columns = x.shape
    width = min(_MAX_CHANNELS, triton.next_power_of_2(channels))
    block = _ELEMENTS // width
    count = batch * rows * columns
    grid = (triton.cdiv(count, block * _STEPS), triton.cdiv(channels, width))
    return count, rows, columns, channels, grid, {"BLOCK": block, "CHANNELS": width, "STEPS": _STEPS}


def _strides(x: Tensor) -> tuple[int, int, int]:
    """Of batch, rows and columns."""
    return x.stride(0), x.stride(2), x.stride(3)
