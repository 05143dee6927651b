"""Whether one computation rounds as finely as another, judged so that no processor's kernels can decide it.

Two computations in low precision that round alike have errors of about the same size, but which of them comes out
larger is chance: it changes with the order in which a kernel sums, hence with the processor and the number of threads.
So errors are compared over several draws of weights and images, and only their median counts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import torch
from torch import Tensor

MOST = 1.1
"""The largest median of the ratios of two errors that counts as rounding as finely."""
_MOST_DRAWS = 40
_FEWEST_WITHIN = 6
"""A test fails if fewer of the draws are within `MOST`.

If the median of a ratio is at most `MOST`, a draw is within with a probability of one half or more, whatever the
distribution, so that fewer than 6 of 40 independent draws are with one of at most
(1 + 40 + 780 + 9,880 + 91,390 + 658,008) / 2^40 = 7e-7. With kernels for AVX2 and AVX-512, means were 0.95 to 1.02
and standard deviations of logarithms at most 0.16, with which it is below 1e-10."""


def relative_error(found: dict[str, Tensor], exact: dict[str, Tensor], names: Iterable[str]) -> float:
    """Root of the mean of squares of the relative errors of some tensors; those that are zero do not count."""
    squares = [
        ((found[n].double() - exact[n]).norm() / exact[n].norm()).square() for n in names if exact[n].norm() > 1e-6
    ]
    return float(torch.stack(squares).mean().sqrt())


def error_ratios(
    found: dict[str, Tensor], whole: dict[str, Tensor], exact: dict[str, Tensor], outputs: Iterable[str] = ("output",)
) -> dict[str, float]:
    """Errors of one step relative to those of another: of outputs, and of all other tensors together."""
    groups = {"outputs": list(outputs), "gradients": [name for name in exact if name not in outputs]}
    return {
        group: relative_error(found, exact, names) / relative_error(whole, exact, names)
        for group, names in groups.items()
    }


def assert_rounds_as_finely(draw: Callable[[int], dict[str, float]]) -> None:
    """Raise if the median of a ratio of errors is above `MOST`.

    Args:
        draw: Makes weights and data of a seed, each seed others, and returns ratios of errors by name.
    """
    within: Counter[str] = Counter()
    ratios = []
    for seed in range(_MOST_DRAWS):
        ratios.append(draw(seed))
        within.update(name for name, ratio in ratios[-1].items() if ratio <= MOST)
        if all(within[name] >= _FEWEST_WITHIN for name in ratios[-1]):
            return
    raise AssertionError(f"fewer than {_FEWEST_WITHIN} of {_MOST_DRAWS} draws within {MOST}: {ratios}")
