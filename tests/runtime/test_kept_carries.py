"""What tiles hand on: as many bytes as the plan says, gone after the backward pass, none without one."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import streamplan
from streamplan.runtime import streaming
from streamplan.runtime.passes import ForwardResult, forward_pass
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet_bilinear
from tests.planned import plan_only
from tests.runtime.comparison import assert_same_results, run

NETS = {
    "resnet": (lambda: resnet18(width=4, num_classes=3), (2, 3, 120, 97)),
    "unet": (lambda: unet_bilinear(width=4, depth=2), (1, 3, 96, 80)),
}


def kept_bytes(result: ForwardResult) -> int:
    received = (x for run in result.kept.values() for x in run.received.values())
    return sum(x.numel() * x.itemsize for x in (*result.carries.tensors(), *received))


@pytest.mark.parametrize("carries", ["device", "host"])
@pytest.mark.parametrize("tile_size", [(24, 200), (200, 24), (40, 32)])
@pytest.mark.parametrize("name", NETS)
def test_the_plan_tells_their_bytes(
    name: str, tile_size: tuple[int, int], carries: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    build, size = NETS[name]
    model = randomize_(build().double().eval(), seed=1)
    results: list[ForwardResult] = []
    measured: list[int] = []

    def recording(*args: object, **kwargs: object) -> ForwardResult:
        results.append(forward_pass(*args, **kwargs))  # type: ignore[arg-type]
        measured.append(kept_bytes(results[-1]))
        return results[-1]

    monkeypatch.setattr(streaming, "forward_pass", recording)
    streamed = streamplan.compile(model, size, tile_size, halo="reuse", carries=carries)  # type: ignore[arg-type]
    x = torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert measured[0] == streamed._plan.costs.carry_bytes > 0
    assert kept_bytes(results[0]) == 0  # the backward pass has used them up
    with torch.no_grad():
        streamed(x)
    assert measured[1:] == [0]


def test_larger_steps_carry_less() -> None:
    model = resnet18().eval()
    few, many = (plan_only(model, (1, 3, 2048, 2048), (step, 2048)).costs.carry_bytes for step in (512, 128))
    assert 0 < 2 * few < many


def test_nothing_is_carried_with_recomputed_halos() -> None:
    plan = plan_only(resnet18().eval(), (1, 3, 2048, 2048), 1024, halo="recompute")
    assert plan.costs.carry_bytes == 0


def test_auto_reuses_and_says_why() -> None:
    plan = plan_only(resnet18().eval(), (1, 3, 2048, 2048), 1024)
    assert plan.halo == "reuse"
    text = str(plan)
    assert "every value is computed once per pass" in text
    assert f"would compute {plan.costs.recompute_factor:.2f}x the FLOPs" in text
    assert "carries" in text


def test_recompute_factor_is_that_of_such_a_plan() -> None:
    """Away from the borders: one axis of a long image, in the same steps."""
    model, size = resnet18().eval(), (1, 3, 16384, 64)
    reuse = plan_only(model, size, (1024, 64))
    recompute = plan_only(model, size, (1024 + 434, 64), halo="recompute")
    assert recompute.grid == (16, 1)
    factor = recompute.costs.computed_flops / recompute.costs.streamed_flops
    assert reuse.costs.recompute_factor == pytest.approx(factor, rel=0.05)


def test_input_gradients_and_a_second_backward_pass() -> None:
    model = randomize_(unet_bilinear(width=4, depth=2).double().eval(), seed=1)
    streamed = streamplan.compile(model, (1, 3, 96, 80), 40)

    def twice(call: object) -> list[Tensor]:
        x = torch.linspace(0, 1, 3 * 96 * 80, dtype=torch.float64).view(1, 3, 96, 80).requires_grad_()
        loss = call(x).square().sum()  # type: ignore[operator]
        return [torch.autograd.grad(loss, x, retain_graph=True)[0] for _ in range(2)]

    for found, expected in zip(twice(streamed), twice(model), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


def test_they_lie_in_few_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hundreds of small allocations would pin the memory that tiles free between them."""
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    results: list[tuple[int, set[tuple[int, int]]]] = []

    def recording(*args: object, **kwargs: object) -> ForwardResult:
        result = forward_pass(*args, **kwargs)  # type: ignore[arg-type]
        tensors = [x for x in result.carries.tensors() if x.numel()]
        storages = {(x.untyped_storage().data_ptr(), x.untyped_storage().nbytes()) for x in tensors}
        results.append((len(tensors), storages))
        return result

    monkeypatch.setattr(streaming, "forward_pass", recording)
    streamed = streamplan.compile(model, (1, 3, 256, 256), 32, dtype=torch.float64)
    streamed(torch.randn(1, 3, 256, 256, dtype=torch.float64)).sum().backward()
    ((count, storages),) = results
    assert count > 500
    assert len(storages) <= 3
    assert sum(size for _, size in storages) < 1.1 * streamed._plan.costs.carry_bytes
