"""The probe's theorem, operation by operation, against what the plain operation does with NaN in one input position."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from streamplan.analysis.cuts import latest_cut
from streamplan.analysis.fields import AxisProblem, image_reads
from streamplan.analysis.locality import rule_context
from streamplan.analysis.reads import CountedReads, EdgeReads, PulledReads
from streamplan.analysis.regions import StreamedPart, streamed_part
from streamplan.rules import rule_for
from tests.analysis.facts import analysed
from tests.analysis.op_instances import FAMILIES, Instance, true_spans
from tests.draws import num_examples

pytestmark = pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")


def edge_reads(instance: Instance) -> tuple[StreamedPart, dict[str, dict[tuple[str, str], EdgeReads]]] | None:
    """Both kinds of reads of all edges of the net; None if the operation is not local at this size."""
    graph, facts = analysed(instance.build().eval(), instance.size)
    cut = latest_cut(graph, facts)
    if cut.frontier != graph.outputs:
        return None
    part = streamed_part(graph, facts, cut.streamed, cut.frontier)
    kinds: dict[str, dict[tuple[str, str], EdgeReads]] = {"pulled": {}, "counted": {}}
    for edge in part.edges:
        call, axis = graph[edge.reader], instance.axis
        sizes = part.extents[edge.source][axis], part.extents[edge.reader][axis]
        rule = rule_for(call.op)
        assert rule is not None
        kinds["pulled"][edge.key] = PulledReads(edge.axis_maps[axis], *sizes)
        kinds["counted"][edge.key] = CountedReads(rule, rule_context(graph, call, facts.maps), axis, *sizes)
    return part, kinds


def composed_spans(part: StreamedPart, axis: int, reads: dict[tuple[str, str], EdgeReads]) -> list[tuple[int, int]]:
    """What each output position of the net reads of its input."""
    found = image_reads(AxisProblem(part, axis, part.input_maps[0], reads))[part.frontier[0]]
    spans = zip(found.start.tolist(), found.stop.tolist(), strict=True)
    return [(start, stop) if stop > start else (0, 0) for start, stop in spans]


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=num_examples(100))
def test_spans_are_what_poison_finds(family: str, data: st.DataObject) -> None:
    instance = data.draw(FAMILIES[family])
    found = edge_reads(instance)
    if found is None:
        return
    part, kinds = found
    least, most = true_spans(instance)
    pulled, counted = (composed_spans(part, instance.axis, kinds[kind]) for kind in ("pulled", "counted"))
    assert counted == pulled
    for span, low, high in zip(counted, least, most, strict=True):
        assert low == (0, 0) or span[0] <= low[0] < low[1] <= span[1], (counted, least)
        assert span == (0, 0) or high[0] <= span[0] < span[1] <= high[1], (counted, least)


def sets(data: st.DataObject, count: int) -> Tensor:
    """Random sets of positions, runs among them."""
    seed = data.draw(st.integers(0, 99))
    at = torch.arange(count)
    ends = torch.rand(8, 2, generator=torch.Generator().manual_seed(seed)).mul(count + 1).long().sort(1).values
    runs = (at >= ends[:, :1]) & (at < ends[:, 1:])
    return torch.cat([runs, torch.rand(8, count, generator=torch.Generator().manual_seed(seed)) < 0.6])


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
@settings(max_examples=num_examples(60))
def test_the_theorem_and_its_transpose(family: str, data: st.DataObject) -> None:
    """V_out = {o : span(o) inside V_in}, and the positions whose readers are all in a set, from the spans alone."""
    instance = data.draw(FAMILIES[family])
    found = edge_reads(instance)
    if found is None:
        return
    for edge, counted in found[1]["counted"].items():
        pulled = found[1]["pulled"][edge]
        num_inputs = found[0].extents[edge[1]][instance.axis]
        spans = list(zip(*(ends.tolist() for ends in pulled.spans), strict=True))
        for given_set in sets(data, num_inputs):
            inside = [all(given_set[start:stop]) for start, stop in spans]
            touched = [any(given_set[start:stop]) for start, stop in spans]
            for reads in (counted, pulled):
                assert reads.valid(given_set[None])[0].tolist() == inside
                assert reads.touched(given_set[None])[0].tolist() == touched
        for outputs in sets(data, len(spans)):
            readers = [[o for o, span in enumerate(spans) if span[0] <= i < span[1]] for i in range(num_inputs)]
            complete = [all(outputs[o] for o in found_readers) for found_readers in readers]
            for reads in (counted, pulled):
                assert reads.complete(outputs[None])[0].tolist() == complete
