"""The module that `compile` returns: the user's model, with its local part computed tile by tile.

It shares the model's parameters, buffers and submodules under their own names: its registries *are* the model's. So
`state_dict`, `named_parameters`, `.to()`, optimisers and checkpoints see the plain model. The executables, one per call
signature, and the traces they were made from are caches: copies and pickles leave them behind and build them again when
called.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from streamplan.api.collection import paused_collection
from streamplan.api.executable import Executable, build_executable, tensors_in_order
from streamplan.api.forecasting import complete, settle
from streamplan.api.guards import check_call, check_hooks, in_modes, settings_digest
from streamplan.api.reference import Reference
from streamplan.api.requests import bind_call, resolve_arguments
from streamplan.api.traces import TraceCache
from streamplan.errors import NothingRecordedError
from streamplan.frontend.containers import mapped
from streamplan.images import Source, target_for, whole_tensor
from streamplan.options import Options
from streamplan.planner import Question, Search
from streamplan.planning import Plan, PreparedPlan, TracedModel, prepare_plan
from streamplan.planning.arguments import CallArguments
from streamplan.planning.model import default_device, default_dtype
from streamplan.projection import load_calibration
from streamplan.report import ProgressBar
from streamplan.runtime.random_state import RandomState

_MAX_EXECUTABLES = 32
"""Call signatures kept ready; the one not used for longest is dropped."""
_SHARED = (
    *("_parameters", "_buffers", "_modules", "_non_persistent_buffers_set"),
    *("_state_dict_hooks", "_state_dict_pre_hooks", "_load_state_dict_pre_hooks", "_load_state_dict_post_hooks"),
)
"""Registries of the model that the streamed module uses as its own."""


class StreamedModule(nn.Module):
    """A model that computes its local part tile by tile, forward and backward.

    Made by `streamplan.compile`. Calls take what the plain model takes and return what it returns. An input of another
    size is planned when it comes, with the options given to `compile`; the model is traced again only if what its code
    does depends on the size.
    """

    is_streamed = True
    """Tells a streamed module from a plain one."""

    def __init__(
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
    ) -> None:
        super().__init__()
        self.__dict__["_model"] = model
        for name in _SHARED:
            self.__dict__[name] = model.__dict__[name]
        self.training = model.training
        self._options = options
        self._progress = progress
        self._cuda_graphs = cuda_graphs
        self._calibrate = calibrate
        self._num_disabled = 0
        self._lock = threading.RLock()  # held while something is planned, since traces are run again for other sizes
        self._executables: OrderedDict[str, Executable] = OrderedDict()
        self._last_forward: tuple[Executable, RandomState, Mapping[str, bool]] | None = None
        self._traces = TraceCache()
        executable = self._build(arguments, device, plan)
        self._plan = executable.plan if plan is None else _with_forecast(executable.plan, plan)
        self._planned_key = self._key(arguments, device or default_device(model))
        self._executables[self._planned_key] = executable
        check_hooks(model, executable.resident_modules, executable.streamed_modules)

    @property
    def plan(self) -> Plan:
        """The plan `compile` made; what it takes is told when it is first asked for."""
        with self._lock:
            is_complete = self._plan.forecast is not None or self._plan.forecast_failure
            if not is_complete and self._key(self._plan.arguments, self._device()) == self._planned_key:
                self._plan = self._complete(self._executable(self._plan.arguments, self._device()))
            return self._plan

    @property
    def _has_streamed_dropout(self) -> bool:
        """Whether tiles drop elements or channels, in the mode (`train` or `eval`) the model is in."""
        return bool(self._executable(self._current_arguments(), self._device()).draws)

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
        return self._complete(self._executable(resolve_arguments(self._model, input_size, None, dtype), self._device()))

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Run the plain model inside the `with` block, frozen BatchNorm included, to compare or to fall back.

        It holds for the calls of all threads, since a backward pass may repeat a call in a thread of torch's own.
        """
        with self._lock:
            self._num_disabled += 1
        try:
            yield
        finally:
            with self._lock:
                self._num_disabled -= 1

    @contextmanager
    def reference_mode(self, model: nn.Module) -> Iterator[None]:
        """Inside the `with` block, `model` computes what this module computes.

        That differs from the plain model under `batch_norm="frozen"` only: streamed BatchNorm is put into eval mode, by
        one thread at a time.

        Args:
            model: The plain model, or a copy of it.
        """
        if self._options.batch_norm != "frozen":
            yield
            return
        with self._lock, in_modes(model, dict.fromkeys(self._planned_executable().streamed_batch_norms, False)):
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
        args, kwargs = bind_call(self._model, args, kwargs)
        if self._num_disabled:
            with self.reference_mode(self._model):
                return self._run_plain(args, kwargs, out)
        if not is_checked:
            self._check_call(args, kwargs)
        (executable, tensors), device, bar = self._resolve_call(args, kwargs), self._device(), self._bar()
        modes = {path: module.training for path, module in self._model.named_modules()}
        self._last_forward = executable, RandomState.current(device), modes
        if out is not None:
            executable.write(self._model, tensors, device, out, bar)
            return out
        return executable.run(self._model, tensors, device, bar)

    def _resolve_call(
        self, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[Executable, list[torch.Tensor | Source]]:
        """The executable of a call that fits the plan, and its tensors; arguments are bound already."""
        executable = self._executable(CallArguments.of_tensors(args, kwargs), self._device())
        check_hooks(self._model, executable.resident_modules, executable.streamed_modules)
        return executable, tensors_in_order(args, kwargs)

    def _bar(self) -> ProgressBar | None:
        return ProgressBar() if self._progress else None

    def _check_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        """Compare a call's arguments with the planned ones; they are bound already.

        Raises:
            InputMismatchError: They do not fit.
        """
        check_call(self._model, self._plan, args, kwargs)

    def _run_plain(self, args: tuple[Any, ...], kwargs: dict[str, Any], out: Any) -> Any:
        """The plain model's result, from whole tensors."""
        device = self._device()
        args, kwargs = mapped(lambda _, x: whole_tensor(x, device) if isinstance(x, Source) else x, (args, kwargs))
        result = self._model(*args, **kwargs)
        if out is None:
            return result
        target_for(out, tuple(result.shape), result.dtype).write((), result)
        return out

    def _reference(self, model: nn.Module | None = None) -> Reference:
        """The plain model with the random numbers of the last forward pass; see `streamplan.testing.reference`."""
        if self._last_forward is None:
            raise NothingRecordedError(
                "there is no forward pass whose random numbers could be used again",
                why="a streamed module draws its random numbers when it is called",
                do="call the streamed module first",
            )
        return Reference(model or self._model, *self._last_forward)

    def train(self, mode: bool = True) -> StreamedModule:
        """Set training mode, as the plain model does."""
        self._model.train(mode)
        self.training = mode
        return self

    def extra_repr(self) -> str:
        """Model and grid."""
        return f"{self._plan.model}, {self._plan.num_tiles} tiles, cut at {', '.join(self._plan.cut)}"

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            model = self.__dict__.get("_model")
            if model is None:
                raise
            return getattr(model, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Set an attribute of the model, as reading one does; its own are private, or `training`."""
        model = self.__dict__.get("_model")
        if model is None or name.startswith("_") or name == "training" or hasattr(type(self), name):
            super().__setattr__(name, value)
        else:
            setattr(model, name, value)

    def __getstate__(self) -> dict[str, Any]:
        state: dict[str, Any] = super().__getstate__()  # type: ignore[no-untyped-call]
        caches = {"_executables": OrderedDict(), "_traces": TraceCache(), "_last_forward": None}
        return {**state, **caches, "_num_disabled": 0, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__({**state, "_lock": threading.RLock()})  # type: ignore[no-untyped-call]

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        self._model._save_to_state_dict(destination, prefix, keep_vars)

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        self._model._load_from_state_dict(*args, **kwargs)

    def _device(self) -> torch.device:
        return default_device(self._model)

    def _current_arguments(self) -> CallArguments:
        """The call that was planned, in the floating-point dtype the model has now."""
        return self._plan.arguments.with_float_dtype(default_dtype(self._model))

    def _key(self, arguments: CallArguments, device: torch.device) -> str:
        """Everything a trace depends on: arguments, device, and the settings of all modules, `training` among them."""
        return f"{arguments!r} {device} {settings_digest(self._model)}"

    def _planned_executable(self) -> Executable:
        executable = self._executables.get(self._planned_key)
        if executable is None:
            executable = self._executable(self._current_arguments(), self._device())
        return executable

    def _executable(self, arguments: CallArguments, device: torch.device) -> Executable:
        """The executable for a call, from the cache or built now."""
        with self._lock:
            key = self._key(arguments, device)
            if key not in self._executables:
                stored = self._plan if key == self._planned_key else None
                self._executables[key] = self._build(arguments, device, stored)
                while len(self._executables) > _MAX_EXECUTABLES:
                    self._executables.popitem(last=False)
            self._executables.move_to_end(key)
            return self._executables[key]

    @paused_collection()
    def _build(self, arguments: CallArguments, device: torch.device | None, stored: Plan | None) -> Executable:
        traced = self._traces.traced(self._model, arguments, device)
        if stored is None and self._options.is_open:
            prepared = settle(self._search(arguments, device, traced))
        else:
            options = self._options.settled()
            prepared = prepare_plan(self._model, arguments, options, device, stored=stored, traced=traced)
        return build_executable(prepared, cuda_graphs=self._cuda_graphs)

    def _search(
        self,
        arguments: CallArguments,
        device: torch.device | None,
        traced: TracedModel,
        known: PreparedPlan | None = None,
    ) -> Search:
        """Candidate plans of a call."""
        device = device or self._device()
        calibration = load_calibration(device, is_measuring=self._calibrate)
        return Search(Question(self._model, arguments, self._options, device, traced, calibration), known)

    def _complete(self, executable: Executable) -> Plan:
        """An executable's plan with its forecast."""
        prepared = executable.prepared
        device = torch.device(prepared.plan.device)
        with self._lock:
            search = self._search(prepared.plan.arguments, device, prepared.traced, prepared)
            return complete(search, prepared)


def _with_forecast(made: Plan, given: Plan) -> Plan:
    """A plan made from another one, with what was found out about that one."""
    return replace(
        made,
        memory_budget=given.memory_budget,
        budget_source=given.budget_source,
        max_slowdown=given.max_slowdown,
        forecast=given.forecast if made.device == given.device else None,
    )
