"""Random numbers that tiles share: a mask of channels, or a mask of elements as a function of their positions.

    z(n, c, y, x) = mix(seed + index of (n, c, y, x) in the full-size map x golden ratio)
    kept where z, a uniform integer of 64 bits, is not among the smallest p x 2^64

`mix` is the finalizer of SplitMix64 (Steele, Lea and Flood, Fast splittable pseudorandom number generators, 2014).
Arithmetic is in int64 and wraps, which gives the same bits as unsigned arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from streamplan.rules import Draw

_GOLDEN = 0x9E3779B97F4A7C15
_ROUNDS = ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB))
_LAST_SHIFT = 31
_BITS = 64
_CHUNK = {"cpu": 2**17}
"""Elements mixed at once: as many as a core's cache holds."""
_LARGE_CHUNK = 2**25


def draw(request: Draw, device: torch.device) -> Tensor:
    """Draw the random numbers of one call from torch's generator.

    A mask takes the numbers that torch's own operation would take, so the same seed gives the same channels.
    """
    if request.kind == "seed":
        return torch.randint(-(2**63), 2**63 - 1, (), device=device)
    shape = (*request.output.shape[:2], *(1 for _ in request.output.shape[2:]))
    ones = torch.ones(shape, dtype=request.output.dtype, device=device)
    return torch.feature_dropout(ones, request.p, train=True)


def drop(x: Tensor, seed: Tensor, p: float, shape: Sequence[int], starts: Sequence[int]) -> Tensor:
    """Elementwise dropout of a region.

    Args:
        x: The region.
        seed: Seed of this call, an integer without dimensions.
        p: Probability of a zero.
        shape: Shape of the full-size map.
        starts: Position of the region's first element in it.
    """
    if p >= 1:
        return x * 0
    return torch.mul(x, keep_mask(x, seed, p, shape, starts)).mul_(1 / (1 - p))


def scale(x: Tensor, mask: Tensor) -> Tensor:
    """A region times a mask of its channels, in its own dtype."""
    return x * mask.to(x.dtype)


def keep_mask(x: Tensor, seed: Tensor, p: float, shape: Sequence[int], starts: Sequence[int]) -> Tensor:
    """Which elements of a region are kept, as booleans in its shape and memory order."""
    order = sorted(range(x.dim()), key=lambda dim: -x.stride()[dim])
    terms = []
    for dim in order:
        step = _wrapped(math.prod(shape[dim + 1 :]) * _GOLDEN)
        terms.append(torch.arange(starts[dim], starts[dim] + x.shape[dim], device=x.device) * step)
    outer, inner = _sums(terms[:-2], x.device) + seed, _sums(terms[-2:], x.device)
    keep = torch.empty(len(outer), len(inner), dtype=torch.bool, device=x.device)
    threshold = min(round(p * 2**_BITS), 2**_BITS - 1) - 2 ** (_BITS - 1)
    rows = max(1, _CHUNK.get(x.device.type, _LARGE_CHUNK) // max(1, len(inner)))
    for row in range(0, len(outer), rows):
        torch.ge(_mix(outer[row : row + rows, None] + inner), threshold, out=keep[row : row + rows])
    return keep.view([x.shape[dim] for dim in order]).permute([order.index(dim) for dim in range(x.dim())])


def _sums(terms: Sequence[Tensor], device: torch.device) -> Tensor:
    """All sums of one entry of each term, the last term's varying fastest."""
    total = torch.zeros(1, dtype=torch.int64, device=device)
    for term in terms:
        total = (total[:, None] + term).flatten()
    return total


def _mix(z: Tensor) -> Tensor:
    """SplitMix64's finalizer, in place."""
    for shift, factor in _ROUNDS:
        z ^= _shifted(z, shift)
        z *= _wrapped(factor)
    z ^= _shifted(z, _LAST_SHIFT)
    return z


def _shifted(z: Tensor, shift: int) -> Tensor:
    """A shift to the right that fills with zeros."""
    return (z >> shift).bitwise_and_((1 << (_BITS - shift)) - 1)


def _wrapped(value: int) -> int:
    """The signed integer with the same 64 bits."""
    value &= 2**_BITS - 1
    return value - 2**_BITS if value >= 2 ** (_BITS - 1) else value
