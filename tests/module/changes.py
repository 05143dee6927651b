"""Changes that a test makes to a net between two calls, by name: each to the plain net and to the streamed one."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch
from torch import nn
from torch.nn import Parameter
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize, prune

Change = Callable[[Any, ModuleType], object]
"""Called with a `Changing` net, and with the copy of `changing_nets` that it is of."""


def _ones(*shape: int, scale: float = 1.0) -> Parameter:
    return Parameter(torch.full(shape, scale, dtype=torch.float64))


def _set(owner: Any, **attributes: Any) -> None:
    for name, value in attributes.items():
        setattr(owner, name, value)


def _as_float(module: nn.Module, net: nn.Module) -> nn.Module:
    return module.to(next(net.parameters()).dtype)


def _subclass(net: Any, world: ModuleType) -> None:
    _last_conv(net).__class__ = type("Conv2d", (nn.Conv2d,), {"forward": lambda s, x: nn.Conv2d.forward(s, x) * 2})


def _last_conv(net: Any) -> nn.Conv2d:
    """Of the body, wherever others have inserted or removed layers."""
    return next(layer for layer in reversed(list(net.body)) if isinstance(layer, nn.Conv2d))


def _assigned(net: Any, world: ModuleType) -> None:
    net.load_state_dict({name: value * 0.5 for name, value in net.state_dict().items()}, assign=True)


def _normed_and_not(net: Any, world: ModuleType) -> None:
    parametrizations.weight_norm(_last_conv(net))
    parametrize.remove_parametrizations(_last_conv(net), "weight")


def _pruned_and_not(net: Any, world: ModuleType) -> None:
    prune.l1_unstructured(net.stem, "weight", amount=0.5)
    prune.remove(net.stem, "weight")


def _doubled_forward(net: Any, world: ModuleType) -> None:
    kind, forward = type(net.units[0]), type(net.units[0]).forward
    kind.forward = lambda self, x: forward(self, x) * 2


def _decorated_forward(net: Any, world: ModuleType) -> None:
    kind = type(net)

    def decorate(function: Any) -> Any:
        @functools.wraps(function)
        def wrapped(*args: Any, **kwargs: Any) -> Any:
            return function(*args, **kwargs) * 3

        return wrapped

    kind.forward = decorate(kind.forward)


MODEL: dict[str, Change] = {
    "bias removed": lambda net, world: _set(net.stem, bias=None),
    "bias added": lambda net, world: _set(net.stem, bias=_ones(3)),
    "registered parameter set": lambda net, world: _set(net, lora=_ones(3, 1, 1, scale=2.0)),
    "registered parameter removed": lambda net, world: _set(net, lora=None),
    "gain added": lambda net, world: net.gains.update({"n": _ones(3, 1, 1, scale=0.5)}),
    "gain removed": lambda net, world: net.gains.pop("k") if "k" in net.gains else None,
    "untied": lambda net, world: _set(net, tied=_ones(3, 3, 3, 3, scale=0.1)),
    "tied": lambda net, world: _set(net, tied=net.kernel),
    "layers tied": lambda net, world: _set(net.named["p"], weight=net.named["q"].weight),
    "kernel of other size": lambda net, world: _set(net.body[0], weight=_ones(3, 3, 1, 1), padding=(0, 0)),
    "kernel of other size and padding": lambda net, world: _set(net.body[0], weight=_ones(3, 3, 5, 5, scale=0.1)),
    "buffer of a map": lambda net, world: _set(net, scale=torch.ones(3, 1, 18, dtype=torch.float64) * 2),
    "buffer written": lambda net, world: net.scale.mul_(1.5),
    "number in an object": lambda net, world: _set(net.config, scale=net.config.scale + 1),
    "order in an object": lambda net, world: net.config.order.reverse(),
    "list in an object": lambda net, world: net.config.order.append("q"),
    "array in an object": lambda net, world: net.config.array.__imul__(1.5),
    "number deep in an object": lambda net, world: net.config.deep["s"].__setitem__(0, 1.25),
    "set in an object": lambda net, world: net.config.flags.symmetric_difference_update({"x"}),
    "attribute of the class": lambda net, world: net.weights.update(z=net.weights["z"] + 1),
    "attribute of a class of a part": lambda net, world: _set(type(net.units[0]), k=0.5),
    "attribute of a part": lambda net, world: _set(net.units[1], gain=2.0),
    "global": lambda net, world: world.COUNTS.update(calls=world.COUNTS["calls"] + 1),
    "layer inserted": lambda net, world: net.body.insert(1, nn.Sigmoid()),
    "layer appended": lambda net, world: net.body.append(nn.Tanh()),
    "layer removed": lambda net, world: net.body.__delitem__(-1) if len(net.body) > 4 else None,
    "layers reordered": lambda net, world: _set(net, units=nn.ModuleList(reversed(list(net.units)))),
    "unit appended": lambda net, world: net.units.append(_as_float(world.Unit(), net)),
    "unit removed": lambda net, world: net.units.pop(0) if len(net.units) > 1 else None,
    "named layer added": lambda net, world: net.named.update({"rest": _as_float(world.conv(3, 3), net)}),
    "named layer exchanged": lambda net, world: net.named.update({"p": nn.Softplus()}),
    "layer of the same name": lambda net, world: net.body.__setitem__(
        2, type("ReLU", (nn.Module,), {"forward": lambda self, x: x.sigmoid()})()
    ),
    "class of a layer": _subclass,
    "training": lambda net, world: net.train(),
    "norm in training": lambda net, world: net.norm.train(),
    "evaluation": lambda net, world: net.eval(),
    "dropout": lambda net, world: _set(net.body[3], p=1.0) if isinstance(net.body[3], nn.Dropout) else None,
    "frozen part": lambda net, world: net.stem.requires_grad_(False),
    "frozen": lambda net, world: net.requires_grad_(False),
    "thawed": lambda net, world: net.requires_grad_(True),
    "weight norm": lambda net, world: parametrize.is_parametrized(net.stem) or parametrizations.weight_norm(net.stem),
    "weight norm and not": _normed_and_not,
    "pruned": lambda net, world: prune.l1_unstructured(net.head, "weight", amount=0.5),
    "pruned and not": _pruned_and_not,
    "assigned": _assigned,
    "moved": lambda net, world: net.to(memory_format=torch.channels_last),
    "stride": lambda net, world: _set(net.units[-1].conv, stride=(1, 1), padding=(2, 2), dilation=(2, 2)),
    "padding": lambda net, world: _set(net.body[0], padding="same"),
    "eps": lambda net, world: _set(net.norm, eps=net.norm.eps + 0.25),
    "momentum": lambda net, world: _set(net.norm, momentum=0.75),
    "in place": lambda net, world: _set(net.body[2], inplace=True),
    "window": lambda net, world: _set(net.pool, kernel_size=3, stride=1),
    "rounding up": lambda net, world: _set(net.pool, ceil_mode=True, stride=3),
    "hook": lambda net, world: net.stem.register_forward_hook(lambda module, args, out: out * 2),
    "hook of the head": lambda net, world: net.head.register_forward_hook(lambda module, args, out: out * 2),
}
FORWARD: dict[str, Change] = {
    "function": lambda net, world: _set(net, act=torch.tanh),
    "lambda": lambda net, world: _set(net, act=lambda x: F.leaky_relu(x, 0.3)),
    "partial": lambda net, world: _set(net, act=functools.partial(F.leaky_relu, negative_slope=0.2)),
    "forward of a layer": lambda net, world: _set(net.body[2], forward=lambda x: x * 3),
    "forward of a layer undone": lambda net, world: vars(net.body[2]).pop("forward", None),
    "_conv_forward": lambda net, world: _set(net.stem, _conv_forward=lambda x, w, b: F.conv2d(x, w * 2, b, padding=1)),
    "_conv_forward undone": lambda net, world: vars(net.stem).pop("_conv_forward", None),
    "method of a unit": lambda net, world: _set(
        net.units[0], forward=types.MethodType(lambda self, x: self.conv(x) * 5, net.units[0])
    ),
    "partial of a unit": lambda net, world: _set(
        net.units[0], forward=functools.partial(lambda self, x: self.conv(x) * 4, net.units[0])
    ),
    "forward of a class": _doubled_forward,
    "decorated forward": _decorated_forward,
    "__call__ of a class": lambda net, world: _set(
        type(net.units[0]), __call__=lambda self, x: nn.Module.__call__(self, x) * 2
    ),
    "_call_impl of a layer": lambda net, world: _set(net.body[2], _call_impl=lambda x: x * 2),
    "_call_impl undone": lambda net, world: vars(net.body[2]).pop("_call_impl", None),
    "forward of a container": lambda net, world: _set(net.body, forward=lambda x: x + 1),
    "forward of the net": lambda net, world: _set(net, forward=lambda x: type(net).forward(net, x) * 2),
    "forward of the net undone": lambda net, world: vars(net).pop("forward", None),
    "property": lambda net, world: _set(type(net.units[0]), k=property(lambda self: 0.75)),
}
