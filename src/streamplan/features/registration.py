"""Rules for the user's own modules and functions.

    streamplan.register_rule(BlurPool, LocalRule.windowed(blur, kernel=3, stride=2, padding=1, border="reflect"))

From then on a call of a `BlurPool` is one call of the graph, asked of its rule like any other. The registration holds
for the process; plans and compiled modules that exist already keep the program they have.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import nn

from streamplan.checks import check_flag, shown
from streamplan.errors import RuleConflictError, RuleTargetError
from streamplan.rules import REASONS, LocalRule, Rule
from streamplan.rules.local import read_everything
from streamplan.rules.registry import register_user_rule, unregister_user_rule
from streamplan.trace.canonical.lower import function_name
from streamplan.trace.canonical.module_spellings import MODULES
from streamplan.trace.canonical.signatures import FUNCTIONS
from streamplan.trace.patches import FunctionApply
from streamplan.trace.registered import TARGETS, RegisteredTarget, is_torch_function
from streamplan.trace.switches import unswitched

_CONTAINERS = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
_TAKEN = ("input", "num_axes")
"""Names of arguments that have a meaning of their own in a graph."""
_LOCK = threading.RLock()
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


def register_rule(target: Any, rule: Rule, *, override: bool = False) -> None:
    """Tell streamplan that a module class or a function is local, what it reads and how it runs on a region.

    Args:
        target: A subclass of `nn.Module`: calls of its instances become one call of the graph; subclasses of it are
            registered by themselves. Or a Python function, a function of torch, or a subclass of
            `torch.autograd.Function`. A Python function is recognised however it is reached.
        rule: What `LocalRule.pointwise` or `LocalRule.windowed` returns, or an instance of a `streamplan.rules.Rule`.
        override: Whether to replace a rule that `target` has, and what streamplan itself knows about it.

    Raises:
        RuleTargetError: `target` cannot have a rule, or `rule` is not one that fits it.
        RuleConflictError: `target` has a rule already, or is known not to be local.
    """
    check_flag("override", override)
    with _LOCK:
        _register(target, rule, override=override)


def _register(target: Any, rule: Rule, *, override: bool) -> None:
    key = _key_of(target)
    if not isinstance(rule, Rule):
        raise RuleTargetError(
            f"{_name_of(rule) if callable(rule) else shown(rule)} is not a rule",
            where=f"the rule of {_name_of(target)}",
            why=f"a rule is an instance of streamplan.rules.Rule, and this is of type {type(rule).__name__}",
            do="pass LocalRule.pointwise(run) or LocalRule.windowed(run, kernel=...)",
        )
    if not override:
        _check_free(key, target)
    if isinstance(rule, LocalRule):
        rule = _with_run(key, target, rule)
    signature = _signature_of(key, target, rule)
    op = TARGETS[key].op if key in TARGETS else _free_op(target)
    read_call = rule.read_call if isinstance(rule, LocalRule) else read_everything
    register_user_rule(op, rule)
    TARGETS[key] = RegisteredTarget(op, signature, read_call)


def unregister_rule(target: Any) -> None:
    """Take back `register_rule`; what streamplan itself knows about `target` holds again.

    Raises:
        RuleTargetError: `target` has no registered rule.
    """
    with _LOCK:
        known = TARGETS.pop(_key_of(target), None)
        if known is None:
            raise RuleTargetError(
                f"no rule is registered for {_name_of(target)}",
                why="only what register_rule added can be taken away",
                do="pass the module class or function that was registered",
            )
        unregister_user_rule(known.op)


def _key_of(target: Any) -> Any:
    """What calls of `target` are recognised by: the class, the function, or the `FunctionApply`."""
    owner = getattr(target, "__self__", target)  # `SomeFunction.apply` stands for the class
    if isinstance(owner, type) and issubclass(owner, torch.autograd.Function):
        return _function_apply(owner)
    problem = _target_problem(target)
    if problem:
        why, do = problem
        raise RuleTargetError(f"{_name_of(target)} cannot have a rule", why=why, do=do)
    return target


def _target_problem(target: Any) -> tuple[str, str] | None:
    """Why something cannot have a rule, and what to do; None if it can."""
    if isinstance(target, nn.Module):
        return "it is one module, and a rule is for all modules of a class", f"pass the class {_name_of(type(target))}"
    if isinstance(target, type):
        if issubclass(target, nn.Module) and target not in _CONTAINERS:
            return None
        return "it is not a class of layers", "pass a subclass of nn.Module that computes something in its forward"
    if is_torch_function(target):
        return None
    if not isinstance(target, FunctionType):
        return (
            f"it is of type {type(target).__name__}, whose calls cannot be seen while a model is traced",
            "pass an nn.Module class, an autograd.Function class or a function written in Python",
        )
    if next(iter(inspect.signature(unswitched(target)).parameters), "") == "self":
        return "it is a method", "pass the nn.Module class it belongs to"
    return None


def _check_free(key: Any, target: Any) -> None:
    """Refuse what has a rule, or a reason not to have one, already."""
    built_in = MODULES[key][0] if isinstance(key, type) and key in MODULES else ""
    if not isinstance(key, type) and key in FUNCTIONS:
        built_in = FUNCTIONS[key].op
    if key not in TARGETS and not built_in:
        return
    if key in TARGETS:
        why = "register_rule was called for it before"
    elif built_in in REASONS:
        why = f"streamplan knows that {built_in} is not local: {REASONS[built_in]}"
    else:
        why = f"streamplan itself knows it as the operation {built_in}"
    raise RuleConflictError(
        f"{_name_of(target)} has a rule already",
        why=why,
        do="pass override=True to replace it, in plans made from now on",
    )


def _with_run(key: Any, target: Any, rule: LocalRule) -> LocalRule:
    """The rule with a function that computes regions: its own, or the registered function."""
    if rule.run is None and isinstance(key, type):
        raise RuleTargetError(
            f"the rule of {_name_of(target)} has no `run`",
            why="a module's forward computes the whole map with tensors of its own; a rule computes a region with the "
            "tensors it is given",
            do="pass a function of the region and of the attributes it needs: "
            "LocalRule.pointwise(lambda x, scale: x * scale)",
        )
    return rule.bound_to(key)


def _signature_of(key: Any, target: Any, rule: Rule) -> inspect.Signature:
    """Parameters of a call of the target, the map first; of a function of C those of `run`."""
    try:
        signature = _own_signature(key)
    except ValueError:
        run = rule.run if isinstance(rule, LocalRule) else None
        if run is None or run is key:
            raise RuleTargetError(
                f"the parameters of {_name_of(target)} are not known",
                why="it is not written in Python and does not tell them",
                do="pass a `run` with named parameters: LocalRule.pointwise(lambda x, other: torch.xlogy(x, other))",
            ) from None
        signature = inspect.signature(run)
    problem = _signature_problem(signature)
    if problem:
        raise RuleTargetError(
            f"{_name_of(target)} cannot have a rule",
            why=problem,
            do="register a function or module whose parameters have names of their own, the map first",
        )
    return signature


def _signature_problem(signature: inspect.Signature) -> str:
    """Why calls with these parameters cannot be one call of the graph; "" if they can."""
    if not signature.parameters:
        return "it has no parameter, so no map"
    for index, parameter in enumerate(signature.parameters.values()):
        if parameter.kind in _VARIADIC:
            return f"its parameter {parameter.name!r} stands for any number of arguments"
        if index > 0 and parameter.name in _TAKEN:
            return f"its parameter {parameter.name!r} has the name of something else in the graph"
    return ""


def _own_signature(key: Any) -> inspect.Signature:
    """Parameters of a call, without `self`."""
    if isinstance(key, type):
        return _without_first(inspect.signature(key.forward))  # type: ignore[attr-defined]
    return inspect.signature(unswitched(key) if isinstance(key, FunctionType) else key)


def _function_apply(function: type[torch.autograd.Function]) -> FunctionApply:
    """What stands for `function.apply` in a graph, with the parameters of `forward`; it takes no keywords."""
    has_context = function.setup_context is torch.autograd.Function.setup_context
    signature = inspect.signature(function.forward)
    known = (_without_first(signature) if has_context else signature).parameters.values()
    positional = [p if p.kind in _VARIADIC else p.replace(kind=p.POSITIONAL_ONLY) for p in known]
    apply = FunctionApply(function)
    apply.__signature__ = signature.replace(parameters=positional)
    return apply


def _without_first(signature: inspect.Signature) -> inspect.Signature:
    return signature.replace(parameters=list(signature.parameters.values())[1:])


def _free_op(target: Any) -> str:
    """A name for the operation that no Python name can equal, and no other registered target has."""
    taken = {known.op for known in TARGETS.values()}
    op, number = f"@{_name_of(target)}", 1
    while op in taken:
        number += 1
        op = f"@{_name_of(target)}#{number}"
    return op


def _name_of(target: Callable[..., Any]) -> str:
    """A class or function as Python names it; anything else by its class."""
    if isinstance(target, nn.Module):
        return f"a {type(target).__name__} module"
    name = getattr(target, "__qualname__", None)
    if name is None:
        return shown(target)
    if is_torch_function(target):
        return function_name(target)
    module = getattr(target, "__module__", None) or "torch"
    return f"{'torch.nn' if module.startswith('torch.nn.modules') else module}.{name}"
