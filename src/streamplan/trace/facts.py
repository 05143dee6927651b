"""What the tracer hands to the rest of the front end: a `Trace`, with one `NodeFact` per node of its fx graph.

The graph alone says which callables ran in which order. The facts say what that meant on the planned input size: shapes
and dtypes, which results share memory, what is written in place, how much arithmetic and memory a call takes, and which
line of the user's code it came from. Nothing here holds a tensor.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import fx

from streamplan.ir import SourceLocation, TensorSpec

if TYPE_CHECKING:
    from streamplan.trace.replay.sizes import Replay
    from streamplan.trace.results import ResultForm
    from streamplan.trace.script import Ambient, Event


@dataclass(frozen=True, slots=True)
class NodeFact:
    """What one node of the traced graph does on the planned input."""

    output: Any
    """What the node evaluates to: a `TensorSpec`, a constant, or a tuple, list or dict of those."""
    storages: tuple[int, ...] = ()
    """Storages behind the tensors of `output`, in order, each once; equal numbers mean shared memory."""
    is_view: bool = False
    """Whether it returns tensors and all of them live in storages that existed before the call."""
    mutates: tuple[int, ...] = ()
    """Storages that existed before the call and are written by it (those of parameters and buffers too, unless a leaf
    module writes its own)."""
    location: SourceLocation | None = None
    """Line of the user's code that made the call."""
    module_path: str = ""
    """Innermost module the call was made in; for a leaf module its own path; "" for the model itself."""
    module_type: str = ""
    """Class name of that module."""
    flops: int = 0
    """Floating-point operations of the forward call (a multiply-add counts two)."""
    activation_bytes: int = 0
    """Bytes of the storages allocated by the call that its outputs keep; 0 for views and in-place calls."""
    unsafe_write: str = ""
    """Why the value must not be streamed: it is written in place later, in a way the graph cannot express."""


@dataclass(frozen=True)
class Trace:
    """A traced model."""

    graph: fx.Graph
    """Every call the model made, in order, on leaf modules, functions, methods and attributes of the model."""
    facts: Mapping[str, NodeFact]
    """Facts by node name."""
    module_outputs: Mapping[str, str]
    """Module path to the node its last call returned, for modules that returned exactly one tensor."""
    shape_reads: tuple[SourceLocation, ...]
    """Lines that read the extents of an activation as numbers, each once; the graph is specialised to them."""
    skeleton: torch.nn.Module
    """Copy of the model whose tensors are fake; what was traced."""
    input_names: tuple[str, ...]
    """Names of the placeholder nodes, all of them tensors, in the order of the model's arguments."""
    output_form: ResultForm
    """Form of what the model returns; the output node holds the same leaves in plain containers."""
    events: tuple[Event, ...] = ()
    """The script of the run: everything the model's code did."""
    ambients: set[Ambient] = field(default_factory=set)
    """Circumstances in which the answers in the script are known to hold, the trace's own among them."""
    replay: Replay | None = None
    """What the trace at another size can be had with; None if that takes another run of the model."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "facts", MappingProxyType(dict(self.facts)))
        object.__setattr__(self, "module_outputs", MappingProxyType(dict(self.module_outputs)))


def specify(value: Any) -> Any:
    """Replace every tensor in a value by its `TensorSpec`."""
    if isinstance(value, torch.Tensor):
        return TensorSpec(tuple(value.shape), value.dtype)
    return map_structure(specify, value)


def map_structure(function: Any, value: Any) -> Any:
    """Rebuild a tuple, list, dict or slice with `function` applied to its items; return other values as they are."""
    if isinstance(value, dict):
        return {key: function(item) for key, item in value.items()}
    if isinstance(value, torch.Size):
        return tuple(value)
    if isinstance(value, tuple | list):
        items = [function(item) for item in value]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, slice):
        return slice(function(value.start), function(value.stop), function(value.step))
    return value


def tensors_in(value: Any) -> list[torch.Tensor]:
    """All tensors in a nested tuple, list or dict, depth first."""
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, tuple | list) and not isinstance(value, torch.Size):
        return [tensor for item in value for tensor in tensors_in(item)]
    return []
