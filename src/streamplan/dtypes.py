"""Dtypes: which numbers have gradients, and what they become in another precision.

in_precision(torch.complex64, torch.float64)  ->  torch.complex128
in_precision(torch.uint8, torch.float64)      ->  torch.uint8
"""

from __future__ import annotations

import torch


def is_differentiable(dtype: torch.dtype) -> bool:
    """Whether tensors of a dtype may carry gradients: they are floating-point or complex numbers."""
    return dtype.is_floating_point or dtype.is_complex


def in_precision(dtype: torch.dtype, precision: torch.dtype) -> torch.dtype:
    """A dtype with real and imaginary parts in another precision.

    Args:
        dtype: Any dtype; integers and bools are kept.
        precision: A floating-point dtype.
    """
    if dtype.is_complex:
        return precision.to_complex()
    return precision if dtype.is_floating_point else dtype
