"""Order of passes, failures in the middle of one, state that changes in between."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan import StreamedModule
from streamplan.codegen import LoadedProgram
from streamplan.errors import DoubleBackwardError, StaleStateError
from tests.runtime.comparison import assert_near, assert_same_results, run

SIZE = (1, 2, 20, 18)


def small_net() -> nn.Sequential:
    """Convolution, BatchNorm with drawn statistics, and a second convolution."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(2, 3, 3, padding=1), nn.BatchNorm2d(3), nn.Tanh(), nn.Conv2d(3, 2, 3, stride=2))
    net[1].running_mean.uniform_(-1, 1)
    return net.double().eval()


def streamed_net() -> tuple[nn.Sequential, StreamedModule]:
    model = small_net()
    streamed = streamplan.compile(model, SIZE, 9)
    assert streamed._plan.num_tiles > 4
    return model, streamed


def image(seed: int = 1) -> Tensor:
    return torch.randn(SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    found = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    model.zero_grad(set_to_none=True)
    return found


def test_an_exception_in_a_tile_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    model, streamed = streamed_net()
    expected = run(model, model, [image()])
    calls = 0
    plain_tanh = torch.tanh_

    def failing_tanh(x: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == fail_at:
            raise ArithmeticError("in the middle of a tile")
        return plain_tanh(x)

    monkeypatch.setattr(LoadedProgram, "check_called", lambda program: None)  # it refuses exchanged functions
    monkeypatch.setattr(torch, "tanh_", failing_tanh)
    for fail_at in (3, streamed._plan.num_tiles + 3):  # noqa: B007 - in the forward, then in the backward pass
        calls = 0
        with pytest.raises(ArithmeticError):
            run(streamed, model, [image()])
    fail_at = 0
    assert_same_results(run(streamed, model, [image()]), expected, 1e-12)


def test_two_forwards_before_two_backwards() -> None:
    model, streamed = streamed_net()
    results = []
    for net in (model, streamed):
        first, second = net(image(1)), net(image(2))
        first.square().sum().backward(retain_graph=True)
        of_first = gradients(model)
        second.sin().sum().backward()
        results.append((of_first, gradients(model)))
    for plain, ours in zip(*results, strict=True):
        assert_same_results(ours, plain, 1e-12)


def test_a_second_backward_through_a_kept_graph() -> None:
    model, streamed = streamed_net()
    out = streamed(image()).square().sum()
    out.backward(retain_graph=True)
    once = gradients(model)
    out.backward()
    assert_same_results(gradients(model), once, 0.0)
    with pytest.raises(RuntimeError, match="second time"):
        out.backward()


def test_gradients_accumulate() -> None:
    model, streamed = streamed_net()
    results = []
    for net in (model, streamed):
        for seed in (1, 2, 3):
            net(image(seed)).square().mean().backward()
        results.append(gradients(model))
    assert_same_results(results[1], results[0], 1e-12)


@pytest.mark.parametrize(
    "change",
    [
        lambda model, x: model[0].weight.detach().add_(0.1),
        lambda model, x: model[1].running_mean.add_(1),
        lambda model, x: model[3].bias.detach().zero_(),
        lambda model, x: x.detach().mul_(2),
    ],
    ids=["parameter", "buffer", "bias", "image"],
)
def test_a_change_between_forward_and_backward_is_refused(change: Callable[[nn.Module, Tensor], object]) -> None:
    model, streamed = streamed_net()
    x = image()
    loss = streamed(x).square().sum()
    change(model, x)
    with pytest.raises(StaleStateError, match="changed between forward and backward") as caught:
        loss.backward()
    assert isinstance(caught.value, RuntimeError)
    assert all(parameter.grad is None for parameter in model[:3].parameters())
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-12)


def test_an_optimiser_step_between_forward_and_backward_is_refused() -> None:
    model, streamed = streamed_net()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    streamed(image()).sum().backward()
    loss = streamed(image()).square().sum()
    optimiser.step()
    with pytest.raises(StaleStateError):
        loss.backward()


@pytest.mark.parametrize("loss", [lambda y: y.sum(), lambda y: y.square().sum()], ids=["linear", "quadratic"])
def test_a_gradient_of_a_gradient_is_refused(loss: Callable[[Tensor], Tensor]) -> None:
    _, streamed = streamed_net()
    x = image().requires_grad_()
    value = loss(streamed(x))
    (slope,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(DoubleBackwardError) as caught:
        (value + slope.square().sum()).backward()
    assert isinstance(caught.value, RuntimeError)


def test_a_first_gradient_under_create_graph_is_right() -> None:
    model, streamed = streamed_net()
    slopes = []
    for net in (model, streamed):
        x = image().requires_grad_()
        (slope,) = torch.autograd.grad(net(x).square().sum(), x, create_graph=True)
        slopes.append(slope.detach())
    assert_near(slopes[1], slopes[0], "slope", 1e-12)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_without_gradients(mode: Callable[[], torch.no_grad]) -> None:
    model, streamed = streamed_net()
    with mode():
        out = streamed(image())
        assert_near(out, model(image()), "output", 1e-12)
    assert not out.requires_grad
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12)


def test_without_any_parameter_that_needs_a_gradient() -> None:
    model, streamed = streamed_net()
    model.requires_grad_(False)
    assert not streamed(image()).requires_grad
    assert_same_results(run(streamed, model, [image()]), run(model, model, [image()]), 1e-12)


def test_parameters_are_read_at_each_call() -> None:
    model, streamed = streamed_net()
    before = streamed(image())
    with torch.no_grad():
        model[0].weight.mul_(2)
        model[1].running_var.mul_(3)
    assert not torch.allclose(streamed(image()), before)
    assert_near(streamed(image()), model(image()), "output", 1e-12)


def test_hooks_on_parameters_fire_once_with_the_whole_gradient() -> None:
    model, streamed = streamed_net()
    seen: list[Tensor] = []
    model[0].weight.register_hook(seen.append)
    streamed(image()).square().sum().backward()
    assert len(seen) == 1
    assert torch.equal(seen[0], model[0].weight.grad)


def test_two_streamed_modules_of_one_model() -> None:
    model, coarse = streamed_net()
    fine = streamplan.compile(model, SIZE, 7)
    first, second = coarse(image()), fine(image())
    second.square().sum().backward()
    of_fine = gradients(model)
    first.square().sum().backward()
    assert_same_results(gradients(model), of_fine, 1e-12)


class _NormedChannelsLast(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.linear = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.Linear(3, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(self.norm(self.conv(x)).transpose(1, 3)).transpose(1, 3)


@pytest.mark.parametrize("tile_size", [(4, 1), (1, 4), (4, 4)])
def test_batch_norm_of_one_row_whose_gradient_has_channels_last(tile_size: tuple[int, int]) -> None:
    """Torch's own backward on the CPU is wrong there; the plain net's map has no extent of 1 and is right."""
    model = _NormedChannelsLast().double().eval()
    for tensor in (model.norm.weight, model.norm.running_var):
        nn.init.uniform_(tensor, 0.5, 2.0)
    x = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    streamed = streamplan.compile(model, tuple(x.shape), tile_size)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-12, str(tile_size))
