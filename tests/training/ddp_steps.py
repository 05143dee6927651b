"""What each process does in the tests of DistributedDataParallel; a module, so that new processes find it."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

import streamplan
from tests.nets.randomize import randomize_

SIZE = (2, 3, 29, 23)
TILE = (13, 11)
NUM_PROCESSES = 2
NUM_STEPS = 3


class WithBranch(nn.Module):
    """A local body, a branch that a call may leave out, and a head; BatchNorm that tiles fold into a convolution."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU())
        self.branch = nn.Conv2d(4, 4, 5, padding=2)
        self.body = nn.Sequential(nn.Conv2d(4, 4, 3, stride=2), nn.ReLU())
        self.fc = nn.Linear(4, 3)

    def forward(self, x: Tensor, *, with_branch: bool = True) -> Tensor:
        x = self.stem(x)
        if with_branch:
            x = x + self.branch(x)
        return self.fc(self.body(x).mean((2, 3)))


def make_model() -> WithBranch:
    """The same net in every process."""
    model = WithBranch()
    randomize_(model.double().eval(), 1)
    return model


def images(rank: int, number: int = 0) -> Tensor:
    """A batch of one process."""
    generator = torch.Generator().manual_seed(10 * rank + number)
    return torch.randn(SIZE, generator=generator, dtype=torch.float64)


def loss_of(out: Tensor) -> Tensor:
    """Something that is not linear in the output."""
    return out.square().mean() + out.sin().mean()


WAYS: dict[str, dict[str, Any]] = {
    "as it comes": {},
    "buckets of one parameter": {"bucket_cap_mb": 1e-5},
    "gradients in buckets": {"gradient_as_bucket_view": True},
    "looking for unused parameters": {"find_unused_parameters": True},
    "static graph": {"static_graph": True},
}
"""Arguments of DistributedDataParallel that change how hooks and buckets are used."""


def run_process(rank: int, folder: str) -> None:
    """Everything one process does; it leaves its results in the folder."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=NUM_PROCESSES)
    try:
        results: dict[str, Any] = {way: one_step(rank, options) for way, options in WAYS.items()}
        results["accumulated"] = accumulated(rank)
        results["branch of one process"] = branch_of_one_process(rank)
        results["two calls"] = two_calls(rank)
        results["from an array"] = from_an_array(rank)
        results["trained"] = trained(rank)
        torch.save(results, Path(folder) / f"{rank}.pt")
    finally:
        dist.destroy_process_group()


def wrapped(model: nn.Module, **options: Any) -> DistributedDataParallel:
    """The streamed model in DistributedDataParallel."""
    streamed = streamplan.compile(model, SIZE, TILE)
    assert streamed.plan.num_tiles > 4
    return DistributedDataParallel(streamed, **options)


def gradients(model: nn.Module) -> dict[str, Tensor | None]:
    """Copies of the gradients by name."""
    return {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}


def one_step(rank: int, options: dict[str, Any]) -> dict[str, Any]:
    """Gradients of two steps, how often each parameter's hook fired, and how much was sent."""
    model = make_model()
    ddp = wrapped(model, **options)
    fired = dict.fromkeys((name for name, _ in model.named_parameters()), 0)
    for name, parameter in model.named_parameters():

        def count(parameter: Tensor, name: str = name) -> None:
            fired[name] += 1

        parameter.register_post_accumulate_grad_hook(count)
    sent: list[int] = []

    def send(state, bucket):  # type: ignore[no-untyped-def] # torch refuses annotations that are strings
        sent.append(bucket.buffer().numel())
        work = dist.all_reduce(bucket.buffer().div_(NUM_PROCESSES), async_op=True)
        return work.get_future().then(lambda done: done.value()[0])

    ddp.register_comm_hook(None, send)
    found = []
    for number in range(2):
        ddp.zero_grad()
        loss_of(ddp(images(rank, number))).backward()
        found.append(gradients(model))
    return {"gradients": found, "fired": fired, "sent": sent}


def accumulated(rank: int) -> dict[str, Any]:
    """Gradients after two calls without and one with communication."""
    model = make_model()
    ddp = wrapped(model)
    local: dict[str, Tensor | None] = {}
    for number in range(3):
        with ddp.no_sync() if number < 2 else nullcontext():
            loss_of(ddp(images(rank, number))).backward()
        local = local or gradients(model)
    return {"gradients": gradients(model), "local": local}


def branch_of_one_process(rank: int) -> dict[str, Tensor | None]:
    """The first process leaves the branch out."""
    model = make_model()
    ddp = wrapped(model, find_unused_parameters=True)
    loss_of(ddp(images(rank), with_branch=rank > 0)).backward()
    return gradients(model)


def two_calls(rank: int) -> dict[str, Tensor | None]:
    """Two calls, one backward pass.

    Buffers stay as they are: sent before the second call, they count as changed in torch 2.11, for the plain net too.
    """
    model = make_model()
    ddp = wrapped(model, broadcast_buffers=False)
    loss_of(ddp(images(rank, 0)) * ddp(images(rank, 1))).backward()
    return gradients(model)


def from_an_array(rank: int) -> dict[str, Tensor | None]:
    """The image is an array, which tiles alone read."""
    model = make_model()
    ddp = wrapped(model)
    source = streamplan.Source(images(rank).numpy(), batch=True)
    loss_of(ddp(source)).backward()
    return gradients(model)


def trained(rank: int) -> dict[str, Tensor]:
    """Parameters and buffers after some steps of an optimiser."""
    model = make_model()
    ddp = wrapped(model)
    optimizer = torch.optim.Adam(ddp.parameters(), lr=0.01)
    for number in range(NUM_STEPS):
        optimizer.zero_grad()
        loss_of(ddp(images(rank, number))).backward()
        optimizer.step()
    return model.state_dict()
