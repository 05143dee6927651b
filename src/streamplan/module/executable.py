"""One call's worth of a compiled model: plan, program and segment, ready to run."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, nn

from streamplan.codegen import LoadedProgram, load_prepared
from streamplan.errors import InputMismatchError, SourceError
from streamplan.images import Source, check_apart, target_for
from streamplan.planning import Plan, PreparedPlan
from streamplan.planning.memory import CallMemory
from streamplan.rules import Draw
from streamplan.runtime import (
    GraphCache,
    Observer,
    OnTile,
    Progress,
    Segment,
    build_segment,
    observe_segment,
    reporting_shortage,
    stream_segment,
    write_segment,
)
from streamplan.runtime.dropout import draw
from streamplan.trace.containers import leaves
from streamplan.trace.results import ResultForm


@dataclass(frozen=True, eq=False)
class Executable:
    """A prepared plan with the program that carries it out."""

    prepared: PreparedPlan
    program: LoadedProgram
    segment: Segment
    input_names: tuple[str, ...]
    """Names of the model's tensor inputs, in the order of `CallArguments`."""
    output_form: ResultForm
    """Form of what the model returns."""
    resident_modules: frozenset[str]
    """Paths of the modules that the head calls."""
    streamed_modules: frozenset[str]
    """Paths of the modules with a call in the streamed part, and of those around them."""
    streamed_batch_norms: tuple[str, ...]
    """Paths of the BatchNorm modules in the streamed part."""
    is_streamed_whole: bool
    """Whether the model returns one map, which tiles compute."""
    graphs: GraphCache | None
    """Recordings of tiles on a GPU; None runs tiles one operation after the other."""

    @property
    def plan(self) -> Plan:
        """The plan."""
        return self.prepared.plan

    @property
    def draws(self) -> Mapping[str, Draw]:
        """Random numbers that all tiles of a forward pass share."""
        return self.prepared.lowered.draws

    def run(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        on_tile: OnTile | None = None,
    ) -> Any:
        """Compute the model's result.

        Args:
            model: The user's model; its parameters, buffers and resident modules are used as they are now.
            inputs: The tensors and sources of the call, in the order of `input_names`.
            device: That of the model; maps that only tiles read may be in host memory.
            on_tile: Progress callback.

        Raises:
            SourceError, InputMismatchError: Something but the tiles reads an input that is no tensor on the device.
            OutOfMemoryError: Memory runs out.
        """
        progress = self._progress(inputs, device, on_tile)
        compute = partial(self._run, model, inputs, device, progress)
        return reporting_shortage(compute, self.segment.memory, progress, device)

    def _run(
        self, model: nn.Module, inputs: Sequence[Tensor | Source], device: torch.device, progress: Progress
    ) -> Any:
        """`run`, in frames of its own, which hold the cut and all that hangs on it."""
        values, smalls, weights = self._prepare(model, inputs, device, progress)
        maps = [values[name] for name in self.segment.part.input_maps]
        cut = stream_segment(self.segment, maps, smalls, device, progress, graphs=self.graphs, watched=weights)
        progress.begin("head")
        values |= dict(zip(self.segment.outputs, cut, strict=True))
        result = self.program.head(model, *(values[name] for name in self.program.program.head_inputs))
        return self.output_form.fill(result)

    def write(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        out: Any,
        on_tile: OnTile | None = None,
    ) -> None:
        """Compute the model's result without autograd and write it, tile by tile, into an array.

        Raises:
            SourceError: The result is not one map that tiles compute, or does not fit the array.
            OutOfMemoryError: Memory runs out.
        """
        if not self.is_streamed_whole:
            raise SourceError(
                "the output is not computed by tiles alone",
                where=f"the resident part begins after {', '.join(self.plan.cut)}",
                why="only one map that leaves the last tile operation as it is can be written tile by tile",
                do="leave out= away, or take a model that ends there",
            )
        ((name, spec),) = self.segment.outputs.items()
        target = target_for(out, spec.shape, spec.dtype)
        check_apart("out", target.contents, self._needed(model, inputs))
        self._without_autograd(partial(self._write, model, inputs, device, {name: target}), inputs, device, on_tile)

    def _write(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        targets: Mapping[str, Source],
        progress: Progress,
    ) -> None:
        values, smalls, _ = self._prepare(model, inputs, device, progress)
        maps = [values[name] for name in self.segment.part.input_maps]
        write_segment(self.segment, maps, smalls, device, targets, progress, self.graphs)

    def _needed(self, model: nn.Module, inputs: Sequence[Tensor | Source]) -> dict[str, Any]:
        """Arrays that must stay as they are during a call, by what they are."""
        named = zip(self.input_names, inputs, strict=True)
        tensors = (*model.named_parameters(), *model.named_buffers())
        return {f"the input {name!r}": x.contents if isinstance(x, Source) else x for name, x in named} | {
            f"the model's {path}": x for path, x in tensors
        }

    def observe(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        observer: Observer,
        on_tile: OnTile | None = None,
    ) -> None:
        """Compute the tiles without autograd, and show the values that the program was made to show.

        Nothing resident is computed, so that an input that it alone would read may be anything.

        Raises:
            OutOfMemoryError: Memory runs out.
        """
        self._without_autograd(partial(self._observe, model, inputs, device, observer), inputs, device, on_tile)

    def _observe(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        observer: Observer,
        progress: Progress,
    ) -> None:
        values, smalls, _ = self._prepare(model, inputs, device, progress, has_head=False)
        maps = [values[name] for name in self.segment.part.input_maps]
        observe_segment(self.segment, maps, smalls, device, observer, progress)

    def _without_autograd(
        self,
        compute: Callable[[Progress], None],
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        on_tile: OnTile | None,
    ) -> None:
        """Run a pass over the tiles that keeps no cut."""
        progress = self._progress(inputs, device, on_tile, is_written=True)
        with torch.no_grad():
            reporting_shortage(partial(compute, progress), self.segment.memory, progress, device)

    def _progress(
        self,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        on_tile: OnTile | None,
        *,
        is_written: bool = False,
    ) -> Progress:
        """What is known of a call before it begins."""
        values = dict(zip(self.input_names, inputs, strict=True))
        images = [x for name in self.segment.part.input_maps if isinstance(x := values[name], Tensor)]
        memory = CallMemory(
            device_type=device.type,
            image_bytes=sum(x.nbytes for x in images),
            image_place="device" if all(x.device.type == device.type for x in images) else "host",
            is_image_wanted=torch.is_grad_enabled() and any(x.requires_grad for x in images),
            is_written=is_written,
            is_autocast=torch.is_autocast_enabled(device.type),
        )
        return Progress(self.segment.num_tiles, memory, on_tile)

    def _prepare(
        self,
        model: nn.Module,
        inputs: Sequence[Tensor | Source],
        device: torch.device,
        progress: Progress,
        *,
        has_head: bool = True,
    ) -> tuple[dict[str, Any], dict[str, Tensor], tuple[Tensor, ...]]:
        """Values by name, the small tensors of the tiles, and the tensors they were made from."""
        values: dict[str, Any] = dict(zip(self.input_names, inputs, strict=True))
        program = self.program.program
        resident = {*program.prologue_inputs, *program.prologue_smalls, *(program.head_inputs if has_head else ())}
        for name in self.input_names:
            if name in resident:
                _check_resident(name, values[name], device)
        _check_gradients_apart(values, self._needed(model, inputs))
        early = self.program.prologue(model, *(values[name] for name in program.prologue_inputs))
        values |= dict(zip(program.prologue_values, early, strict=True))
        weights = {path: attrgetter(path)(model) for path in program.attributes}
        weights |= {name: values[name] for name in program.prologue_smalls}
        drawn = {name: draw(request, device) for name, request in self.draws.items()}
        tensors = {**weights, **dict(self.program.derive(weights)), **drawn}
        smalls = {name: self.segment.ordered(tensors[name]) for name in program.smalls}
        made = [x for name, x in smalls.items() if x is not weights.get(name)]
        wanted = [x for x in smalls.values() if x.requires_grad]
        progress.memory = replace(
            progress.memory,
            weight_bytes=sum(x.nbytes for x in made),
            gradient_bytes=sum(x.nbytes for x in wanted),
            is_differentiated=torch.is_grad_enabled() and (bool(wanted) or any(x.requires_grad for x in inputs)),
        )
        return values, smalls, tuple(weights.values())


def build_executable(
    prepared: PreparedPlan, *, cuda_graphs: bool = False, observed: Collection[str] = ()
) -> Executable:
    """Emit and load the program of a prepared plan.

    Args:
        prepared: The plan.
        cuda_graphs: Whether tiles are recorded on a GPU.
        observed: Cut values for `observe`, the only method such an executable has a program for.
    """
    part, trace = prepared.part, prepared.traced.trace
    loaded = load_prepared(prepared, observed)
    segment = build_segment(prepared, loaded.program.smalls, loaded.tile)
    streamed = prepared.cut.streamed
    resident = {
        str(node.target) for node in trace.graph.nodes if node.op == "call_module" and node.name not in streamed
    }
    paths = [call.module_path.split(".") for call in prepared.graph.calls if call.name in streamed]
    around = frozenset(".".join(path[:depth]) for path in paths for depth in range(len(path) + 1))
    norms = tuple(
        call.module_path for call in prepared.graph.calls if call.op == "batch_norm" and call.name in streamed
    )
    output = next(node for node in trace.graph.nodes if node.op == "output")
    is_whole = tuple(node.name for node in output.all_input_nodes) == part.frontier and len(part.frontier) == 1
    return Executable(
        prepared,
        loaded,
        segment,
        trace.input_names,
        trace.output_form,
        frozenset(resident),
        around,
        norms,
        is_whole,
        GraphCache(segment, loaded.program.source) if cuda_graphs else None,
    )


def tensors_in_order(args: Sequence[Any], kwargs: Mapping[str, Any]) -> list[Tensor | Source]:
    """All tensors and sources of a call, in the order the trace of such a call names them."""
    return [x for _, x in leaves((tuple(args), dict(kwargs))) if isinstance(x, torch.Tensor | Source)]


def _check_gradients_apart(values: Mapping[str, Any], needed: Mapping[str, Any]) -> None:
    """Refuse arrays for gradients that share memory with what is needed, or with each other.

    Raises:
        SourceError: Two do.
    """
    written: dict[str, Any] = {}
    for name, x in values.items():
        if isinstance(x, Source) and x.written is not None and not any(x is values[other] for other in written):
            others = {f"the gradient of {other!r}": array for other, array in written.items()}
            check_apart(f"the array for the gradient of {name!r}", x.written, {**needed, **others})
            written[name] = x.written


def _check_resident(name: str, value: Any, device: torch.device) -> None:
    """Refuse what the resident part cannot read.

    Raises:
        SourceError: It is a source.
        InputMismatchError: It is a tensor in host memory, and the model is elsewhere.
    """
    what = f"the input {name!r} is read as a whole"
    if isinstance(value, Source):
        raise SourceError(what, why=f"it is {value!r}, which only tiles can read", do=f"pass a tensor on {device}")
    if isinstance(value, Tensor) and value.device.type != device.type:
        raise InputMismatchError(
            what, why=f"it is on {value.device}, the model on {device}", do=f"move the input: x.to({str(device)!r})"
        )
