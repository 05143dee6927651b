"""Rules that users write: a function that computes a region, and what it reads.

    k=3 s=2 p=1:   out [1, 3) reads [1, 6):  run(x[..., 1:6], ...) returns 2 positions
                   out [0, 2) reads [0, 4):  run(border, x[..., 0:4], ...) returns 2 positions

`run` gets the region that the window says is read, with the border already in place where the map ends, so it never
pads. Its other parameters are found by name: among the arguments of the call, then among the attributes of the module.
A tensor arrives as a tensor with exact gradients, anything else as the constant it was when the plan was made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from operator import attrgetter
from types import MappingProxyType, SimpleNamespace
from typing import Any, Literal, get_args

import torch

from streamplan.checks import is_one_of, shown
from streamplan.errors import RuleTargetError
from streamplan.geometry import AxisMap, FoldedPadding, FoldedWindow, Interval
from streamplan.ir import Argument, AttributeRef, ValueRef
from streamplan.rules.arguments import per_axis
from streamplan.rules.base import POINTWISE, CodeWriter, Locality, Rule, RuleContext, Verdict
from streamplan.rules.counting import count_window
from streamplan.rules.settings import (
    FOLDS,
    WINDOW,
    Setting,
    WindowSettings,
    describe_settings,
    is_plain,
    plain,
    windows_of,
)

Layout = Literal["channels_first", "channels_last", "any"]
"""Where the image axes of the maps stand: behind batch and channels, between them, or anywhere."""

_REFUSED = "rule.refused"


@dataclass(frozen=True, eq=False)
class LocalRule(Rule):
    """A rule made of a function that computes a region; see `pointwise` and `windowed`."""

    run: Callable[..., torch.Tensor] | None
    """Computes the call on a region; None stands for the registered function itself."""
    window: WindowSettings | None = None
    """What one position reads; None for the same position."""
    attributes: Mapping[str, str | Callable[[Any], Any]] = field(default_factory=dict)
    """Parameters of `run` that do not go by their own names."""
    layout: Layout = "channels_first"
    """Where the image axes must stand."""
    refuse: Callable[[Any], str | None] | None = None
    """Says why a module, or a call of a function, is not local after all."""

    joins_maps = True

    def __post_init__(self) -> None:
        """Check what does not depend on a call.

        Raises:
            RuleTargetError: A part of the rule is not what it must be.
        """
        for name, value in (("run", self.run), ("refuse", self.refuse)):
            if value is not None and not callable(value):
                raise RuleTargetError(
                    f"{name}={shown(value)} cannot be called",
                    why=f"{name} is a function",
                    do="pass a function, or None",
                )
        if not is_one_of(self.layout, get_args(Layout)):
            raise RuleTargetError(
                f"layout={shown(self.layout)} is not known",
                why="it says where the image axes stand",
                do=f"pass one of {', '.join(map(repr, get_args(Layout)))}",
            )
        if not _are_attributes(self.attributes):
            raise RuleTargetError(
                f"attributes={shown(self.attributes)} do not say where parameters of run are found",
                why="each is the name of a parameter, and an attribute's path or a function that returns its value",
                do='pass a dict such as {"weight": "conv.weight"}',
            )
        object.__setattr__(self, "attributes", dict(self.attributes))

    @classmethod
    def pointwise(
        cls,
        run: Callable[..., torch.Tensor] | None = None,
        *,
        attributes: Mapping[str, str | Callable[[Any], Any]] = MappingProxyType({}),
        layout: Layout = "channels_first",
        refuse: Callable[[Any], str | None] | None = None,
    ) -> LocalRule:
        """A rule for what reads the same position of each map.

        Args:
            run: Takes a region of the first argument and computes the same region of the result. Its other parameters
                are found by name, among the arguments of the call and then among the attributes of the module; one that
                is not found keeps its default. None runs the registered function itself.
            attributes: Parameter of `run` to dotted path of an attribute (`{"weight": "conv.weight"}`), or to a
                callable that takes the module, or the arguments of a function's call as a namespace, and returns a
                plain value.
            layout: Where the image axes stand: "channels_first" is (batch, channels, axis 0, ...), "channels_last"
                is (batch, axis 0, ..., channels), "any" is for functions that treat every dimension alike.
            refuse: Takes what the callables in `attributes` take; returns the reason why this module or call must not
                be streamed, or None.
        """
        return cls(run, None, attributes, layout, refuse)

    @classmethod
    def windowed(  # noqa: PLR0913 - a window has as many settings
        cls,
        run: Callable[..., torch.Tensor] | None,
        *,
        kernel: Setting,
        stride: Setting = 1,
        padding: Setting = 0,
        dilation: Setting = 1,
        border: Setting = 0.0,
        attributes: Mapping[str, str | Callable[[Any], Any]] = MappingProxyType({}),
        layout: Layout = "channels_first",
        refuse: Callable[[Any], str | None] | None = None,
    ) -> LocalRule:
        """A rule for what reads a window, like a convolution or a pooling.

        Output position `o` reads the input positions `o * stride - padding + dilation * j`, `j` from 0 to `kernel - 1`.
        The settings are one integer, one per axis, or a callable that takes the module (of a function: the arguments
        of the call as a namespace, tensors by shape and dtype) and returns them.

        Args:
            run: Takes a region of the first argument, border included, and returns the positions whose windows lie
                inside it: the operation without padding. Further parameters are found as in `pointwise`.
            kernel: Samples that one position reads along an axis.
            stride: Samples between the windows of neighbouring positions.
            padding: Samples of border before each axis.
            dilation: Samples between those that one position reads.
            border: What the border is made of: a number, or "zeros", "reflect", "replicate" or "circular".
            attributes: See `pointwise`.
            layout: See `pointwise`.
            refuse: See `pointwise`.
        """
        window = WindowSettings(kernel, stride, padding, dilation, border)
        return cls(run, window, attributes, layout, refuse)

    @property
    def identity(self) -> str:  # type: ignore[override]
        """Kind, layout and the name of `run`."""
        name = getattr(self.run, "__qualname__", type(self.run).__qualname__)
        kind = "pointwise" if self.window is None else "windowed"
        return f"{kind} {self.layout} {getattr(self.run, '__module__', '')}.{name}"

    def bound_to(self, function: Callable[..., torch.Tensor]) -> LocalRule:
        """This rule with `function` in place of an absent `run`."""
        return self if self.run is not None else replace(self, run=function)

    @cached_property
    def parameters(self) -> tuple[inspect.Parameter, ...]:
        """Parameters of `run` after the first."""
        assert self.run is not None
        try:
            known = list(inspect.signature(self.run).parameters.values())[1:]
        except ValueError:  # a function of C that does not tell
            return tuple(inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in self.attributes)
        return tuple(p for p in known if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD))

    def read_call(
        self, module: torch.nn.Module | None, path: str, bound: Mapping[str, Argument], specs: Mapping[str, Any]
    ) -> dict[str, Argument]:
        """The canonical arguments of a call.

        Args:
            module: The module that is called; None for a function.
            path: Its path in the model.
            bound: Arguments of the call by name, the map first.
            specs: The same with a `TensorSpec` in place of each tensor.

        Returns:
            `input`, what `run` takes by name, and the settings of the window.

        Raises:
            LookupError: A parameter of `run` is not found.
            TypeError, ValueError: A value cannot be a constant of the program, or a setting of the window.
        """
        subject = SimpleNamespace(**specs) if module is None else module
        first, *others = bound
        reason = self.refuse(subject) if self.refuse is not None else None
        if reason:
            return {"input": bound[first], **{name: bound[name] for name in others}, _REFUSED: str(reason)}
        found: dict[str, Argument] = {"input": bound[first]}
        for parameter in self.parameters:
            source = self.attributes.get(parameter.name, parameter.name)
            if callable(source):
                found[parameter.name] = plain(source(subject))
            elif source in others:
                found[parameter.name] = bound[source]
            elif module is not None and (parameter.name in self.attributes or hasattr(module, source)):
                found[parameter.name] = _attribute(module, path, source)
            elif parameter.default is parameter.empty:
                raise LookupError(f"`run` takes {source!r}, which is neither an argument of the call nor an attribute")
        if self.window is not None:
            found[WINDOW] = self.window.resolve(subject)
        return found

    def classify(self, ctx: RuleContext) -> Verdict:
        """As declared, where the maps have the declared layout."""
        problem = ctx.call.arguments.get(_REFUSED) or self._layout_problem(ctx)
        if problem:
            return Verdict(Locality.UNKNOWN, problem)
        if self.window is None:
            extents = tuple(ctx.output.shape[dim] for dim in ctx.first_map.dims)
            if extents != ctx.first_map.extents:
                return Verdict(Locality.UNKNOWN, "its rule is pointwise, but its result has other extents than its map")
            return POINTWISE
        problem = self._window_problem(ctx)
        return Verdict(Locality.UNKNOWN, problem) if problem else Verdict(Locality.WINDOWED, describe_settings(ctx))

    def _layout_problem(self, ctx: RuleContext) -> str:
        rank, dims = len(ctx.first_map.shape), ctx.first_map.dims
        if any((spec.dims, spec.extents) != (dims, ctx.first_map.extents) for spec in ctx.maps.values()):
            return "its maps differ in their extents, or in which dimensions are the image's"
        if len(ctx.output.shape) != rank or any(len(spec.shape) != rank for spec in ctx.maps.values()):
            return f"its rule is for results of {rank} dimensions, like its map"
        start = {"channels_first": 2, "channels_last": 1}.get(self.layout)
        if start is not None and dims != tuple(range(start, start + rank - 2)):
            return f"its rule is for {self.layout.replace('_', '-')} maps"
        return ""

    def _window_problem(self, ctx: RuleContext) -> str:
        *settings, border = ctx.call.arguments[WINDOW]
        if any(isinstance(value, tuple) and len(value) not in (1, ctx.num_axes) for value in settings):
            return f"its window is not one of {ctx.num_axes} axes"
        if border not in FOLDS:
            return ""
        if len(ctx.maps) > 1:
            return f"no rule for several maps with a {border} border"
        for window, dim in zip(windows_of(ctx), ctx.first_map.dims, strict=True):
            pulled, extent = window.pull(Interval(0, ctx.output.shape[dim])), ctx.first_map.shape[dim]
            reach = extent - 1 if border == "reflect" else extent
            if max(-pulled.start, pulled.stop - extent) > reach:
                return f"its {border} border is wider than the map"
        return ""

    def axis_maps(self, ctx: RuleContext, name: str) -> tuple[AxisMap, ...]:
        """The same position, or the window."""
        if self.window is None:
            return super().axis_maps(ctx, name)
        border, extents = ctx.call.arguments[WINDOW][-1], ctx.maps[name].extents
        if border not in FOLDS:
            return windows_of(ctx)
        pairs = zip(windows_of(ctx), extents, strict=True)
        return tuple(FoldedWindow(window, FoldedPadding(0, extent, border)) for window, extent in pairs)

    def emit(self, ctx: RuleContext, code: CodeWriter) -> str:
        """`t.expect(blur(t.window(x, "pool"), filter=w["pool.filter"], stride=2), "pool")`."""
        assert self.run is not None
        arguments = ctx.call.arguments
        texts = [self._text(arguments["input"], ctx, code)]
        for parameter in self.parameters:
            if parameter.name in arguments:
                text = self._text(arguments[parameter.name], ctx, code)
                texts.append(text if parameter.kind is parameter.POSITIONAL_ONLY else f"{parameter.name}={text}")
        return code.step("expect", f"{code.function(self.run)}({', '.join(texts)})")

    def count_axis(self, ctx: RuleContext, axis: int, x: torch.Tensor) -> torch.Tensor:
        """A convolution with ones over the window and its border."""
        if self.window is None:
            return super().count_axis(ctx, axis, x)
        *settings, border = ctx.call.arguments[WINDOW]
        sizes = [per_axis(value, ctx.num_axes)[axis] for value in settings]
        return count_window(x, sizes, border, ctx.output.shape[ctx.first_map.dims[axis]])

    def _text(self, argument: Argument, ctx: RuleContext, code: CodeWriter) -> str:
        if isinstance(argument, tuple | list):
            texts = [self._text(item, ctx, code) for item in argument]
            return f"({texts[0]},)" if len(texts) == 1 else f"({', '.join(texts)})"
        if not isinstance(argument, ValueRef) or argument.name not in ctx.maps:
            return code.value(argument)
        border = ctx.call.arguments.get(WINDOW, (0.0,))[-1]
        if border in FOLDS:
            return code.step("gather", code.window(argument))
        return code.window(argument, border)


def read_everything(
    module: torch.nn.Module | None, path: str, bound: Mapping[str, Argument], specs: Mapping[str, Any]
) -> dict[str, Argument]:
    """The arguments that a rule of a user's own class sees: those of the call, and what the module holds.

    The first argument of the call is `input`. Of the module these are its parameters and buffers, by dotted path, and
    its public attributes that are plain values. Parameters are those of `LocalRule.read_call`.
    """
    first, *others = bound
    found: dict[str, Argument] = {"input": bound[first], **{name: bound[name] for name in others}}
    if module is None:
        return found
    held = {name: plain(value) for name, value in vars(module).items() if not name.startswith("_") and is_plain(value)}
    tensors = (*module.named_parameters(), *module.named_buffers())
    return {**held, **{name: AttributeRef(f"{path}.{name}") for name, _ in tensors}, **found}


def _attribute(module: torch.nn.Module, path: str, name: str) -> Argument:
    """A tensor attribute as a reference, another as a constant."""
    value = attrgetter(name)(module)
    return AttributeRef(f"{path}.{name}") if isinstance(value, torch.Tensor) else plain(value)


def _are_attributes(value: Any) -> bool:
    """Whether a value says where parameters are found."""
    if not isinstance(value, Mapping):
        return False
    return all(isinstance(name, str) and (isinstance(path, str) or callable(path)) for name, path in value.items())
