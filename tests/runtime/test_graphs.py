"""Recordings of tiles, played on the CPU as a GPU plays a graph: the same work again, in the same memory."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan.module import executable
from streamplan.runtime.cuda import graphs
from streamplan.runtime.cuda.graphs import GraphCache
from streamplan.runtime.cuda.recorders import Slots, Work, settings_of
from tests.nets.densenet import DenseNet
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.unet import unet, unet_bilinear
from tests.runtime.comparison import assert_same_results, run

NETS = {
    "resnet": (lambda: resnet18(width=4, num_classes=3), (2, 3, 288, 96), (32, 48)),
    "densenet": (lambda: DenseNet((2, 2, 2, 2), 4, 2), (1, 3, 256, 64), (32, 64)),
    "unet": (lambda: unet(width=4, depth=2), (1, 3, 192, 64), (16, 32)),
}


class Player:
    """Does recorded work again where its numbers lie, and leaves the results where the first ones were."""

    def __init__(self) -> None:
        self.num_recorded = self.num_played = 0

    def record(self, work: Work) -> tuple[Slots, Any, Callable[[], None], bool]:
        outputs, remark = work()
        with torch.inference_mode(False):  # a GPU writes to any memory
            outputs = tuple(None if x is None else x.detach().clone() for x in outputs)
        self.num_recorded += 1

        def play() -> None:
            self.num_played += 1
            for target, found in zip(outputs, work()[0], strict=True):
                assert (target is None) == (found is None)
                if target is not None and found is not None:
                    target.copy_(found.detach())

        return outputs, remark, play, True


@pytest.fixture
def player(monkeypatch: pytest.MonkeyPatch) -> Player:
    player = Player()
    monkeypatch.setattr(
        executable, "GraphCache", lambda segment, source: GraphCache(segment, source, lambda device: player)
    )
    return player


def image(size: tuple[int, ...], seed: int = 2) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.mark.parametrize("keep_tiles", [0, 2])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("name", NETS)
def test_steps(name: str, halo: str, keep_tiles: int, player: Player) -> None:
    """Three steps with other images and other weights each."""
    build, size, tile = NETS[name]
    model = randomize_(build().double().eval(), seed=1)
    options: dict[str, Any] = {"halo": halo, "keep_tiles": keep_tiles, "cuda_graphs": True}
    if halo == "recompute":
        options["cut"] = {"resnet": "layer1", "densenet": "features.conv0"}.get(name, "latest")
        tile = (tile[0] + 60, tile[1] + 44)
    streamed = streamplan.compile(model, size, tile, **options)
    for number in range(3):
        x = image(size, number).requires_grad_()
        assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10, f"step {number}")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.01)
    assert player.num_recorded >= 2
    assert player.num_played >= player.num_recorded


def test_what_a_step_leaves_is_not_written_over(player: Player) -> None:
    """Outputs and gradients of one step survive the next one."""
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=True, cut="layer2")
    for _ in range(2):
        streamed(image(size)).sum().backward()
        model.zero_grad()
    first = run(streamed, model, [image(size, 5)])
    copies = {name: None if x is None else x.clone() for name, x in first.items()}
    run(streamed, model, [image(size, 6)])
    for name, x in first.items():
        assert (x is None) or torch.equal(x, copies[name]), name  # type: ignore[arg-type]


def test_two_calls_before_their_backward_passes(player: Player) -> None:
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=True)

    def both(net: nn.Module) -> dict[str, Tensor]:
        model.zero_grad()
        losses = [net(image(size, seed)).square().sum() for seed in (3, 4)]
        losses[0].backward()
        losses[1].backward()
        return {name: p.grad.clone() for name, p in model.named_parameters()}

    both(streamed)
    assert_same_results(both(streamed), both(model), 1e-10)  # type: ignore[arg-type]
    assert player.num_played > 0


def test_settings_have_recordings_of_their_own(player: Player) -> None:
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=True)
    for frozen in ((), ("conv1.weight", "layer1.0.bn1.bias"), ()):
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in frozen)
        for needs in (False, True):
            x = image(size).requires_grad_(needs)
            model.zero_grad()
            for net in (model, streamed, streamed):
                found = run(net, model, [x.detach()])
                assert all(
                    (found[f"gradient of {name}"] is None) == (name in frozen) for name, _ in model.named_parameters()
                )
            assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
        with torch.no_grad():
            torch.testing.assert_close(streamed(x), model(x), rtol=1e-10, atol=1e-10)


def test_a_loss_that_looks_at_part_of_the_cut(player: Player) -> None:
    """Tiles that are skipped, and seeds that are missing."""
    model = randomize_(unet(width=4, depth=1).double().eval(), seed=1)
    size = (1, 3, 256, 32)
    streamed = streamplan.compile(model, size, (16, 32), keep_tiles=0, cuda_graphs=True)
    mask = torch.zeros(1, 1, 256, 1, dtype=torch.float64)
    mask[:, :, 100:140] = 1.0
    for _ in range(3):
        x = image(size)
        expected = run(lambda x: model(x) * mask, model, [x])  # type: ignore[arg-type]
        assert_same_results(run(lambda x: streamed(x) * mask, model, [x]), expected, 1e-10)  # type: ignore[arg-type]


def test_maps_into_arrays(player: Player) -> None:
    model = randomize_(unet(width=4, depth=1).double().eval(), seed=1)
    size = (1, 3, 256, 32)
    streamed = streamplan.compile(model, size, (16, 32), cuda_graphs=True)
    x = image(size)
    for _ in range(2):
        out = np.zeros(tuple(model(x).shape))
        streamed.predict(x, out=out)
        torch.testing.assert_close(torch.from_numpy(out), model(x).detach(), rtol=1e-10, atol=1e-10)
    assert player.num_played > 0


def test_recordings_made_in_inference_mode_serve_outside_of_it(player: Player) -> None:
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=True)
    with torch.inference_mode():
        for number in range(2):
            streamed.predict(image(size, number))
    num_recorded = player.num_recorded
    assert num_recorded > 0
    for number in range(2):
        with torch.no_grad():
            torch.testing.assert_close(streamed(image(size, number)), model(image(size, number)))
    x = image(size).requires_grad_()
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)


def test_settings_can_be_read_whichever_way_they_were_made() -> None:
    """`torch.get_float32_matmul_precision` and `allow_tf32` raise where the two ways disagree."""
    backends: Any = torch.backends
    holders = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn, backends)
    changed = (*holders, backends.mkldnn.matmul)
    before = [holder.fp32_precision for holder in changed]
    seen = [settings_of(torch.device("cpu"))]
    try:
        for holder in holders:
            holder.fp32_precision = "ieee"
            seen.append(settings_of(torch.device("cpu")))
        torch.set_float32_matmul_precision("high")
        seen.append(settings_of(torch.device("cpu")))
    finally:
        torch.set_float32_matmul_precision("highest")
        for holder, value in zip(changed, before, strict=True):
            holder.fp32_precision = value
    assert len(set(seen)) == len(seen)


def test_nets_that_look_at_positions_are_not_recorded(player: Player) -> None:
    model = randomize_(unet_bilinear(width=4, depth=1).double().eval(), seed=1)
    size = (1, 3, 128, 32)
    streamed = streamplan.compile(model, size, (16, 32), cuda_graphs=True)
    x = image(size)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert player.num_recorded == 0


def test_more_kinds_than_are_remembered(player: Player, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphs, "_MAX_RECORDINGS", 3)
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 288, 96)
    streamed = streamplan.compile(model, size, (32, 48), keep_tiles=0, cuda_graphs=True)
    for _ in range(2):
        x = image(size).requires_grad_()
        assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert 0 < player.num_recorded <= 3


def test_two_threads(player: Player) -> None:
    """One of them uses the recordings, the other does without meanwhile."""
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1).requires_grad_(False)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), cuda_graphs=True)
    expected = [model(image(size, seed)) for seed in range(4)]
    errors: list[float] = []

    def work() -> None:
        for seed, value in enumerate(expected):
            errors.append(float((streamed(image(size, seed)) - value).abs().max()))

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 8
    assert max(errors) < 1e-10


def test_under_autocast(player: Player) -> None:
    """The numbers of a pass without recordings, to the last bit: narrowed weights, wide sums."""
    model = randomize_(resnet18(width=8, num_classes=3).eval(), seed=1)
    size = (1, 3, 256, 64)
    x = image(size).float()
    results = []
    for cuda_graphs in (False, True):
        streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=cuda_graphs)
        for _ in range(3):
            model.zero_grad()
            with torch.autocast("cpu", torch.bfloat16):
                output = streamed(x)
            output.float().square().sum().backward()
        results.append({name: p.grad.clone() for name, p in model.named_parameters()} | {"output": output.detach()})
    assert player.num_played > 0
    for name, value in results[0].items():
        torch.testing.assert_close(results[1][name], value, rtol=1e-6, atol=1e-7)


def test_without_a_gpu_tiles_run_as_usual() -> None:
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), cuda_graphs=True)
    x = image(size)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)


def test_what_cannot_be_recorded_runs_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    class Refusing:
        num_asked = 0

        def record(self, work: Work) -> tuple[Slots, Any, Callable[[], None], bool]:
            self.num_asked += 1
            raise RuntimeError("operation not permitted when stream is capturing")

    refusing = Refusing()
    monkeypatch.setattr(executable, "GraphCache", lambda *args: GraphCache(*args, lambda device: refusing))
    model = randomize_(resnet18(width=4, num_classes=3).double().eval(), seed=1)
    size = (1, 3, 256, 64)
    streamed = streamplan.compile(model, size, (32, 64), keep_tiles=0, cuda_graphs=True)
    x = image(size)
    with pytest.warns(UserWarning, match="cannot be recorded and run as usual: operation not permitted"):
        results = [run(streamed, model, [x]) for _ in range(2)][-1]
    assert_same_results(results, run(model, model, [x]), 1e-10)
    assert_same_results(run(streamed, model, [x]), run(model, model, [x]), 1e-10)
    assert refusing.num_asked == 1
