"""DistributedDataParallel around a streamed module, in two processes that talk over gloo, beside one plain process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.ddp_steps import (
    NUM_PROCESSES,
    NUM_STEPS,
    WAYS,
    gradients,
    images,
    loss_of,
    make_model,
    run_process,
)

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """What each process found."""
    folder = tmp_path_factory.mktemp("ddp")
    torch.multiprocessing.spawn(run_process, (str(folder),), nprocs=NUM_PROCESSES)
    return [torch.load(folder / f"{rank}.pt") for rank in range(NUM_PROCESSES)]


def plain_gradients(loss: Callable[[nn.Module, int], Tensor]) -> dict[str, Tensor | None]:
    """Those of the mean, over the processes' losses, of the plain net."""
    model = make_model()
    torch.stack([loss(model, rank) for rank in range(NUM_PROCESSES)]).mean().backward()
    return gradients(model)


def assert_same_gradients(found: dict[str, Tensor | None], expected: dict[str, Tensor | None]) -> None:
    assert list(found) == list(expected)
    for name, gradient in expected.items():
        assert gradient is not None
        assert gradient.abs().max() > 1e-6, f"{name} has no gradient to speak of"
        torch.testing.assert_close(found[name], gradient, rtol=1e-10, atol=1e-12, msg=name)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_the_mean_over_both_batches(results: list[dict[str, Any]], way: str) -> None:
    for number in range(2):
        expected = plain_gradients(lambda model, rank: loss_of(model(images(rank, number))))  # noqa: B023 - called here
        for result in results:
            assert_same_gradients(result[way]["gradients"][number], expected)


@pytest.mark.parametrize("way", WAYS)
def test_each_parameter_is_ready_and_sent_once(results: list[dict[str, Any]], way: str) -> None:
    """The backward pass of the tiles must not reach the parameters itself."""
    size = sum(parameter.numel() for parameter in make_model().parameters())
    for result in results:
        assert set(result[way]["fired"].values()) == {2}, "twice in two steps"
        assert sum(result[way]["sent"]) == 2 * size
    if way == "buckets of one parameter":
        assert len(results[0][way]["sent"]) > 2


def test_gradients_accumulate_without_communication(results: list[dict[str, Any]]) -> None:
    def loss(model: nn.Module, rank: int) -> Tensor:
        return torch.stack([loss_of(model(images(rank, number))) for number in range(3)]).sum()

    expected = plain_gradients(loss)
    local = [result["accumulated"]["local"] for result in results]
    assert not torch.equal(local[0]["fc.weight"], local[1]["fc.weight"]), "nothing is sent inside no_sync"
    for result in results:
        assert_same_gradients(result["accumulated"]["gradients"], expected)


def test_a_branch_that_one_process_leaves_out(results: list[dict[str, Any]]) -> None:
    expected = plain_gradients(lambda model, rank: loss_of(model(images(rank), with_branch=rank > 0)))
    for result in results:
        assert_same_gradients(result["branch of one process"], expected)


def test_two_calls_in_one_backward_pass(results: list[dict[str, Any]]) -> None:
    expected = plain_gradients(lambda model, rank: loss_of(model(images(rank, 0)) * model(images(rank, 1))))
    for result in results:
        assert_same_gradients(result["two calls"], expected)


def test_images_in_arrays(results: list[dict[str, Any]]) -> None:
    expected = plain_gradients(lambda model, rank: loss_of(model(images(rank))))
    for result in results:
        assert_same_gradients(result["from an array"], expected)


def test_training(results: list[dict[str, Any]]) -> None:
    model = make_model()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for number in range(NUM_STEPS):
        optimizer.zero_grad()
        losses = [loss_of(model(images(rank, number))) for rank in range(NUM_PROCESSES)]
        torch.stack(losses).mean().backward()
        optimizer.step()
    start = make_model().state_dict()
    for name, expected in model.state_dict().items():
        for result in results:
            torch.testing.assert_close(result["trained"][name], expected, rtol=1e-8, atol=1e-10, msg=name)
        assert "running" in name or "num_batches" in name or not torch.equal(expected, start[name])
