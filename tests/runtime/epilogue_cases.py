"""Maps for what follows a convolution, and what must come out, in float64."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

SHAPES = ((1, 64, 5, 37), (2, 3, 4, 5), (1, 200, 3, 3), (1, 320, 2, 9), (3, 1, 1, 1), (1, 8, 70, 33))


@dataclass(frozen=True)
class Case:
    """Operands, and part of a larger map to write to."""

    y: Tensor
    bias: Tensor | None
    addend: Tensor | None
    out: Tensor

    @property
    def expected(self) -> Tensor:
        """The result in float64."""
        total = self.y.double()
        if self.bias is not None:
            total = total + self.bias.double().view(1, -1, 1, 1)
        if self.addend is not None:
            total = total + self.addend.double()
        return torch.relu(total)


def cases(device: torch.device, dtype: torch.dtype) -> Iterator[Case]:
    """With and without bias and addend, dense and inside of larger maps, with NaN and infinities."""
    generator = torch.Generator().manual_seed(0)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    for batch, channels, rows, columns in SHAPES:
        for has_bias, has_addend, is_part in [(b, a, p) for b in (0, 1) for a in (0, 1) for p in (0, 1)]:
            y = draw(batch, channels, rows, columns).contiguous(memory_format=torch.channels_last)
            y[0, 0, 0, 0], y[-1, -1, -1, -1] = float("nan"), float("inf")
            margin = 3 * is_part
            larger = draw(batch, channels, rows + margin, columns + margin)
            larger = larger.contiguous(memory_format=torch.channels_last)
            addend = draw(batch, channels, rows + margin, columns + margin).contiguous(
                memory_format=torch.channels_last
            )
            part = (..., slice(margin, None), slice(margin - is_part, columns + margin - is_part))
            yield Case(y, draw(channels) if has_bias else None, addend[part] if has_addend else None, larger[part])
