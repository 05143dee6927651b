"""The guard run: a model's own code, run once per call, and compared with what its program was made from.

In: a model's shadow, the arguments of a call, and the traces there are of such calls. Out: the trace that tells what
this call does: one of those given, or a new one. While the run does what a trace's script says, nothing is executed:
the answer to each call is taken from the script, so a run takes little more than the Python of the model.

    script      conv1(x) -> relu(%0) -> add(%1, 1)      run: conv1(x) -> relu(%0) -> mul(%1, 2)
                                                                                     ^ parts from the script here

As soon as the run differs from all scripts it is continued as a trace: what it did so far is repeated on fake tensors,
and every further call is executed on them and becomes a node. So the model's code runs once, whatever comes of it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from streamplan.ir import TensorSpec
from streamplan.trace.aten_stream import AtenStream
from streamplan.trace.facts import Trace, tensors_in
from streamplan.trace.fake_proxy import FakeProxy
from streamplan.trace.reads import ReadLog
from streamplan.trace.recorder import Recorder
from streamplan.trace.script import NO_ANSWER, Ambient, Event, InputRef, ResultRef, TensorTemplate, map_tensors
from streamplan.trace.skeleton import Skeleton
from streamplan.trace.tensor_uses import METADATA_METHODS, depends_on_sizes_alone
from streamplan.trace.tracer import GraphTracer


class GuardRun(Recorder):
    """One guard run.

    Args:
        skeleton: The model's shadow.
        stream: Active aten recorder, for the case that the run becomes a trace.
        is_leaf: Which modules are called as one, as for the traces.
        traces: Traces of calls of these sizes; the one that is likeliest in front.
        ambient: What answers may depend on besides sizes.
    """

    def __init__(
        self,
        skeleton: Skeleton,
        stream: AtenStream,
        is_leaf: Callable[[nn.Module], bool],
        traces: Sequence[Trace],
        ambient: Ambient,
    ) -> None:
        super().__init__(skeleton, is_leaf)
        self.tracer: GraphTracer | None = None
        """The trace that the run has become; None while it follows a script."""
        self.stream = stream
        self._traces = list(traces)
        self._ambient = ambient
        self._inputs: list[tuple[FakeProxy, torch.Tensor]] = []
        self._made: list[tuple[Event, tuple[Any, ...], dict[str, Any], Any]] = []
        """What was done so far, with the arguments and the results."""
        self._asked: list[tuple[Any, list[torch.Tensor], Any]] = []
        """Questions, with the tensors asked and the answers."""
        self._outputs: dict[str, Any] = {}

    @property
    def executing(self) -> bool:
        """Whether a call is executed at the moment; a script needs none."""
        return self.tracer is not None and self.tracer.executing

    @property
    def events(self) -> Sequence[Event]:
        """The script of the run, as far as it went."""
        return self.tracer.events if self.tracer is not None else [event for event, *_ in self._made]

    @property
    def reads(self) -> ReadLog:
        """What the model asked of its tensors, if the run has become a trace."""
        return self.tracer.reads if self.tracer is not None else ReadLog()

    @property
    def _is_following(self) -> bool:
        return self.tracer is None

    @property
    def trace(self) -> Trace | None:
        """The trace that the run has followed to the end; None if there is none."""
        return self._traces[0] if self.tracer is None and self._traces else None

    def add_input(self, name: str, fake: torch.Tensor) -> FakeProxy:
        """Add an input of the call."""
        proxy = FakeProxy(self, InputRef(name), fake)
        self._inputs.append((proxy, fake))
        return proxy

    def add_output(self, out: Any) -> None:
        """The model has returned."""
        if self.tracer is None and self._follows(Event("output", "", self._operands.of(out)), is_last=True) is None:
            self._become_trace()
        if self.tracer is not None:
            self.tracer.add_output(out)

    def torch_function(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A torch function, method or property of a tensor is used."""
        if self.tracer is not None:
            return self.tracer.torch_function(func, args, kwargs)
        answer = super().torch_function(func, args, kwargs)
        if self._is_following and not tensors_in(answer):
            self._asked.append((func, tensors_in([args, kwargs]), answer))
        return answer

    def record(self, kind: str, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a call from the script, if that has the call."""
        if self.tracer is None:
            event = Event(kind, target, self.operands(args, kwargs), self.settings(kind, target), self.changed_modes())
            known = self._follows(event)
            if known is not None:
                return self._answer(known, args, kwargs)
            self._become_trace()
        assert self.tracer is not None
        return self.tracer.record(kind, target, args, kwargs)

    def read(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Answer a read of metadata from the script; of the model's own tensors they are known."""
        if self.tracer is None:
            if not isinstance(args[0], FakeProxy):
                return self._owned_metadata(name, args, kwargs)
            known = self._follows(Event("read", name, self.operands(args, kwargs)))
            if known is not None:
                return self._answer(known, args, kwargs)
            self._become_trace()
        assert self.tracer is not None
        return self.tracer.read(name, args, kwargs)

    def note_output(self, path: str, out: Any) -> None:
        """Keep what a module returned, for the case that the run becomes a trace."""
        if self.tracer is None:
            self._outputs[path] = out
        else:
            self.tracer.note_output(path, out)

    # -- following a script -----------------------------------------------------------------------------------------

    def _follows(self, event: Event, *, is_last: bool = False) -> Event | None:
        """The event of a script that this one is; scripts that say otherwise here are left out from now on.

        Where none is left, all stay, since they tell what was done so far.
        """
        position = len(self._made)
        following = [trace for trace in self._traces if self._has(trace, position, event, is_last)]
        if not following:
            return None
        self._traces = following
        return following[0].events[position]

    def _has(self, trace: Trace, position: int, event: Event, is_last: bool) -> bool:
        events = trace.events
        if position >= len(events) or (is_last and position != len(events) - 1):
            return False
        known = events[position]
        return known.matches(event) and (known.answer is NO_ANSWER or self._is_valid(trace, known))

    def _is_valid(self, trace: Trace, event: Event) -> bool:
        """Whether the answer of an event would be the same now."""
        return self._ambient in trace.ambients or (event.kind == "read" and depends_on_sizes_alone(event.target))

    def _answer(self, event: Event, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        facts, ref = self._traces[0].facts, ResultRef(len(self._made), ())
        spec = facts[event.node].output if event.node in facts else None
        result = self._result(event, spec, ref) if event.answer is NO_ANSWER else event.answer
        self._made.append((event, _copied(args), _copied(kwargs), result))
        return result

    def _result(self, event: Event, specs: Any, ref: ResultRef) -> Any:
        """Proxies for the tensors that a call returns, of the sizes of this call."""

        def make(template: TensorTemplate, path: tuple[Any, ...]) -> FakeProxy:
            spec = specs
            for key in path:
                spec = spec[key] if spec is not None else None
            like = TensorTemplate(spec.shape, spec.dtype) if isinstance(spec, TensorSpec) else template
            return FakeProxy(self, ResultRef(ref.event, path), like)

        return map_tensors(event.template, make, TensorTemplate)

    def _owned_metadata(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        value = getattr(args[0], name)
        return value(*args[1:], **kwargs) if name in METADATA_METHODS else value

    # -- going on as a trace ----------------------------------------------------------------------------------------

    def _become_trace(self) -> None:
        """Do again, on fake tensors, what was done so far, and trace from now on."""
        self.tracer = tracer = GraphTracer(self._skeleton, self.stream, self._is_leaf)
        tracer.state = self.state
        was_running, self.state.is_running = self.state.is_running, True  # it may have ended by now
        for proxy, fake in self._inputs:
            tracer.repeat_input(proxy, fake)
        for event, args, kwargs, result in self._made:
            tracer.repeat(event, args, kwargs, result)
        for func, tensors, answer in self._asked:
            tracer.reads.add_entry(func, tensors, answer)
        for path, out in self._outputs.items():
            tracer.note_output(path, out)
        self.state.is_running = was_running


def _copied(value: Any) -> Any:
    """Arguments with the lists and dicts among them as they are now."""
    if type(value) in (tuple, list):
        return type(value)(map(_copied, value))
    return {key: _copied(item) for key, item in value.items()} if type(value) is dict else value
