"""The plain model with the random numbers of a streamed forward pass: what streaming must equal, dropout included.

A streamed forward pass draws in another order than the plain one: first what does not depend on the image (DropPath),
then one seed or mask for each streamed dropout, then what the resident part draws. The reference restores the state of
the generators from before that pass and runs the traced graph on whole tensors in the same order.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from streamplan.errors import InputMismatchError
from streamplan.images import Source, whole_tensor
from streamplan.module.executable import Executable, tensors_in_order
from streamplan.module.guards import in_modes
from streamplan.module.requests import bind_call
from streamplan.planning.arguments import CallArguments
from streamplan.rules import Draw
from streamplan.runtime.dropout import draw, drop, scale
from streamplan.runtime.random_state import RandomState

_FIRST, _EARLY, _STREAMED, _LATE = range(4)


class _PlainRun(fx.Interpreter):
    """Runs a traced graph node by node, with given random numbers in its streamed dropouts."""

    def __init__(self, model: nn.Module, executable: Executable, device: torch.device) -> None:
        super().__init__(model, graph=executable.prepared.traced.trace.graph)
        self._executable = executable
        self._device = device
        self._drawn: dict[str, tuple[Draw, Tensor]] = {}

    def run_in_order(self, inputs: list[Tensor]) -> Any:
        """The model's result, in the containers of the trace."""
        self.args_iter = iter(inputs)
        nodes = list(self.graph.nodes)
        phases = _phases(nodes, self._executable)
        has_drawn = False
        for node in sorted(nodes, key=phases.__getitem__):
            if phases[node] >= _STREAMED and not has_drawn:
                has_drawn = True
                for name, request in self._executable.draws.items():
                    self._drawn[name.rpartition(".")[0]] = request, draw(request, self._device)
            self.env[node] = self.run_node(node)
        return self.env[nodes[-1]]

    def run_node(self, n: fx.Node) -> Any:
        """The value of one node."""
        if n.name not in self._drawn:
            return super().run_node(n)
        request, drawn = self._drawn[n.name]
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        x = (*args, *kwargs.values())[0]
        if request.kind == "mask":
            return scale(x, drawn)
        return drop(x, drawn, request.p, x.shape, [0] * x.dim())


def _phases(nodes: list[fx.Node], executable: Executable) -> dict[fx.Node, int]:
    """When each node is run: in the order of prologue, tiles and head."""
    prepared, early = executable.prepared, executable.program.program.early
    calls = prepared.graph.by_name
    phases: dict[fx.Node, int] = {}
    for node in nodes:
        behind = max((phases[source] for source in node.all_input_nodes), default=_FIRST)
        if node.name in early:
            behind = max(behind, _EARLY)
        elif node.name in prepared.cut.streamed:
            behind = max(behind, _STREAMED)
        elif node.op == "output" or (node.name in calls and node.op != "placeholder"):
            behind = _LATE
        phases[node] = behind
    return phases


class Reference:
    """The plain model, called as the streamed one was; see `streamplan.testing.reference`.

    Args:
        model: The plain model.
        executable: What the streamed pass ran.
        state: Of the generators before it.
        modes: Whether each module was in training mode, by path.
    """

    def __init__(self, model: nn.Module, executable: Executable, state: RandomState, modes: Mapping[str, bool]) -> None:
        self._model = model
        self._executable = executable
        self._state = state
        self._modes = modes

    @property
    def has_streamed_draws(self) -> bool:
        """Whether the tiles of the streamed pass shared random numbers, so that the plain model draws others."""
        return bool(self._executable.draws)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """What the plain model computes with the recorded random numbers.

        Raises:
            InputMismatchError: It is called with other arguments than the streamed one was, tensors' values apart.
        """
        args, kwargs = bind_call(self._model, args, kwargs)
        planned = self._executable.plan.arguments
        if CallArguments.of_tensors(args, kwargs) != planned:
            raise InputMismatchError(
                "the reference is called otherwise than the streamed module was",
                why="random numbers are recorded for a call with the same arguments, and tensors of the same sizes: "
                f"{planned}",
                do="pass what the streamed module was called with last",
            )
        norms = self._executable.streamed_batch_norms if self._executable.plan.batch_norm == "frozen" else ()
        modes = {**self._modes, **dict.fromkeys(norms, False)}
        with self._state.restored(), in_modes(self._model, modes):
            run = _PlainRun(self._model, self._executable, self._state.device)
            result = run.run_in_order(_tensors(args, kwargs, self._state.device))
        return self._executable.output_form.fill(result)


def _tensors(args: tuple[Any, ...], kwargs: Mapping[str, Any], device: torch.device) -> list[Tensor]:
    """The tensors of a call; sources are read as a whole."""
    found = tensors_in_order(args, kwargs)
    return [whole_tensor(x, device) if isinstance(x, Source) else x for x in found]
