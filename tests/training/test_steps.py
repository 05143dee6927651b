"""What training loops do between and around calls: accumulate, clip, freeze, call twice, step."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import pytest
import torch
from torch import Tensor, nn

import streamplan
from tests.module.small_nets import Classifier
from tests.nets.randomize import randomize_

SIZE = (2, 3, 29, 23)
TILE = (13, 11)


def make_pair(passes: str | tuple[str, ...] = "all") -> tuple[nn.Module, streamplan.StreamedModule]:
    """A plain net, and a streamed one with parameters of its own and the same values."""
    plain = randomize_(Classifier().double().eval(), 1)
    streamed = streamplan.compile(copy.deepcopy(plain), SIZE, TILE, passes=passes)
    assert streamed.plan.num_tiles > 4
    return plain, streamed


def image(seed: int, *size: int) -> Tensor:
    return torch.randn(size or SIZE, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def assert_same_gradients(plain: nn.Module, streamed: nn.Module) -> None:
    for name, parameter in plain.named_parameters():
        found = streamed.get_parameter(name).grad
        if parameter.grad is None:
            assert found is None, name
            continue
        assert found is not None, name
        torch.testing.assert_close(found, parameter.grad, rtol=1e-10, atol=1e-11, msg=name)


def assert_same_parameters(plain: nn.Module, streamed: nn.Module) -> None:
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(streamed.state_dict()[name], value, rtol=1e-9, atol=1e-11, msg=name)


def test_accumulation_over_images_of_several_sizes_then_clipping() -> None:
    nets = make_pair()
    batches = [image(1), image(2, 1, 3, 41, 17), image(3, 3, 3, 24, 24)]
    norms = []
    for net in nets:
        for batch in batches:
            (net(batch).square().mean() / len(batches)).backward()
        norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5))
    torch.testing.assert_close(norms[1], norms[0], rtol=1e-10, atol=0)
    assert norms[0] > 0.5, "nothing was clipped"
    assert_same_gradients(*nets)
    total = torch.nn.utils.get_total_norm([p.grad for p in nets[1].parameters()])
    torch.testing.assert_close(total, torch.tensor(0.5, dtype=torch.float64), rtol=1e-5, atol=0)


def test_clipping_by_value_and_gradients_set_to_zero() -> None:
    nets = make_pair()
    for net in nets:
        net(image(1)).square().sum().backward()
        torch.nn.utils.clip_grad_value_(net.parameters(), 0.01)
        net.zero_grad(set_to_none=False)
        net(image(2)).square().sum().backward()
    assert_same_gradients(*nets)


def contrastive_loss(net: nn.Module) -> Tensor:
    one, other = net(image(1)), net(image(2))
    return (one - other).norm(dim=1).sum() + nn.functional.cosine_similarity(one, other).sum()


def triplet_loss(net: nn.Module) -> Tensor:
    return nn.functional.triplet_margin_loss(*(net(image(seed)) for seed in range(3)), margin=5.0)


def two_sizes_loss(net: nn.Module) -> Tensor:
    return (net(image(1)) * net(image(2, 2, 3, 19, 37))).sum()


def chained_loss(net: nn.Module) -> Tensor:
    """The second image is made of the first result, so that its gradient flows on into the first call."""
    first = net(image(1))
    return net(image(2) * first[:, :3, None, None]).square().sum()


def no_gradient_for_one(net: nn.Module) -> Tensor:
    with torch.no_grad():
        target = net(image(2))
    return (net(image(1)) - target).square().sum()


@pytest.mark.parametrize(
    "loss",
    [contrastive_loss, triplet_loss, two_sizes_loss, chained_loss, no_gradient_for_one],
    ids=lambda f: f.__name__,
)
def test_several_calls_in_one_backward_pass(loss: Callable[[nn.Module], Tensor]) -> None:
    nets = make_pair()
    losses = [loss(net) for net in nets]
    for value in losses:
        value.backward()
    torch.testing.assert_close(losses[1], losses[0], rtol=1e-10, atol=0)
    assert losses[0] > 0
    assert_same_gradients(*nets)


class Siamese(nn.Module):
    """Two images through one net, inside the module that is streamed."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 4, 3))
        self.fc = nn.Linear(4, 2)

    def forward(self, one: Tensor, other: Tensor) -> Tensor:
        vectors = [self.fc(self.features(x).mean((2, 3))) for x in (one, other)]
        return (vectors[0] - vectors[1]).square().sum(1)


def test_a_siamese_net_streamed_as_one_module() -> None:
    plain = randomize_(Siamese().double().eval(), 1)
    streamed = streamplan.compile(copy.deepcopy(plain), (SIZE, SIZE), TILE)
    for net in (plain, streamed):
        net(image(1), image(2)).sum().backward()
    assert_same_gradients(plain, streamed)


def backbone(net: nn.Module) -> list[nn.Module]:
    return [net.get_submodule("stem"), net.get_submodule("body")]


def test_a_frozen_backbone_is_thawed_while_training() -> None:
    """The optimiser's parameters change, and with them what the backward pass computes."""
    nets = make_pair()
    for net in nets:
        for part in backbone(net):
            part.requires_grad_(False)
        optimizer = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=0.05)
        for step in range(4):
            if step == 2:
                for part in backbone(net):
                    part.requires_grad_(True)
                optimizer.add_param_group({"params": [p for part in backbone(net) for p in part.parameters()]})
            optimizer.zero_grad()
            net(image(step)).square().mean().backward()
            assert (net.get_parameter("stem.0.weight").grad is None) == (step < 2)
            optimizer.step()
    assert_same_parameters(*nets)


def names_of_nodes(out: Tensor) -> set[str]:
    """Names of all autograd nodes behind a tensor."""
    waiting, seen = [out.grad_fn], set()
    while waiting:
        node = waiting.pop()
        if node is not None and node not in seen:
            seen.add(node)
            waiting += [function for function, _ in node.next_functions]
    return {node.name() for node in seen}


def test_a_frozen_backbone_is_not_computed_backward() -> None:
    """Where nothing that tiles compute needs a gradient, the streamed part has no backward pass."""
    _, streamed = make_pair()
    of_tiles = "_StreamedSegmentBackward"
    assert of_tiles in names_of_nodes(streamed(image(1)))
    for part in backbone(streamed):
        part.requires_grad_(False)
    names = names_of_nodes(streamed(image(1)))
    assert "AddmmBackward0" in names
    assert of_tiles not in names


STEPS: dict[str, Callable[[Sequence[nn.Parameter]], torch.optim.Optimizer]] = {
    "sgd": lambda p: torch.optim.SGD(p, lr=0.05, momentum=0.9, nesterov=True),
    "adamw, one parameter after the other": lambda p: torch.optim.AdamW(p, lr=0.01, foreach=False),
    "adamw, fused": lambda p: torch.optim.AdamW(p, lr=0.01, fused=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=0.01),
}


@pytest.mark.parametrize("optimizer", STEPS)
@pytest.mark.parametrize("passes", ["all", ()], ids=["folded", "not folded"])
def test_steps_are_seen_by_the_next_call(optimizer: str, passes: str | tuple[str, ...]) -> None:
    """Weights that BatchNorm was folded into are derived at every call."""
    nets = make_pair(passes)
    outputs: list[list[Tensor]] = [[], []]
    for net, found in zip(nets, outputs, strict=True):
        optim = STEPS[optimizer](list(net.parameters()))
        for step in range(4):
            optim.zero_grad()
            found.append(net(image(1)))  # the same image, so that all change comes from the parameters
            found[-1].square().mean().backward()
            optim.step()
            with torch.no_grad():
                net.get_buffer("stem.1.running_mean").add_(0.01 * step)
                net.get_buffer("stem.1.running_var").mul_(1.1)
    for before, after in zip(outputs[0], outputs[0][1:], strict=False):
        assert (before - after).abs().max() > 1e-4
    for expected, found in zip(*outputs, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-8, atol=1e-10)
    assert_same_parameters(*nets)


def test_a_step_on_the_affine_parameters_alone() -> None:
    nets = make_pair()
    outputs = []
    for net in nets:
        net(image(1)).square().mean().backward()
        torch.optim.SGD(net.get_submodule("stem.1").parameters(), lr=0.5).step()
        outputs.append(net(image(1)))
    torch.testing.assert_close(outputs[1], outputs[0], rtol=1e-10, atol=1e-12)


def test_lbfgs_calls_the_net_again_within_a_step() -> None:
    nets = make_pair()
    for net in nets:
        optimizer = torch.optim.LBFGS(net.parameters(), lr=0.1, max_iter=3)

        def closure(net: nn.Module = net, optimizer: torch.optim.Optimizer = optimizer) -> float:
            optimizer.zero_grad()
            loss = net(image(1)).square().mean()
            loss.backward()
            return loss.item()

        for _ in range(2):
            optimizer.step(closure)
    assert_same_parameters(*nets)


def test_an_optimizer_step_inside_the_backward_pass() -> None:
    """Each parameter is stepped as soon as its gradient is there, and the gradient dropped."""
    nets = make_pair()
    for net in nets:
        steps = {p: torch.optim.SGD([p], lr=0.05) for p in net.parameters()}

        def step(parameter: Tensor, steps: dict[Tensor, torch.optim.Optimizer] = steps) -> None:
            steps[parameter].step()
            steps[parameter].zero_grad()

        for parameter in net.parameters():
            parameter.register_post_accumulate_grad_hook(step)
        for seed in range(3):
            net(image(seed)).square().mean().backward()
    assert_same_parameters(*nets)
    assert all(p.grad is None for p in nets[1].parameters())
