"""First stage: a model becomes an fx graph of everything it does on the planned input size.

In: an `nn.Module` and specs of its inputs. Out: a `Trace`. No tensor of the model or of its activations is allocated;
the model runs on fake tensors of the full size. Four steps:

    skeleton    copy the model, without its data
    tracer      run the copy on proxies; each call becomes a node, executed at once on fake tensors
    check       run another copy plainly, and compare the aten calls of both runs one by one
    inplace     turn in-place writes into data flow

It gives up with a `TracingError` where the computation depends on values rather than sizes, where `forward` switches
gradients or autocast, or where the two runs differ.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

from streamplan.errors import ModelTypeError, StreamPlanError, TracingError
from streamplan.trace.aten_stream import AtenStream, describe, label_all
from streamplan.trace.check import Result, check_trace, run_plainly
from streamplan.trace.factories import free_factories
from streamplan.trace.facts import Trace
from streamplan.trace.fake_proxy import FakeProxy
from streamplan.trace.guard.guard_run import GuardRun
from streamplan.trace.guard.shadow import Shadow, tensors_token
from streamplan.trace.guard.write_back import refuse_kept, refuse_kept_outside, write_back
from streamplan.trace.inplace import drop_unused_reads, functionalize
from streamplan.trace.inputs import ExampleInputs
from streamplan.trace.leaves import TorchLeaves, check_functional, is_compiled
from streamplan.trace.locations import error_location, place
from streamplan.trace.modes import AmbientModes, as_in_a_call, default_dtype, no_autocast
from streamplan.trace.patches import steady_execution
from streamplan.trace.registered import is_registered_leaf
from streamplan.trace.replay.sizes import make_replayable
from streamplan.trace.results import ResultForm, flatten_result
from streamplan.trace.script import Ambient, constants_of, input_metadata, is_same_run
from streamplan.trace.skeleton import Skeleton, copy_skeleton, make_skeleton
from streamplan.trace.state.fixed import Fixed, check_settings
from streamplan.trace.state.python_state import PythonState, watched
from streamplan.trace.tracer import GraphTracer


def trace_model(
    model: nn.Module,
    args: Sequence[Any],
    kwargs: Mapping[str, Any] | None = None,
    *,
    is_leaf: Callable[[nn.Module], bool] | None = None,
    device: torch.device | str | None = None,
    check: bool = True,
) -> Trace:
    """Trace a model on the planned input size.

    Args:
        model: The model, on any device, meta included; never changed.
        args: Positional arguments of `forward`: a `TensorSpec` for each tensor, constants, or nested tuples, lists and
            dicts of them. Arguments not given keep their defaults.
        kwargs: Keyword arguments, likewise.
        is_leaf: Further modules to keep as one node, besides torch's own layers, those with a registered rule, and what
            `torch.compile` made.
        device: Device to trace for; None takes the model's own, cpu for a model on meta.
        check: Whether to compare the graph with a plain run.

    Returns:
        The trace.

    Raises:
        ModelTypeError: `model` is not an `nn.Module`.
        TracingError: The model cannot be traced; `where` points at the line.
        TraceMismatchError: The graph does not compute what a plain run computes.
    """
    if not isinstance(model, nn.Module):
        raise ModelTypeError(f"a model must be an nn.Module, not {type(model).__name__}")
    check_functional()
    target = _checked_device(device)
    fake_mode = FakeTensorMode()
    with torch.inference_mode(False), torch.enable_grad(), no_autocast(), default_dtype(), steady_execution():
        skeleton = make_skeleton(model, fake_mode, target)
        inputs = ExampleInputs(model, args, kwargs or {}, target or _device_of(skeleton))
        run = _Run(skeleton, inputs, fake_mode, PythonState.current(model), Fixed.of(skeleton), _ambient(model, ()))
        plain_skeleton = copy_skeleton(skeleton) if check else None
        tracer = GraphTracer(skeleton, AtenStream(), _leaf_rule(is_leaf))
        with run.before.again(run.skeleton.root), watched():
            traced = _run_recorder(tracer, run)
            run.fixed.check(skeleton)
            refuse_kept_outside(run.before.outside, skeleton.root, constants_of(tracer.events))
        refuse_kept(skeleton.root, model, constants_of(tracer.events))
        return _finished(tracer, traced, run, plain_skeleton)


def guard_call(
    model: nn.Module,
    shadow: Shadow,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    like: Sequence[Any],
    traces: Sequence[Trace],
) -> Trace:
    """Run a model's code for one call, and find the trace that tells what it does, or make it.

    The code is run once, under the switches of torch that are on, on the shadow; what it does to the model's Python
    state is done to the model.

    Args:
        model: The model.
        shadow: Its shadow, as the model is now.
        args: As for `trace_model`.
        kwargs: As for `trace_model`.
        like: The tensors of the call, or what stands in their place, in the order of their specs.
        traces: Traces of such calls; the likeliest in front.

    Returns:
        One of the traces, or a new one.

    Raises:
        TracingError: The model cannot be traced, or keeps a tensor from one call to the next.
        TraceMismatchError: The model does something else each time it is run.
    """
    check_functional()
    with as_in_a_call(), default_dtype(), steady_execution():
        device = _device_of(shadow.skeleton)
        inputs = ExampleInputs(model, args, kwargs, device, like)
        ambient = _ambient(model, [input_metadata(x) for x in like if isinstance(x, torch.Tensor)], shadow.metadata)
        python, fixed = PythonState.current(model), Fixed.of(shadow.skeleton)
        run = _Run(shadow.skeleton, inputs, shadow.fake_mode, python, fixed, ambient)
        before, seeds = shadow.before_run(), torch.get_rng_state()
        guard = GuardRun(shadow.skeleton, AtenStream(), _leaf_rule(None), traces, ambient)
        try:
            traced = _run_recorder(guard, run)
            run.fixed.check(shadow.skeleton)
            check_settings(guard, guard.events, shadow.changed_paths())
            refuse_kept_outside(run.before.outside, model, constants_of(guard.events))
        except Exception:
            run.before.outside.left_in(model)
            with suppress(TracingError):  # the plain net, too, is left as its error found it
                write_back(shadow, before, constants_of(guard.events))
            raise
        if not torch.equal(seeds, torch.get_rng_state()):  # the model has seeded, or another thread has drawn
            with run.before.again(run.skeleton.root), watched():
                run_plainly(copy_skeleton(shadow.skeleton_before(before)), inputs, shadow.fake_mode)
        known = guard.trace or next((trace for trace in traces if is_same_run(trace.events, guard.events)), None)
        skeleton = shadow.skeleton_before(before) if known is None else shadow.skeleton
        write_back(shadow, before, constants_of(guard.events))
        if known is not None:
            known.ambients.add(ambient)
            return known
        assert guard.tracer is not None
        run = replace(run, skeleton=skeleton)
        return _finished(guard.tracer, traced, run, copy_skeleton(skeleton))


@dataclass(frozen=True)
class _Run:
    """What a model is run on."""

    skeleton: Skeleton
    inputs: ExampleInputs
    fake_mode: FakeTensorMode
    before: PythonState
    """Before the run."""
    fixed: Fixed
    """Likewise."""
    ambient: Ambient


def _ambient(model: nn.Module, inputs: Sequence[Any], owned: tuple[Any, ...] | None = None) -> Ambient:
    return Ambient(AmbientModes.current(), tuple(inputs), tensors_token(model) if owned is None else owned)


def _finished(tracer: GraphTracer, traced: Result, run: _Run, plain_skeleton: Skeleton | None) -> Trace:
    """The trace of a run, checked against a plain run of the same.

    Raises:
        TraceMismatchError: They differ.
    """
    if plain_skeleton is None:
        tracer.reads.give_up()
    else:
        with run.before.again(run.skeleton.root), watched():
            plain = run_plainly(plain_skeleton, run.inputs, run.fake_mode)
        check_trace(tracer, traced, plain)
        check_settings(tracer, tracer.events)
        run = replace(run, skeleton=plain_skeleton)  # its layers are set as they were called
        if plain.reads != traced.reads:  # harmless at this size; at another the plain run may know better
            tracer.reads.give_up()
    trace = _finish(tracer, run, traced.form)
    device = run.inputs.device
    return make_replayable(trace, tracer.nodes.records, tracer.reads, run.fake_mode, device, run.ambient)


def _checked_device(device: torch.device | str | None) -> torch.device | None:
    if device is None:
        return None
    target = torch.device(device)
    if target.type == "cuda" and not torch.cuda.is_available():
        raise TracingError(
            "the model cannot be traced for cuda here",
            why="torch chooses algorithms by asking the device, and no CUDA device is available",
            do="trace for cpu, or on the machine that will run the model",
        )
    return torch.device("cpu") if target.type == "meta" else target


def _leaf_rule(is_leaf: Callable[[nn.Module], bool] | None) -> Callable[[nn.Module], bool]:
    tests = (TorchLeaves(), is_compiled, is_registered_leaf, *(() if is_leaf is None else (is_leaf,)))
    return lambda module: any(test(module) for test in tests)


def _device_of(skeleton: Skeleton) -> torch.device:
    return next((tensor.device for tensor in skeleton.tensors.values()), torch.device("cpu"))


def _run_recorder(recorder: GraphTracer | GuardRun, run: _Run) -> Result:
    """Run the model; every error comes out as a `TracingError` with its place."""
    try:
        with run.fake_mode, recorder.stream:
            label_all(run.skeleton.tensors.items())
            args, kwargs = run.inputs.make(recorder.add_input)
            out = recorder.run(args, kwargs)
            values, form = flatten_result(out, type(recorder.root).__name__)
            recorder.add_output(out)
            _check_buffers(run.skeleton.root)
            leaves = [describe(vars(value).get("fake") if isinstance(value, FakeProxy) else value) for value in values]
            return Result(recorder.stream.calls, form, leaves, recorder.reads.entries)
    except StreamPlanError:
        raise
    except Exception as error:
        path, type_name = recorder.failing_module(error)
        raise TracingError(
            f"tracing failed with {type(error).__name__}",
            where=place(path, type_name, error_location(error.__traceback__)),
            why=str(error),
            do="check that the model runs on an input of this size; register what cannot be traced as a leaf",
        ) from error


def _check_buffers(root: nn.Module) -> None:
    """Refuse a `forward` that assigns a buffer: the graph computes the value, but would not store it."""
    for path, module in root.named_modules():
        for name, buffer in module._buffers.items():
            if isinstance(buffer, FakeProxy):
                raise TracingError(
                    f"forward assigns the buffer {name}",
                    where=place(path, type(module).__name__, None),
                    why="the graph of a model has no node that stores a value in a module",
                    do="update the buffer outside forward, or register the module as a leaf",
                )


def _finish(tracer: GraphTracer, run: _Run, form: ResultForm) -> Trace:
    functionalize(tracer.nodes.graph, tracer.nodes.records)
    free_factories(tracer.nodes.graph, tracer.nodes.records)
    drop_unused_reads(tracer.nodes.graph, set(tracer.module_outputs.values()))
    tracer.nodes.graph.lint()
    return Trace(
        graph=tracer.nodes.graph,
        facts={node.name: tracer.nodes.records[node].freeze() for node in tracer.nodes.graph.nodes},
        module_outputs=tracer.module_outputs,
        shape_reads=tuple(tracer.shape_reads),
        skeleton=run.skeleton.root,
        input_names=tuple(node.name for node in tracer.nodes.graph.nodes if node.op == "placeholder"),
        output_form=form,
        events=tuple(tracer.events),
        ambients={run.ambient},
    )
