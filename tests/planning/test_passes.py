"""Each lowering pass alone, each left out, all and none: the same results, and what each one changes."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.errors import OptionError
from streamplan.options import PASSES
from tests.nets.densenet import DenseNet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet
from tests.runtime.comparison import assert_same_results, run

CHOICES = [
    "all",
    (),
    *((name,) for name in PASSES),
    *(tuple(other for other in PASSES if other != name) for name in PASSES),
]
NETS = {
    "resnet": (lambda: resnet18(width=4, num_classes=3), (1, 3, 131, 101), "layer2"),
    "densenet": (lambda: DenseNet((2, 2, 2, 2), 4, 2), (2, 3, 75, 64), "features.transition1"),
    "unet": (lambda: unet(width=4, depth=2), (1, 3, 64, 44), "latest"),
}


def image(size: tuple[int, ...]) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(2), dtype=torch.float64).requires_grad_()


@pytest.mark.parametrize("halo", ["recompute", "reuse"])
@pytest.mark.parametrize("name", NETS)
def test_every_choice_is_exact(name: str, halo: str) -> None:
    build, size, cut = NETS[name]
    model = randomize_(build().double().eval(), seed=1)
    tile_size = (size[2] * 9 // 10, size[3]) if halo == "recompute" else 32
    expected = run(model, model, [image(size)])
    for passes in CHOICES:
        streamed = streamplan.compile(model, size, tile_size, cut=cut, halo=halo, passes=passes)
        assert streamed._plan.num_tiles > 1
        assert_same_results(run(streamed, model, [image(size)]), expected, 1e-10, f"{passes}")


def net() -> nn.Module:
    return randomize_(
        nn.Sequential(
            nn.Conv2d(3, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Conv2d(4, 4, 3, padding=1),
            nn.LeakyReLU(-0.1),
        ).eval(),
        seed=0,
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [("fold_batch_norm", '_1:weight"'), ("native_padding", "padding=t.padding("), ("inplace", "torch.relu_(")],
)
def test_a_pass_changes_the_program(name: str, text: str) -> None:
    size = (1, 3, 32, 32)
    assert text in streamplan.compile(net(), size, 16, passes=(name,)).source
    others = tuple(other for other in PASSES if other != name)
    assert text not in streamplan.compile(net(), size, 16, passes=others).source


def test_an_activation_that_needs_its_input_is_not_in_place() -> None:
    """The sign of a leaky ReLU's result does not tell that of its input if the slope is negative."""
    assert "inplace" not in streamplan.compile(net(), (1, 3, 32, 32), 16).source


def test_memory_order_inside_tiles() -> None:
    orders: list[bool] = []

    def watch(x: Tensor) -> Tensor:
        orders.append(x.is_contiguous(memory_format=torch.channels_last))
        return x

    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 4, 3))
    for passes, expected in ((("channels_last",), True), ((), False)):
        streamed = streamplan.compile(model, (1, 3, 32, 32), 16, passes=passes)
        segment = next(iter(streamed._executables.values())).segment
        tile = segment.tile
        object.__setattr__(segment, "tile", lambda t, w, x, tile=tile: tile(t, w, watch(x)))
        orders.clear()
        streamed(torch.randn(1, 3, 32, 32))
        assert set(orders) == {expected}


def test_the_gradient_keeps_the_order_of_the_parameter() -> None:
    model = net()
    streamplan.compile(model, (1, 3, 32, 32), 16)(torch.randn(1, 3, 32, 32)).sum().backward()
    for parameter in model.parameters():
        assert parameter.grad is not None
        assert parameter.grad.stride() == parameter.stride()


@pytest.mark.parametrize("passes", ["fast", ("inplace", "fast"), (3,)])
def test_an_unknown_pass_is_refused(passes: object) -> None:
    with pytest.raises(OptionError, match="is not known"):
        streamplan.plan(net(), (1, 3, 32, 32), passes=passes)  # type: ignore[arg-type]


def test_passes_stand_in_the_plan_and_survive_json() -> None:
    plan = streamplan.plan(net(), (1, 3, 32, 32), 16, passes=["inplace", "fold_batch_norm"])
    assert plan.passes == ("fold_batch_norm", "inplace")
    stored = streamplan.Plan.from_json(plan.to_json())
    assert stored == plan
    assert "t.padding(" not in streamplan.compile(net(), plan=stored).source
