"""The check: does the graph make the same aten calls as the model itself?

In: a finished trace, and a second copy of the model. Out: nothing, or a `TraceMismatchError` that names the first
call in which the two differ. The plain run uses fake tensors as well, so the check costs as little as the trace and
holds for the planned size, not for some smaller stand-in.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode

from streamplan.errors import StreamPlanError, TraceMismatchError, TracingError
from streamplan.trace.aten_stream import AtenCall, AtenStream, describe, first_difference, label_all
from streamplan.trace.inputs import ExampleInputs
from streamplan.trace.locations import error_location, place
from streamplan.trace.patches import layers_unseen, plain_checkpoint
from streamplan.trace.reads import ReadMode
from streamplan.trace.results import ResultForm, flatten_result
from streamplan.trace.skeleton import Skeleton
from streamplan.trace.tracer import GraphTracer

_DO = "make forward compute the same whether or not it is traced (no test on type(x), no global state)"


@dataclass(frozen=True)
class Result:
    """What a run of the model made."""

    calls: list[AtenCall]
    """Its aten calls."""
    form: ResultForm
    """Structure of what it returned."""
    leaves: list[Any]
    """Descriptions of the returned values, comparable between runs."""
    reads: list[tuple[Any, ...]]
    """What its code asked of tensors."""


def run_plainly(skeleton: Skeleton, inputs: ExampleInputs, fake_mode: FakeTensorMode) -> Result:
    """Run the model on fake tensors without a tracer.

    Raises:
        TracingError: It fails.
    """
    stream, mode = AtenStream(), ReadMode()
    try:
        with fake_mode, stream, plain_checkpoint(), layers_unseen(mode, skeleton.root), mode:
            label_all(skeleton.tensors.items())
            args, kwargs = inputs.make(lambda name, fake: fake)
            values, form = flatten_result(skeleton.root(*args, **kwargs), type(skeleton.root).__name__)
        return Result(stream.calls, form, [describe(value) for value in values], mode.log.entries)
    except StreamPlanError:
        raise
    except Exception as error:
        raise TracingError(
            f"the model runs while it is traced, but a plain run fails with {type(error).__name__}",
            where=place("", type(skeleton.root).__name__, error_location(error.__traceback__)),
            why=str(error),
            do=_DO,
        ) from error


def check_trace(tracer: GraphTracer, traced: Result, plain: Result) -> None:
    """Compare both runs of a model.

    Raises:
        TraceMismatchError: They differ.
    """
    index = first_difference(traced.calls, plain.calls)
    if index is not None:
        raise TraceMismatchError(
            "the traced graph does not compute what the model computes",
            where=_where(tracer, index),
            why=f"call {index} differs\nmodel: {_call(plain, index)}\ngraph: {_call(traced, index)}",
            do=_DO,
        )
    if traced.form != plain.form or traced.leaves != plain.leaves:
        raise TraceMismatchError(
            "the traced graph does not return what the model returns",
            where=type(tracer.root).__name__,
            why=f"model: {_returned(plain)}\ngraph: {_returned(traced)}",
            do=_DO,
        )


def _where(tracer: GraphTracer, index: int) -> str:
    node: fx.Node | None = tracer.nodes.node_of_call(index)
    if node is None:
        return type(tracer.root).__name__
    record = tracer.nodes.records[node]
    return f"node {node.name} in {place(record.module_path, record.module_type, record.location)}"


def _call(result: Result, index: int) -> str:
    return str(result.calls[index]) if index < len(result.calls) else "no further call"


def _returned(result: Result) -> str:
    leaves = ", ".join(str(leaf) for leaf in result.leaves)
    return f"{leaves or 'nothing'} as {result.form}"
