"""How many examples a test draws: all that it states, or the share that the profile of this run asks for."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import seed, settings

_MOST_ROUNDS = 30


def num_examples(stated: int) -> int:
    """The number of examples to draw where all would be `stated`, and at least 3; the profile's is a percentage."""
    return max(3, stated * settings.default.max_examples // 100)


def draw_until(check: Callable[[], None], is_enough: Callable[[], bool]) -> None:
    """Run a hypothesis test, and again with other seeds until what it has seen is enough.

    Some of what is drawn tests little, such as an image that one tile holds. A test that counts the others draws more
    of them rather than leave its verdict to chance: if each example counts with probability p, and a round draws n, it
    fails with that of fewer than enough among 30 n: below 1e-6 for p = 0.15, n = 3 and 1 that is enough.
    """
    check()
    for number in range(1, _MOST_ROUNDS):
        if is_enough():
            return
        seed(number)(check)()
    assert is_enough(), f"what was drawn in {_MOST_ROUNDS} rounds does not count"
