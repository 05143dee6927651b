"""Cuts, against graphs whose single-tensor cuts are read off by eye."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from streamplan.analysis.cuts import cut_at, enumerate_cuts, latest_cut
from streamplan.errors import CutError
from tests.analysis.facts import analysed
from tests.nets.resnet import resnet18
from tests.nets.unet import unet
from tests.rules.spellings import Net

SIZE = (1, 2, 16, 16)


def conv() -> nn.Module:
    return nn.Conv2d(2, 2, 3, padding=1)


def net(function: Callable[..., Any], count: int = 3) -> nn.Module:
    return Net(function, **{f"c{i}": conv() for i in range(count)}).eval()


def frontiers(model: nn.Module, *sizes: tuple[int, ...]) -> list[tuple[str, ...]]:
    return [cut.frontier for cut in enumerate_cuts(*analysed(model, *(sizes or (SIZE,))))]


def test_residual_branches_are_not_cut() -> None:
    def forward(n: Any, x: torch.Tensor) -> torch.Tensor:
        y = n.c0(x)
        y = torch.tanh(n.c1(y)) + y
        return n.c2(y).mean((2, 3))

    assert frontiers(net(forward)) == [("c0",), ("add",), ("c2",)]


def test_dense_connections_are_cut_where_they_end() -> None:
    def forward(n: Any, x: torch.Tensor) -> torch.Tensor:
        a = n.c0(x)
        b = n.c1(a)
        c = torch.cat([a, b], 1)
        d = torch.cat([c, torch.relu(c)], 1)
        return F.max_pool2d(d, 2).flatten(1)

    assert frontiers(net(forward)) == [("c0",), ("cat",), ("cat_1",), ("max_pool2d",)]


def test_several_outputs_make_the_latest_cut_wide() -> None:
    def forward(n: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = n.c0(x)
        return n.c1(y), F.avg_pool2d(n.c2(y), 2)

    assert frontiers(net(forward)) == [("c0",), ("c1", "avg_pool2d")]


def test_an_early_output_joins_every_later_cut() -> None:
    def forward(n: Any, x: torch.Tensor) -> tuple[torch.Tensor, ...]:
        y = n.c0(x)
        return y, n.c2(n.c1(y))

    assert frontiers(net(forward)) == [("c0",), ("c0", "c2")]


def test_a_skip_from_the_image_leaves_only_the_join() -> None:
    def forward(n: Any, x: torch.Tensor) -> torch.Tensor:
        return n.c1(n.c0(x)) + x

    assert frontiers(net(forward)) == [("add",)]


def test_two_images_meet() -> None:
    def forward(n: Any, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        return n.c2(n.c0(x) + n.c1(y))

    assert frontiers(net(forward), SIZE, SIZE) == [("add",), ("c2",)]


def test_a_local_net_is_cut_at_its_end() -> None:
    graph, facts = analysed(net(lambda n, x: n.c2(torch.relu(n.c1(n.c0(x))))), SIZE)
    assert latest_cut(graph, facts).frontier == graph.outputs
    assert [cut.frontier for cut in enumerate_cuts(graph, facts)] == [("c0",), ("c1",), ("relu",), ("c2",)]


def test_what_nobody_reads_is_not_streamed() -> None:
    def forward(n: Any, x: torch.Tensor) -> torch.Tensor:
        n.c1(x)
        return n.c0(x)

    graph, facts = analysed(net(forward), SIZE)
    assert latest_cut(graph, facts).streamed == {"c0"}


def test_every_cut_separates() -> None:
    graph, facts = analysed(resnet18(width=4, num_classes=2).eval(), (1, 3, 64, 64))
    cuts = enumerate_cuts(graph, facts)
    assert cuts[-1].frontier == ("layer4_1_relu_1",)
    for cut in cuts:
        read_outside = {name for call in graph.calls if call.name not in cut.streamed for name in call.inputs}
        leaving = (read_outside | set(graph.outputs)) & cut.streamed
        assert leaving == set(cut.frontier)
        for name in cut.streamed:
            assert set(graph[name].inputs) <= cut.streamed | set(facts.input_maps)


def test_cutting_inside_a_unet_takes_the_skips_along() -> None:
    graph, facts = analysed(unet(width=2, depth=2).eval(), (1, 3, 16, 16))
    cut = cut_at(graph, facts, ("downs.1",))
    bottom = graph.module_outputs["downs.1"]
    skips = {graph.module_outputs["inc"], graph.module_outputs["downs.0"]}
    assert set(cut.frontier) == skips | {bottom}
    assert graph.module_outputs["ups.0"] not in cut.streamed


@pytest.mark.parametrize(
    ("names", "frontier"),
    [(("c1",), ("c1",)), (("relu",), ("relu",)), (("c0", "c1"), ("c0", "c1")), (("part.0",), ("part_0",))],
)
def test_a_cut_is_named_by_path_value_or_several(names: tuple[str, ...], frontier: tuple[str, ...]) -> None:
    model = net(lambda n, x: n.part(torch.relu(n.c1(n.c0(x)))).mean((2, 3)))
    model.part = nn.Sequential(conv(), nn.Tanh())
    assert cut_at(*analysed(model, SIZE), names).frontier == frontier


def test_a_misspelled_cut_names_close_matches() -> None:
    graph, facts = analysed(resnet18(width=4, num_classes=2).eval(), (1, 3, 64, 64))
    with pytest.raises(CutError, match=r"no module or value named 'layer3\.O'") as caught:
        cut_at(graph, facts, ("layer3.O",))
    assert "layer3.0" in caught.value.do


def test_a_cut_behind_a_barrier_is_refused() -> None:
    graph, facts = analysed(resnet18(width=4, num_classes=2).eval(), (1, 3, 64, 64))
    for name in ("avgpool", "fc"):
        with pytest.raises(CutError, match="cannot be cut") as caught:
            cut_at(graph, facts, (name,))
        assert "layer4" in caught.value.do
