"""Family "multi": nets with several outputs of different strides, in a tuple, list or dict."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn
from torch import Tensor, nn

from tests.strategies.draws import draw_input, draw_path, draw_recipe, draw_strides
from tests.strategies.recipe import Node, Recipe, Signal
from tests.strategies.residual import draw_residual
from tests.strategies.sequence import Chain

Container = Literal["tuple", "list", "dict"]


@dataclass(frozen=True, repr=False)
class Multi(Node):
    """Stages in a row with a tap behind some of them."""

    stages: tuple[Chain, ...]
    taps: tuple[Chain | None, ...]
    """Per stage: what its output goes through before it is returned (an empty chain: nothing), or None: no tap."""
    container: Container = "tuple"

    def after(self, signal: Signal) -> Signal:
        return self.outputs(signal)[-1]

    def outputs(self, signal: Signal) -> tuple[Signal, ...]:
        outputs = []
        for stage, tap in zip(self.stages, self.taps, strict=True):
            signal = stage.after(signal)
            if tap is not None:
                outputs.append(tap.after(signal))
        return tuple(outputs)

    def module(self, signal: Signal) -> nn.Module:
        return _MultiModule(self, signal)


class _MultiModule(nn.Module):
    def __init__(self, recipe: Multi, signal: Signal) -> None:
        super().__init__()
        self.container = recipe.container
        self.stages = nn.ModuleList()
        self.taps = nn.ModuleDict()
        for i, (stage, tap) in enumerate(zip(recipe.stages, recipe.taps, strict=True)):
            self.stages.append(stage.module(signal))
            signal = stage.after(signal)
            if tap is not None:
                self.taps[f"stage{i}"] = tap.module(signal)

    def forward(self, x: Tensor) -> tuple[Tensor, ...] | list[Tensor] | dict[str, Tensor]:
        outputs: dict[str, Tensor] = {}
        for i, stage in enumerate(self.stages):
            x = stage(x)
            if f"stage{i}" in self.taps:
                outputs[f"stage{i}"] = self.taps[f"stage{i}"](x)
        if self.container == "dict":
            return outputs
        return tuple(outputs.values()) if self.container == "tuple" else list(outputs.values())


@st.composite
def multi_nets(draw: DrawFn, ndims: Sequence[int] = (1, 2, 3)) -> Recipe:
    """Two to four stages with at least two taps, one of them behind the last stage."""
    signal = draw_input(draw, ndims)
    num_stages = draw(st.integers(2, 4))
    always = {draw(st.integers(0, num_stages - 2)), num_stages - 1}
    stages: list[Chain] = []
    taps: list[Chain | None] = []
    here = signal
    for i in range(num_stages):
        stage = draw_path(draw, here, draw(st.integers(1, 2)), strides=draw_strides(draw, here))
        here = stage.after(here)
        if draw(st.integers(0, 3)) == 3:
            stage = Chain((*stage.parts, draw_residual(draw, here)))
            here = stage.parts[-1].after(here)
        stages.append(stage)
        is_tapped = i in always or draw(st.booleans())
        has_tap_ops = is_tapped and draw(st.booleans())
        tap = draw_path(draw, here, 1, target=draw(st.sampled_from([here.extents, None]))) if has_tap_ops else Chain(())
        taps.append(tap if is_tapped else None)
    body = Multi(tuple(stages), tuple(taps), draw(st.sampled_from(["tuple", "list", "dict"])))
    return draw_recipe(draw, "multi", signal, body, with_head=False)
