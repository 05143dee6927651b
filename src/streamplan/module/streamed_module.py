"""The module that `compile` returns: the user's model, with its local part computed tile by tile.

It shares the model's parameters, buffers and submodules under their own names: its registries *are* the model's. So
`state_dict`, `named_parameters`, `.to()`, optimisers and checkpoints see the plain model. The executables, one per call
signature, and the traces they were made from are caches: copies and pickles leave them behind and build them again when
called. What else it has goes by mangled names, so that modules and attributes of the model may have any.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamplan.costs import Question, Search, load_calibration
from streamplan.errors import NothingRecordedError, StreamPlanError
from streamplan.images import Source, target_for, whole_tensor
from streamplan.module.collection import paused_collection
from streamplan.module.executable import Executable, build_executable, tensors_in_order
from streamplan.module.forecasting import complete, settle
from streamplan.module.guards import check_call, check_global_hooks, check_hooks, in_modes
from streamplan.module.progress_bar import ProgressBar
from streamplan.module.reference import Reference
from streamplan.module.requests import bind_call, resolve_arguments
from streamplan.module.streamed import Streamed
from streamplan.module.traces import TraceCache
from streamplan.options import GuardPolicy, Options
from streamplan.planning import Plan, PreparedPlan, TracedModel, prepare_plan
from streamplan.planning.arguments import CallArguments
from streamplan.planning.model import default_device, default_dtype, is_in_state
from streamplan.runtime.random_state import RandomState
from streamplan.trace.containers import mapped

_MAX_EXECUTABLES = 32
"""Call signatures kept ready; the one not used for longest is dropped."""
_SHARED = (
    *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
"""Registries of the model that the streamed module uses as its own."""
_PREFIX = "_StreamedModule_"
"""Begins the names of what a streamed module has besides the model, so that the model may use any other name."""
_MODEL = f"{_PREFIX}_model"
_EVERY_MODULE = frozenset(vars(nn.Module()))
"""Attributes that each module has for itself."""
_MEMBER_ACCESS = "torch.nn.utils._named_member_accessor"


class StreamedModule(Streamed, nn.Module):
    """A model that computes its local part tile by tile, forward and backward.

    Made by `streamplan.compile`. Calls take what the plain model takes and return what it returns. An input of another
    size is planned when it comes, with the options given to `compile`; the model is traced again only if what its code
    does depends on the size.
    """

    def __init__(  # noqa: PLR0913 - what `compile` was given
        self,
        model: nn.Module,
        arguments: CallArguments,
        options: Options,
        *,
        plan: Plan | None = None,
        device: torch.device | None = None,
        progress: bool = False,
        cuda_graphs: bool = False,
        calibrate: bool = False,
        guard: GuardPolicy = "full",
    ) -> None:
        super().__init__()
        if not _OWN_NAMES.isdisjoint(model._modules):
            self.__class__ = _WithLikeNames
        self.__model: nn.Module
        self.__dict__[_MODEL] = model
        for name in _SHARED:
            self.__dict__[name] = model.__dict__[name]
        self.training = model.training
        self.__options = options
        self.__progress = progress
        self.__cuda_graphs = cuda_graphs
        self.__calibrate = calibrate
        self.__guard = guard
        self.__disabled: dict[int, int] = {}  # number of `with` blocks that a thread is in
        self.__lock = threading.RLock()  # held while something is planned, since traces are run again for other sizes
        self.__executables: OrderedDict[TracedModel, Executable] = OrderedDict()
        self.__last_forward: tuple[Executable, RandomState, Mapping[str, bool]] | None = None
        self.__traces = TraceCache()
        check_global_hooks()
        self.__planned: TracedModel | None = self.__traces.of_state(model, arguments, device or default_device(model))
        executable = self.__executables[self.__planned] = self._build(self.__planned, device, plan)
        self.__plan = executable.plan if plan is None else _with_forecast(executable.plan, plan)
        check_hooks(model, executable.resident_modules, executable.streamed_modules)
        executable.program.check_called()

    @property
    def plan(self) -> Plan:
        """The plan `compile` made; what it takes is told when it is first asked for."""
        with self.__lock:
            is_complete = self.__plan.forecast is not None or self.__plan.forecast_failure
            if not is_complete and (executable := self._planned_still()) is not None:
                self.__plan = self._complete(executable)
            return self.__plan

    @property
    def source(self) -> str:
        """The program of that plan, as Python text."""
        return self._planned_executable().program.program.source

    def save_source(self, path: str | Path) -> None:
        """Write the program to a file."""
        Path(path).write_text(self.source, encoding="utf-8")

    def plan_for(self, input_size: Any) -> Plan:
        """The plan for another input size, with the options given to `compile`."""
        dtype = self._current_arguments().image.dtype
        return self._complete(self._executable_for(resolve_arguments(self.__model, input_size, None, dtype)))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the plain model inside the `with` block, frozen BatchNorm included, to compare or to fall back.

        It holds for the calls of the thread that entered the block.
        """
        thread = threading.get_ident()
        self.__disabled[thread] = self.__disabled.get(thread, 0) + 1
        try:
            yield
        finally:
            self.__disabled[thread] -= 1
            if not self.__disabled[thread]:
                del self.__disabled[thread]

    @contextmanager
    def reference_mode(self, model: nn.Module) -> Iterator[None]:
        """Inside the `with` block, `model` computes what this module computes.

        That differs from the plain model under `batch_norm="frozen"` only: streamed BatchNorm is put into eval mode, by
        one thread at a time.

        Args:
            model: The plain model, or a copy of it.
        """
        if self.__options.batch_norm != "frozen":
            yield
            return
        with self.__lock, in_modes(model, dict.fromkeys(self._planned_executable().streamed_batch_norms, False)):
            yield

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the plain model computes; a `Source` may stand in the place of every tensor that tiles alone read."""
        return self._call(args, kwargs)

    def predict(self, *args: Any, out: Any = None, **kwargs: Any) -> Any:
        """What the model computes, without autograd, in the mode (`train` or `eval`) it is in.

        Args:
            *args: What the plain model takes; a `Source` may stand in the place of an image.
            out: Where to write the output, tile by tile, so that it is never in memory as a whole: an array laid out
                like the output, with or without the batch dimension, or a `Source` that tells its layout. Only for
                models whose output is one map that tiles compute.
            **kwargs: As for the plain model.

        Returns:
            The output, or `out`.

        Raises:
            SourceError: The output is not such a map, or does not fit `out`.
        """
        with torch.no_grad():
            return self._call(args, kwargs, out)

    @torch.compiler.disable(reason="tiles are computed by a program of streamplan's own")  # type: ignore[untyped-decorator, no-untyped-call]
    def _call(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any = None, *, is_checked: bool = False) -> Any:
        args, kwargs = bind_call(self.__model, args, kwargs)
        if threading.get_ident() in self.__disabled:
            with self.reference_mode(self.__model):
                return self._run_plain(args, kwargs, out)
        if not is_checked:
            self._check_call(args, kwargs)
        (executable, tensors), device, bar = self._resolve_call(args, kwargs), self._device(), self._bar()
        modes = {path: module.training for path, module in self.__model.named_modules()}
        self.__last_forward = executable, RandomState.current(device), modes
        if out is not None:
            executable.write(self.__model, tensors, device, out, bar)
            return out
        return executable.run(self.__model, tensors, device, bar)

    def _resolve_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Executable, list[torch.Tensor | Source]]:
        """The executable of a call that fits the plan, and its tensors; arguments are bound already."""
        check_global_hooks()
        arguments, tensors = CallArguments.of_tensors(args, kwargs), tensors_in_order(args, kwargs)
        with self.__lock:
            if self.__guard == "full":
                traced = self.__traces.of_call(self.__model, arguments, tensors, self._device())
                executable = self._executable(traced)
            else:
                executable = self._executable_for(arguments)
        check_hooks(self.__model, executable.resident_modules, executable.streamed_modules)
        executable.program.check_called()
        return executable, tensors

    def _bar(self) -> ProgressBar | None:
        return ProgressBar() if self.__progress else None

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare a call's arguments with the planned ones; they are bound already.

        Raises:
            InputMismatchError: They do not fit.
        """
        check_call(self.__model, self.__plan, args, kwargs)

    def _run_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """The plain model's result, from whole tensors."""
        device = self._device()
        args, kwargs = mapped(lambda _, x: whole_tensor(x, device) if isinstance(x, Source) else x, (args, kwargs))
        result = self.__model(*args, **kwargs)
        if out is None:
            return result
        target_for(out, tuple(result.shape), result.dtype).write((), result)
        return out

    def _reference(self, model: nn.Module | None = None) -> Reference:
        """The plain model with the random numbers of the last forward pass; see `streamplan.testing.reference`."""
        if self.__last_forward is None:
            raise NothingRecordedError(
                "there is no forward pass whose random numbers could be used again",
                why="a streamed module draws its random numbers when it is called",
                do="call the streamed module first",
            )
        return Reference(model or self.__model, *self.__last_forward)

    def train(self, mode: bool = True) -> StreamedModule:
        """Set training mode, as the plain model does."""
        self.__model.train(mode)
        self.training = mode
        return self

    def extra_repr(self) -> str:
        """Model and grid."""
        return f"{self.__plan.model}, {self.__plan.num_tiles} tiles, cut at {', '.join(self.__plan.cut)}"

    def __getattr__(self, name: str) -> Any:
        """What the model calls so; else what this module calls so in private: `_plan`."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            model, own = self.__dict__.get(_MODEL), f"{_PREFIX}{name}"
            if model is None:
                raise
            return getattr(model, name) if hasattr(model, name) or own not in vars(self) else vars(self)[own]

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the model, as reading one does, but what it has of its own, as every module has."""
        model = vars(self).get(_MODEL)
        if model is None or name.startswith(_PREFIX) or name in _EVERY_MODULE or hasattr(type(self), name):
            super().__setattr__(name, value)
        elif name.startswith("_") and not hasattr(model, name):
            super().__setattr__(f"{_PREFIX}{name}", value)
        else:
            setattr(model, name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self.__model, name)

    def get_submodule(self, target: str) -> nn.Module:
        """The model's."""
        return self.__model.get_submodule(target) if target else self

    def set_submodule(self, target: str, module: nn.Module, strict: bool = False) -> None:
        """Set the model's."""
        self.__model.set_submodule(target, module, strict)

    def get_parameter(self, target: str) -> nn.Parameter:
        """The model's."""
        return self.__model.get_parameter(target)

    def get_buffer(self, target: str) -> torch.Tensor:
        """The model's."""
        return self.__model.get_buffer(target)

    def get_extra_state(self) -> Any:
        """The model's."""
        return self.__model.get_extra_state()

    def set_extra_state(self, state: Any) -> None:
        """Set the model's."""
        self.__model.set_extra_state(state)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        caches = {"executables": OrderedDict(), "traces": TraceCache(), "planned": None}
        caches |= {"last_forward": None, "disabled": {}}
        return {**state, **{f"{_PREFIX}_{name}": value for name, value in caches.items()}, f"{_PREFIX}_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, f"{_PREFIX}_lock": threading.RLock()})  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self.__model._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self.__model._load_from_state_dict(*args, **kwargs)

    def _device(self) -> torch.device:
        return default_device(self.__model)

    def _current_arguments(self) -> CallArguments:
        """The call that was planned, in the floating-point dtype the model has now."""
        return self.__plan.arguments.with_float_dtype(default_dtype(self.__model))

    def _planned_executable(self) -> Executable:
        if self.__planned is None:
            return self._executable_for(self._current_arguments())
        return self._executable(self.__planned)

    def _planned_still(self) -> Executable | None:
        """The executable of the plan, if the model is in the state that was planned; a copy has not traced it yet."""
        if self.__planned is not None:
            return self._executable(self.__planned) if is_in_state(self.__planned, self.__model) else None
        try:
            traced = self.__traces.of_state(self.__model, self.__plan.arguments, self._device())
        except StreamPlanError:
            return None
        return self._executable(traced) if _is_of(self.__plan, traced) else None

    def _executable_for(self, arguments: CallArguments) -> Executable:
        """The executable for calls in the state that the model is in; the model's code is not run for it."""
        with self.__lock:
            return self._executable(self.__traces.of_state(self.__model, arguments, self._device()))

    def _executable(self, traced: TracedModel) -> Executable:
        """The executable of a trace, from the cache or built now."""
        with self.__lock:
            if traced not in self.__executables:
                stored = self.__plan if _is_of(self.__plan, traced) else None
                self.__executables[traced] = self._build(traced, self._device(), stored)
                while len(self.__executables) > _MAX_EXECUTABLES:
                    self.__executables.popitem(last=False)
            self.__executables.move_to_end(traced)
            return self.__executables[traced]

    @paused_collection()
    def _build(self, traced: TracedModel, device: torch.device | None, stored: Plan | None) -> Executable:
        arguments = traced.arguments
        if stored is None and self.__options.is_open:
            prepared = settle(self._search(arguments, device, traced))
        else:
            options = self.__options.settled()
            prepared = prepare_plan(self.__model, arguments, options, device, stored=stored, traced=traced)
        return build_executable(prepared, cuda_graphs=self.__cuda_graphs)

    def _search(
        self,
        arguments: CallArguments,
        device: torch.device | None,
        traced: TracedModel,
        known: PreparedPlan | None = None,
    ) -> Search:
        """Candidate plans of a call."""
        device = device or self._device()
        calibration = load_calibration(device, is_measuring=self.__calibrate)
        return Search(Question(self.__model, arguments, self.__options, device, traced, calibration), known)

    def _complete(self, executable: Executable) -> Plan:
        """An executable's plan with its forecast."""
        prepared = executable.prepared
        device = torch.device(prepared.plan.device)
        with self.__lock:
            search = self._search(prepared.plan.arguments, device, prepared.traced, prepared)
            return complete(search, prepared)


def _is_of(plan: Plan, traced: TracedModel) -> bool:
    """Whether a plan was made from such a trace."""
    return plan.arguments == traced.arguments and plan.fingerprint == traced.fingerprint


_OWN_NAMES = frozenset(dir(StreamedModule)) - frozenset(dir(nn.Module))
"""What streamed modules have by these names hides what the model has."""


class _WithLikeNames(StreamedModule):
    """A streamed module whose model has a child of a name that `StreamedModule` has too, say `plan`."""

    def _get_name(self) -> str:
        return StreamedModule.__name__

    def __getattribute__(self, name: str) -> Any:
        """As usual, but for `torch.func.functional_call`, which looks for the model's modules and gets them alone."""
        if name in _OWN_NAMES and sys._getframe(1).f_globals.get("__name__") == _MEMBER_ACCESS:
            return super().__getattr__(name)
        return super().__getattribute__(name)


def _with_forecast(made: Plan, given: Plan) -> Plan:
    """A plan made from another one, with what was found out about that one."""
    return replace(
        made,
        memory_budget=given.memory_budget,
        budget_source=given.budget_source,
        max_slowdown=given.max_slowdown,
        forecast=given.forecast if made.device == given.device else None,
    )
