"""What ends the local part of a net, and when that is an error."""

from __future__ import annotations

from streamplan.analysis.cuts import latest_cut
from streamplan.analysis.locality import LocalityFacts
from streamplan.errors import NothingToStreamError, TrainingBatchNormError
from streamplan.ir import Graph, OpCall
from streamplan.options import Options
from streamplan.planning.plan import Barrier
from streamplan.rules import Locality


def find_barriers(graph: Graph, facts: LocalityFacts) -> tuple[Barrier, ...]:
    """Global and unknown calls that read the local part, in graph order."""
    barriers = []
    for call in graph.calls:
        verdict = facts.verdicts[call.name]
        if verdict.locality in (Locality.GLOBAL, Locality.UNKNOWN):
            name = call.target.rsplit(".", 1)[-1] or call.op
            barriers.append(Barrier(call.name, call.where, verdict.locality.value, f"{name}: {verdict.reason}"))
    return tuple(barriers)


def check_batch_norms(graph: Graph, facts: LocalityFacts, options: Options) -> None:
    """Refuse a BatchNorm in training mode between the image and the requested cut, unless it may be resident.

    Raises:
        TrainingBatchNormError: There is one, and `batch_norm` is "error".
    """
    if options.batch_norm != "error":
        return
    barriers = [call for call in graph.calls if _is_training_batch_norm(call, facts)]
    if options.cut_names:
        wanted = _ancestors(graph, options.cut_names)
        barriers = [call for call in barriers if call.name in wanted]
    if not barriers:
        return
    count = len([call for call in graph.calls if call.op == "batch_norm" and call.arguments["training"]])
    if barriers[0].arguments["running_mean"] is None:
        raise TrainingBatchNormError(
            f"BatchNorm without running statistics stands in the way ({count} in the net, the first named here)",
            where=barriers[0].where,
            why="without them it needs statistics of the whole map in eval mode too, and no tile has those",
            do="train with BatchNorm(track_running_stats=True); or batch_norm='resident' to cut the net before it;\n"
            "or an earlier cut=",
        )
    raise TrainingBatchNormError(
        f"BatchNorm in training mode stands in the way ({count} in the net, the first named here)",
        where=barriers[0].where,
        why="in training mode it needs statistics of the whole map, which no tile has",
        do="model.eval() before compiling; or batch_norm='frozen' to keep streamed BatchNorm in eval mode;\n"
        "or batch_norm='resident' to cut the net before the first one; or an earlier cut=",
    )


def check_streamable(graph: Graph, facts: LocalityFacts) -> None:
    """Refuse a net without a local prefix.

    Raises:
        NothingToStreamError: No input is an image, or the first call that reads it is not local.
    """
    barriers = find_barriers(graph, facts)
    if not facts.input_maps and not barriers:
        raise NothingToStreamError(
            "nothing can be streamed: no input of the model is an image",
            why="no input tensor has at least three dimensions (batch, channels, axis 0, ...)",
            do="call the model with an image, batch and channels included",
        )
    if facts.input_maps and latest_cut(graph, facts).frontier:
        return
    first = barriers[0] if barriers else None
    raise NothingToStreamError(
        "nothing can be streamed: no local operation reads the image first",
        where=first.where if first else "",
        why=first.reason if first else "the model's result does not depend on the image",
        do="streaming needs convolutions, pooling or pointwise operations before the first global one",
    )


def _is_training_batch_norm(call: OpCall, facts: LocalityFacts) -> bool:
    is_barrier = facts.verdicts[call.name].locality is Locality.GLOBAL
    return is_barrier and call.op == "batch_norm" and bool(call.arguments["training"])


def _ancestors(graph: Graph, names: tuple[str, ...]) -> frozenset[str]:
    """All values that the named values, or else module outputs, are computed from."""
    found: set[str] = set()
    pending = [name if name in graph.by_name else graph.module_outputs.get(name, name) for name in names]
    while pending:
        name = pending.pop()
        if name not in found and name in graph.by_name:
            found.add(name)
            pending.extend(graph[name].inputs)
    return frozenset(found)
