"""The table of operations in the documentation: it is the generated one, and its spellings mean what it says."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from streamplan.features.operations import operation_page
from streamplan.planning import trace_and_lower
from streamplan.planning.arguments import CallArguments
from streamplan.rules import REASONS, registered_ops
from tests.golden import GoldenMode
from tests.rules.spellings import Net

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
ROW = re.compile(r"^\| `(\w+)` \|(.*)\|$", re.MULTILINE)
ARGUMENTS: dict[str, tuple[Any, ...]] = {
    "conv": (torch.randn(4, 4, 1, 1),),
    "conv_transpose": (torch.randn(4, 4, 1, 1),),
    "slice": (1, 1, 2),
    "permute": ((0, 2, 1, 3),),
}
"""Further arguments of the spellings of an operation, where numbers will not do."""


def rows() -> Iterator[tuple[str, list[str]]]:
    """Operation and spellings of each row of the committed page."""
    for op, cells in ROW.findall(PAGE.read_text(encoding="utf-8")):
        yield op, re.findall(r"`([^`]+)`", cells.split("|", 1)[1]) if cells.count("|") == 3 else []


ROWS = dict(rows()) if PAGE.is_file() else {}
SPELLINGS = [(op, name) for op, names in ROWS.items() for name in names]


def test_the_page_is_the_generated_one() -> None:
    text = operation_page()
    if GoldenMode.update:
        PAGE.write_text(text, encoding="utf-8", newline="\n")
    assert PAGE.read_text(encoding="utf-8") == text, "docs/operations.md is out of date: run with --update-golden"


def test_every_operation_has_a_row() -> None:
    assert set(ROWS) == set(registered_ops()) | set(REASONS)


def test_well_known_spellings_are_in_their_rows() -> None:
    assert ROWS["conv"] == [
        "nn.Conv1d", "nn.Conv2d", "nn.Conv3d", "F.conv1d", "F.conv2d", "F.conv3d",
        "torch.conv1d", "torch.conv2d", "torch.conv3d",
    ]  # fmt: skip
    assert ROWS["relu"] == ["nn.ReLU", "F.relu", "torch.relu", ".relu"]
    assert {"torch.chunk", ".narrow", "operator.getitem"} <= set(ROWS["slice"])
    assert {"torch.transpose", ".permute", ".swapaxes"} <= set(ROWS["permute"])
    assert {".float", ".to", ".half"} <= set(ROWS["to"])


@pytest.mark.parametrize(("op", "name"), SPELLINGS, ids=[f"{op}-{name}" for op, name in SPELLINGS])
def test_the_name_exists(op: str, name: str) -> None:
    assert callable(lookup(name))


def lookup(name: str) -> Any:
    if name.startswith("."):
        return getattr(Tensor, name[1:])
    return eval(name, {"nn": nn, "F": F, "torch": torch, "operator": operator})


def test_spellings_that_take_a_map_alone_mean_their_operation() -> None:
    """Modules without arguments, and functions and methods of one map or of a map and a number."""
    checked = set()
    for op, name in SPELLINGS:
        for model in models_of(op, lookup(name), is_method=name.startswith(".")):
            found = canonical_op(model)
            if found is not None:
                assert found == op, name
                checked.add((op, name))
                break
    assert len(checked) > 0.85 * len(SPELLINGS)


def models_of(op: str, target: Any, *, is_method: bool) -> Iterator[nn.Module]:
    """Nets that call it once, for some guesses of its arguments; most of them fail to run."""
    if isinstance(target, type):
        for arguments in ((), (4,), (1,), (2,), (4, 4, 1), (1, 0.5), ((1, 4),)):
            module = attempt(lambda arguments=arguments: target(*arguments))
            if module is not None:
                yield nn.Sequential(module)
        return
    for arguments in (ARGUMENTS.get(op, ()), (), (1,), (1.5,), (0.5, 2.0), (1, 0), ([4],), ((1, 1),), (torch.ones(4),)):
        yield net_of(target, arguments)


def net_of(target: Callable[..., Any], arguments: tuple[Any, ...]) -> nn.Module:
    tensors = {f"p{i}": nn.Parameter(a) for i, a in enumerate(arguments) if isinstance(a, Tensor)}

    def call(net: nn.Module, x: Tensor) -> Any:
        return target(x, *(getattr(net, f"p{i}", a) for i, a in enumerate(arguments)))

    return Net(call, **tensors)


def attempt(make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception:  # noqa: BLE001 - a guess
        return None


def canonical_op(model: nn.Module) -> str | None:
    """The operation of the only call of a net on a 1-D, 2-D or 3-D map; None if it does not run."""
    for size in ((2, 4, 6, 8), (2, 4, 6), (2, 4, 6, 8, 4)):  # most take two axes
        traced = attempt(lambda size=size: trace_and_lower(model, CallArguments.of_size(size, torch.float32)))
        if traced is not None:
            ops = [call.op for call in traced.graph.calls if call.op != "input" and call.inputs]
            if len(ops) == 1 and not any(call.remark for call in traced.graph.calls):
                return ops[0]
    return None
