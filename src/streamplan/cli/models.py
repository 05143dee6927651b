"""From `pkg.mod:factory` or `path/to/net.py:factory` to the module to plan.

The factory runs under `torch.device("meta")` where a plan is all that is wanted: its parameters have shapes and dtypes
but no data. Some constructors read values of tensors, which such tensors do not have; those run again on the CPU.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from streamplan.cli.failures import UsageError
from streamplan.cli.values import MODEL_FORMS, split_target
from streamplan.trace.locations import error_location

_MAX_NAMES = 8
"""Names of a module that are told where the one asked for is missing."""


def load_model(target: str, arguments: Mapping[str, Any], *, needs_data: bool) -> nn.Module:
    """The module that a target names or makes.

    Args:
        target: Module or file and, after a colon, a class, a function or an `nn.Module`; dots lead to attributes of it.
        arguments: Keyword arguments of the class or function.
        needs_data: Whether its parameters must have values.

    Raises:
        UsageError: The module cannot be imported, has no such attribute, or what it has makes no `nn.Module`.
    """
    source, path = split_target(target)
    module = _import(source)
    with users_code(f"{target} cannot be looked up"):
        factory = _attribute(module, path, target)
    if isinstance(factory, nn.Module):
        if arguments:
            raise UsageError(
                f"{target} takes no arguments",
                why=f"it is a {type(factory).__name__} already, and --arg is for what makes one",
                do="leave --arg out, or name a class or a function",
            )
        return factory
    if not callable(factory):
        raise UsageError(
            f"{target} makes no model",
            why=f"it is of type {type(factory).__name__}",
            do="name a class, a function or an nn.Module",
        )
    model = _call(factory, arguments, target, needs_data=needs_data)
    if not isinstance(model, nn.Module):
        raise UsageError(
            f"{target} makes no model",
            why=f"it returns an object of type {type(model).__name__}",
            do="return an nn.Module",
        )
    return model


def _import(source: str) -> ModuleType:
    is_file = source.endswith(".py")
    file = Path(source)
    for folder in (Path.cwd(), file.resolve().parent if is_file else Path.cwd()):
        if str(folder) not in sys.path:
            sys.path.insert(0, str(folder))
    try:
        return _import_file(file) if is_file else importlib.import_module(source)
    except KeyboardInterrupt:
        raise
    except ModuleNotFoundError as error:
        if error.name and f"{source}.".startswith(f"{error.name}."):
            raise UsageError(
                f"there is no module {source}",
                why=f"Python finds no {error.name} here or among what is installed",
                do=f"{MODEL_FORMS}, from the folder that holds pkg",
            ) from error
        raise failure(f"{source} cannot be imported", error, do="install what it imports") from error
    except BaseException as error:  # the user's module may raise anything, and may end the process
        mend = "put what is to run as a script under if __name__ == '__main__':"
        do = mend if isinstance(error, SystemExit) else "check that Python imports it"
        raise failure(f"{source} cannot be imported", error, do=do) from error


def _import_file(path: Path) -> ModuleType:
    name = f"_streamplan_model_{path.stem}"  # a name of its own: net.py must not hide an installed `net`
    spec = importlib.util.spec_from_file_location(name, path.resolve())
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and copies look their module up
    spec.loader.exec_module(module)
    return module


def _attribute(module: ModuleType, path: str, target: str) -> Any:
    found: Any = module
    names = path.split(".")
    for depth, name in enumerate(names):
        if not hasattr(found, name):
            defined = (
                [other for other, value in vars(module).items() if _is_factory(value, module)] if not depth else []
            )
            raise UsageError(
                f"{'.'.join(names[:depth]) or 'the module'} has no {name}",
                where=target,
                why=f"it defines {', '.join(defined[:_MAX_NAMES])}" if defined else "",
                do="name a class, a function or an nn.Module",
            )
        found = getattr(found, name)
    return found


def _is_factory(value: Any, module: ModuleType) -> bool:
    """Whether a module's attribute is a model, or a class or function of its own."""
    is_own = getattr(value, "__module__", None) == module.__name__ and callable(value)
    return isinstance(value, nn.Module) or is_own


def _call(factory: Any, arguments: Mapping[str, Any], target: str, *, needs_data: bool) -> Any:
    if not needs_data:
        try:
            with torch.device("meta"), warnings.catch_warnings():
                warnings.simplefilter("ignore")  # weights that a factory loads go nowhere, and torch says so of each
                return factory(**arguments)
        except KeyboardInterrupt:
            raise
        except BaseException:  # noqa: BLE001 - it runs again below, and what it raises is told there
            pass
    given = ", ".join(f"{name}={value!r}" for name, value in arguments.items())
    with users_code(
        f"{target} fails when called with {given or 'no arguments'}", may_lack="its arguments with --arg NAME=VALUE"
    ):
        return factory(**arguments)


@contextlib.contextmanager
def users_code(what: str, *, may_lack: str = "") -> Iterator[None]:
    """A block that runs the user's code, which may raise anything and may end the process.

    Args:
        what: What it cannot do.
        may_lack: What to give if it raises a `TypeError`.

    Raises:
        UsageError: It raised something else than that.
    """
    try:
        yield
    except (UsageError, KeyboardInterrupt):
        raise
    except BaseException as error:
        do = f"give {may_lack}" if may_lack and isinstance(error, TypeError) else ""
        raise failure(what, error, do=do) from error


def failure(what: str, error: BaseException, *, do: str = "") -> UsageError:
    """An exception of the user's code."""
    location = error_location(error.__traceback__)
    where = "" if location is None else str(location)
    advice = "let it raise an error instead" if isinstance(error, SystemExit) else "check that it runs in Python"
    return UsageError(what, where=where, why=f"{type(error).__name__}: {error}", do=do or advice)
