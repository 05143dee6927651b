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
from typing import Any

import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import _pytree as pytree

from streamplan.errors import ModelTypeError, StreamPlanError, TracingError
from streamplan.frontend.aten_stream import AtenStream, describe, label_all
from streamplan.frontend.check import Result, check_trace, run_plainly
from streamplan.frontend.factories import free_factories
from streamplan.frontend.facts import Trace
from streamplan.frontend.fake_proxy import FakeProxy
from streamplan.frontend.inplace import drop_unused_reads, functionalize
from streamplan.frontend.inputs import ExampleInputs
from streamplan.frontend.leaves import TorchLeaves, is_compiled
from streamplan.frontend.locations import error_location, place
from streamplan.frontend.modes import no_autocast
from streamplan.frontend.patches import steady_execution
from streamplan.frontend.registered import is_registered_leaf
from streamplan.frontend.replay import make_replayable
from streamplan.frontend.skeleton import Skeleton, copy_skeleton, make_skeleton
from streamplan.frontend.tracer import GraphTracer


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
    target = _checked_device(device)
    fake_mode = FakeTensorMode()
    with torch.inference_mode(False), torch.enable_grad(), no_autocast(), steady_execution():
        skeleton = make_skeleton(model, fake_mode, target)
        inputs = ExampleInputs(model, args, kwargs or {}, target or _device_of(skeleton))
        plain_skeleton = copy_skeleton(skeleton) if check else None
        tracer = GraphTracer(skeleton, AtenStream(), _leaf_rule(is_leaf))
        traced = _run_tracer(tracer, skeleton, inputs, fake_mode)
        if plain_skeleton is None:
            tracer.reads.give_up()
        else:
            plain = run_plainly(plain_skeleton, inputs, fake_mode)
            check_trace(tracer, traced, plain)
            if plain.reads != traced.reads:  # harmless at this size; at another the plain run may know better
                tracer.reads.give_up()
        trace = _finish(tracer, skeleton, traced.spec)
        records, device = tracer.nodes.records, target or _device_of(skeleton)
        return make_replayable(trace, records, tracer.reads, fake_mode, device)


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


def _run_tracer(tracer: GraphTracer, skeleton: Skeleton, inputs: ExampleInputs, fake_mode: FakeTensorMode) -> Result:
    """Build the graph; every error comes out as a `TracingError` with its place."""
    try:
        with fake_mode, tracer.stream:
            label_all(skeleton.tensors.items())
            args, kwargs = inputs.make(tracer.add_input)
            out = tracer.run(args, kwargs)
            values, spec = pytree.tree_flatten(out)
            tracer.add_output(out)
            _check_buffers(skeleton.root)
            leaves = [describe(value.fake if isinstance(value, FakeProxy) else value) for value in values]
            return Result(tracer.stream.calls, spec, leaves, tracer.reads.entries)
    except StreamPlanError:
        raise
    except Exception as error:
        path, type_name = tracer.failing_module(error)
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


def _finish(tracer: GraphTracer, skeleton: Skeleton, spec: pytree.TreeSpec) -> Trace:
    functionalize(tracer.nodes.graph, tracer.nodes.records)
    free_factories(tracer.nodes.graph, tracer.nodes.records)
    drop_unused_reads(tracer.nodes.graph, set(tracer.module_outputs.values()))
    tracer.nodes.graph.lint()
    return Trace(
        graph=tracer.nodes.graph,
        facts={node.name: tracer.nodes.records[node].freeze() for node in tracer.nodes.graph.nodes},
        module_outputs=tracer.module_outputs,
        shape_reads=tuple(tracer.shape_reads),
        skeleton=skeleton.root,
        input_names=tuple(node.name for node in tracer.nodes.graph.nodes if node.op == "placeholder"),
        output_spec=spec,
    )
