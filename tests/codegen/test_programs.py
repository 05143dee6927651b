"""Emitted programs: approved texts, the same bytes each time, readable when they fail."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import traceback
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor

import streamplan
from streamplan import StreamedModule
from tests.golden import assert_matches_golden
from tests.nets.resnet import BasicBlock
from tests.nets.unet import UNet
from tests.rules.spellings import Net
from tests.runtime.comparison import assert_same_results, run


class SmallResNet(nn.Module):
    """Stem, two residual blocks and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        shortcut = nn.Sequential(nn.Conv2d(4, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8))
        self.conv1 = nn.Conv2d(3, 4, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(4)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.blocks = nn.Sequential(BasicBlock(4, 4, 1, None), BasicBlock(4, 8, 2, shortcut))
        self.fc = nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.maxpool(F.relu(self.bn1(self.conv1(x)))))
        return self.fc(torch.flatten(F.adaptive_avg_pool2d(x, 1), 1))


class SmallUNet(nn.Module):
    """Up by a transposed convolution and by a resize."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = UNet(width=2, depth=1, up="transpose")
        self.outer = UNet(in_channels=2, num_classes=1, width=2, depth=1, up="linear", match="pad")

    def forward(self, x: Tensor) -> Tensor:
        return self.outer(self.inner(x))


def _pools(n: Any, x: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
    x = F.pad(x, (2, 1, 0, 3), value=0.5) * n.gain(v)[:, :, None, None]
    y = F.avg_pool2d(x, 3, 2, 1, count_include_pad=False)
    z = F.pad(y[:, 1:, 1:-1, ::2], (1, 1, 1, 1), mode="reflect")
    return F.interpolate(z, scale_factor=2.0), torch.where(y > 0, y, -y)


def pools() -> nn.Module:
    return Net(_pools, gain=nn.Linear(2, 3))


CASES: dict[str, tuple[Any, tuple[tuple[int, ...], ...], int]] = {
    "resnet": (SmallResNet, ((1, 3, 96, 64),), 64),
    "unet": (SmallUNet, ((1, 3, 64, 48),), 40),
    "pools": (pools, ((1, 3, 20, 24), (1, 2)), 12),
}


def inputs_of(name: str) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randn(size, generator=generator) for size in CASES[name][1]]


def compiled(name: str, tile_size: int | None = None, **options: Any) -> StreamedModule:
    torch.manual_seed(0)
    build, _, size = CASES[name]
    inputs = tuple(inputs_of(name))
    return streamplan.compile(build().eval(), tile_size=tile_size or size, example_inputs=inputs, **options)


@pytest.mark.parametrize("name", CASES)
def test_source(name: str) -> None:
    assert_matches_golden(compiled(name).source, f"programs/{name}")


@pytest.mark.parametrize("name", CASES)
def test_the_approved_program_computes_the_net(name: str) -> None:
    torch.manual_seed(0)
    build, _, tile_size = CASES[name]
    model, inputs = build().double().eval(), [x.double() for x in inputs_of(name)]
    streamed = streamplan.compile(model, tile_size=tile_size, example_inputs=tuple(inputs))
    assert streamed._plan.num_tiles > 1
    assert_same_results(run(streamed, model, inputs), run(model, model, inputs), 1e-10)


@pytest.mark.parametrize("name", CASES)
def test_two_builds_give_the_same_bytes(name: str) -> None:
    assert compiled(name).source == compiled(name).source


def test_the_source_does_not_depend_on_the_process() -> None:
    program = (
        "import hashlib; from tests.codegen.test_programs import CASES, compiled\n"
        "print(*[hashlib.sha256(compiled(name).source.encode()).hexdigest() for name in CASES])"
    )
    here = [hashlib.sha256(compiled(name).source.encode()).hexdigest() for name in CASES]
    run_ = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONHASHSEED": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert run_.stdout.split() == here


@pytest.mark.parametrize("tile_size", [11, 16, 24])
def test_the_program_is_the_same_for_every_tile_size(tile_size: int) -> None:
    other = compiled("pools", tile_size, halo="recompute")
    assert other.source == compiled("pools", halo="recompute").source


def fussy(x: torch.Tensor) -> torch.Tensor:
    """Takes tensors without data alone, as those of a trace are."""
    if x.device.type != "meta" and not isinstance(x, FakeTensor):
        raise ArithmeticError("not these values")
    return x * 2


def test_a_failure_in_a_tile_shows_the_line_of_the_program() -> None:
    class Net(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[1](fussy(self[0](x)))

    streamplan.register_rule(fussy, streamplan.LocalRule.pointwise())
    try:
        streamed = streamplan.compile(Net(nn.Conv2d(3, 4, 3, padding=1), nn.Conv2d(4, 2, 3)), (1, 3, 16, 16), 8)
        with pytest.raises(ArithmeticError) as caught:
            streamed(torch.zeros(1, 3, 16, 16))
        source = streamed.source
    finally:
        streamplan.unregister_rule(fussy)
    text = "".join(traceback.format_exception(caught.value))
    failing = next(line for line in source.splitlines() if "fussy_1(" in line)
    assert failing.strip() in text
    assert "in tile" in text


def test_saved_source_is_a_module_of_its_own(tmp_path: Path) -> None:
    streamed = compiled("resnet")
    path = tmp_path / "program.py"
    streamed.save_source(path)
    text = path.read_text(encoding="utf-8")
    assert text == streamed.source
    namespace: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), namespace)
    assert {"prologue", "tile", "head"} <= namespace.keys()
    cut = torch.randn(1, *streamed._plan.chosen.shapes[0][1:])
    expected = streamed.fc(cut.mean((2, 3)))
    torch.testing.assert_close(namespace["head"](streamed, cut), expected, rtol=1e-5, atol=1e-6)


def test_names_of_the_program_do_not_clash_with_those_of_the_model() -> None:
    class Clash(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.t = nn.Conv2d(2, 2, 3, padding=1)
            self.F = nn.Conv2d(2, 2, 3, padding=1)
            self.inf = nn.MaxPool2d(3, 1, 1)
            self.w = nn.Linear(2, 2)

        def forward(self, t: Tensor, w: Tensor) -> Tensor:
            torch_ = self.F(self.t(t)) * self.w(w)[:, :, None, None]
            return self.inf(torch_).mean((2, 3))

    model = Clash().double()
    inputs = [torch.randn(1, 2, 14, 14, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)]
    streamed = streamplan.compile(model, tile_size=9, example_inputs=tuple(inputs))
    assert_same_results(run(streamed, model, inputs), run(model, model, inputs), 1e-10)
