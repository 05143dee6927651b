from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks import methods, worker
from benchmarks.cases import QUICK_CASES, Case, Run
from benchmarks.memory import PeakMemory
from benchmarks.nets import Net
from benchmarks.processes import Server
from benchmarks.run import main
from benchmarks.spec import Spec, Task
from benchmarks.variants import parse_variant
from benchmarks.worker import measure

_EXACT = 1e-9
"""Far below any real error, above the rounding of gradients that are zero but for rounding."""


def _spec(case: str, task: Task, variant: str) -> Spec:
    return QUICK_CASES[case].spec(task, parse_variant(variant), "cpu", None, 0)


@pytest.mark.parametrize(
    ("case", "variant"),
    [
        ("quick-unet", "checkpoint"),
        ("quick-unet", "recompute"),
        ("quick-resnet18", "checkpoint"),
        ("quick-tupac", "checkpoint"),
        ("quick-bytes", "checkpoint"),
        ("quick-bytes", "reuse"),
        ("quick-tupac", "reuse-no-passes"),
    ],
)
def test_exact_methods_have_no_error(case: str, variant: str) -> None:
    result = measure(_spec(case, "check", variant))
    assert result["status"] == "ok"
    assert result["gradient_error"] < _EXACT


def test_checkpointed_densenet_has_no_error() -> None:
    """Its layers take a list that the block goes on adding to."""
    runs = {"plain": Run((64, 64)), "checkpoint": Run((64, 64))}
    case = Case("densenet", "densenet121-body", runs, runs, options={"width": 2})
    result = measure(case.spec("check", parse_variant("checkpoint"), "cpu", None, 0))
    assert result["status"] == "ok"
    assert result["gradient_error"] < _EXACT


def test_bytes_stay_in_host_memory_for_methods_that_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    make = worker.make_image

    def recording(spec: Spec, dtype: torch.dtype, device: str) -> torch.Tensor:
        asked.append(device)
        return make(spec, dtype, "cpu")

    monkeypatch.setattr(worker, "make_image", recording)
    for variant in ("plain", "reuse"):
        spec = QUICK_CASES["quick-bytes"].spec("step", parse_variant(variant), "cpu", None, 0)
        image = make(spec, torch.bfloat16, "cpu")
        assert image.dtype is torch.uint8
        assert worker._image_device(replace(spec, device="cuda")) == ("cuda" if variant == "plain" else "cpu")
        result = measure(spec)
        assert result["status"] == "ok", result
        net = worker.build_net(spec, torch.bfloat16)
        weight = net.get_submodule("body.body.stem.0").weight
        assert weight.dtype is torch.bfloat16
        assert weight.is_contiguous(memory_format=torch.channels_last)
    assert asked == ["cpu", "cpu"]


def test_wrong_gradients_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def prepare_wrong(net: Net, spec: Spec) -> methods.Step:
        step = methods.prepare_step(net, spec)
        step.parameters["body.inc.double_conv.1.weight"].register_hook(lambda grad: 1.5 * grad)
        return step

    monkeypatch.setattr(worker, "prepare_step", prepare_wrong)
    result = measure(_spec("quick-unet", "check", "plain"))
    assert result["worst_parameter"] == "body.inc.double_conv.1.weight"
    assert result["gradient_error"] == pytest.approx(0.5)
    assert result["gradient_error_without_batch_norm"] < _EXACT


def test_missing_packages_are_no_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "lightstream", None)
    result = measure(_spec("quick-tupac", "step", "lightstream"))
    assert result["status"] == "not installed"


def test_failures_are_results(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(net: Net, spec: Spec) -> methods.Step:
        raise RuntimeError("no memory\nat all")

    monkeypatch.setattr(worker, "prepare_step", fail)
    assert measure(_spec("quick-unet", "step", "plain")) == {"status": "failed", "reason": "RuntimeError: no memory"}


@pytest.mark.filterwarnings("ignore")
def test_lightstream_is_exact_but_for_batch_norm() -> None:
    pytest.importorskip("lightning")
    pytest.importorskip("lightstream")
    result = measure(_spec("quick-tupac", "check", "lightstream"))
    assert result["status"] == "ok"
    assert result["gradient_error_without_batch_norm"] < _EXACT


def test_a_server_answers_until_it_is_left() -> None:
    with Server(_spec("quick-resnet18", "step", "reuse")) as server:
        assert server.ready()["status"] == "ok"
        steps = [server.ask("step") for _ in range(2)]
        profile = server.ask("profile")
        failed = [server.ask("nonsense"), server.ask("step")]
    assert [step["status"] for step in steps] == ["ok", "ok"]
    assert all(step["seconds"] > 0 and step["grid"] for step in steps)
    assert profile["status"] == "ok"
    assert [each["status"] for each in failed] == ["failed", "failed"]


def test_a_server_that_cannot_prepare_says_so_each_time() -> None:
    with Server(replace(_spec("quick-resnet18", "step", "reuse"), tile_size=(0, 0))) as server:
        results = [server.ready(), server.ask("step"), server.ask("profile")]
    assert [result["status"] for result in results] == ["failed"] * 3
    assert "tile_size" in results[-1]["reason"]


def test_a_server_that_takes_too_long_is_given_up() -> None:
    with Server(_spec("quick-resnet18", "step", "reuse"), timeout_seconds=0.1) as server:
        assert server.ask("step")["status"] == "failed"


def test_checkpointing_wraps_every_block_once() -> None:
    counts = {}
    for case in QUICK_CASES.values():
        net = worker.build_net(case.spec("step", parse_variant("plain"), "cpu", None, 0), torch.float32)
        blocks = list(net.checkpointed_blocks())
        assert len(blocks) == len(set(blocks))
        counts[case.name] = len(blocks)
    assert counts == {"quick-unet": 1 + 2 + 2, "quick-resnet18": 1 + 8, "quick-bytes": 1 + 8, "quick-tupac": 5}


def test_peak_memory_counts_what_is_gone_again() -> None:
    before = torch.ones(48 * 2**18)
    memory = PeakMemory("cpu")
    during = torch.ones(64 * 2**18)
    del during
    if memory.measure == "VmHWM":
        assert 60 * 2**20 < memory.peak_bytes < 100 * 2**20
    else:
        assert memory.peak_bytes >= 0
    del before


@pytest.mark.slow
def test_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "results.json"
    options = "--quick --cases quick-unet --variants plain reuse --repeats 1 --threads 1 --warmup 0"
    main([*options.split(), "--memory-runs", "0", "--no-checks", "--out", str(out)])
    assert "quick-unet: 96 x 96" in capsys.readouterr().out
    read = json.loads(out.read_text())
    assert read["machine"]["torch"] == str(torch.__version__)
    plain, reuse = read["cases"][0]["variants"]
    assert plain["problem"] is None
    assert reuse["problem"] is None
    assert reuse["steps"]["0"]["grid"][0] >= 3
    assert reuse["summary"]["ratio_to_plain"]["num_samples"] == 1
