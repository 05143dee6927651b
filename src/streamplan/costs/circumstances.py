"""What a projection depends on besides cut, tiles and halo, from the options."""

from __future__ import annotations

from torch import nn

from streamplan.costs.phases import Circumstances
from streamplan.options import OPTIMIZER_STATES, Options


def circumstances_of(options: Options, optimizer_bytes: int, keep_tiles: int, carries: str) -> Circumstances:
    """What is kept where.

    Args:
        options: They say where the image is.
        optimizer_bytes: State that the optimiser keeps.
        keep_tiles: Tiles that are not computed again.
        carries: Where carried samples wait.
    """
    return Circumstances(
        keep_tiles=keep_tiles,
        are_carries_on_host=carries == "host",
        is_image_on_host=options.image == "host",
        optimizer_bytes=optimizer_bytes,
    )


def count_optimizer_bytes(options: Options, model: nn.Module) -> int:
    """State that the optimiser keeps of the trained parameters."""
    trained = sum(p.numel() * p.element_size() for p in model.parameters() if p.requires_grad)
    return OPTIMIZER_STATES[options.optimizer] * trained
