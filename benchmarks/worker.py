"""Measurements in a process of its own: `python -m benchmarks.worker SPEC [--serve]`, with a `Spec` as JSON.

The last line of the output is the result, as JSON with a "status": "ok", "not installed" or "failed". With `--serve`
the process prepares a step and its warm-ups, says so with a result, and then answers each line it reads, "step" or
"profile", with another one: on a GPU, where the second step costs what any other does, starting a process for each
would take far longer than what is measured.
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.machine import synchronize
from benchmarks.memory import PeakMemory
from benchmarks.methods import Step, prepare_step
from benchmarks.nets import build_net, make_image
from benchmarks.profiling import profile_step
from benchmarks.spec import Spec
from benchmarks.variants import HALOS

_SMALLEST_SHARE = 1e-6
"""Of the norm of all gradients: a parameter whose gradient is smaller than that is measured against it."""
Result = dict[str, Any]


class Bench:
    """A step, warmed up.

    Args:
        spec: What to prepare.
    """

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        dtype: torch.dtype = getattr(torch, spec.dtype)
        net, self._image = build_net(spec, dtype), make_image(spec, dtype, _image_device(spec))
        self._base_bytes = torch.cuda.memory_allocated() if spec.cuda_graphs and spec.device != "cpu" else None
        start = time.perf_counter()
        self._step: Step = prepare_step(net, spec)
        self.compile_seconds = time.perf_counter() - start
        for _ in range(spec.num_warmups):
            self._run()
        self._step.zero_grad()

    def _run(self) -> None:
        self._step.zero_grad()
        self._step.run(self._image)

    def measure_step(self) -> Result:
        """Time one training step and take its peak memory.

        On a GPU, another step is timed: to measure memory, what torch keeps is given back, and the driver would be
        asked for all of it again.
        """
        device = self._spec.device
        self._step.zero_grad()
        memory = PeakMemory(device, self._base_bytes)
        timed = self._timed_step()
        peak_bytes = memory.peak_bytes
        if device != "cpu":
            timed = self._timed_step()
        return {
            **timed,
            "compile_seconds": self.compile_seconds,
            "peak_bytes": peak_bytes,
            "memory_measure": memory.measure,
            "num_warmups": self._spec.num_warmups,
            "num_threads": torch.get_num_threads(),
            **self._step.notes,
        }

    def _timed_step(self) -> Result:
        device = self._spec.device
        self._step.zero_grad()
        synchronize(device)
        start, processor_start = time.perf_counter(), time.process_time()
        self._run()
        synchronize(device)
        return {
            "seconds": time.perf_counter() - start,
            "processor_seconds": time.process_time() - processor_start,
        }

    def profile(self) -> Result:
        """What the device does during a step."""
        self._step.zero_grad()
        return profile_step(self._run)


def measure_step(spec: Spec) -> Result:
    """Time one training step, warm-ups and preparation not included, and take its peak memory."""
    return Bench(spec).measure_step()


def check_gradients(spec: Spec) -> Result:
    """Compare the gradients of all parameters with the plain net's, in float64.

    The error of a parameter is the largest difference, relative to its largest plain gradient.
    """
    dtype = torch.float64
    image = make_image(spec, dtype, _image_device(spec))
    net = build_net(spec, dtype)
    step = prepare_step(net, spec)
    step.run(image)
    plain = build_net(spec, dtype)
    plain(image.to(spec.device)).square().mean().backward()
    expected = {name: _grad(parameter) for name, parameter in plain.named_parameters()}
    if expected.keys() != step.parameters.keys():
        return {"status": "failed", "reason": "it trains other parameters than the plain net"}
    floor = _SMALLEST_SHARE * float(sum(grad.square().sum() for grad in expected.values())) ** 0.5
    errors = {}
    for name, grad in expected.items():
        parameter = step.parameters[name]
        difference = float((_grad(parameter) - grad).abs().max())
        errors[name] = difference / max(float(grad.abs().max()), floor)
    worst = max(errors, key=errors.__getitem__)
    norms = {name for name, module in plain.named_modules() if isinstance(module, torch.nn.BatchNorm2d)}
    others = [error for name, error in errors.items() if name.rpartition(".")[0] not in norms]
    return {
        "gradient_error": errors[worst],
        "worst_parameter": worst,
        "gradient_error_without_batch_norm": max(others),
        "num_parameters": len(errors),
        "image_size": list(spec.image_size),
        "options": spec.options,
    }


def _image_device(spec: Spec) -> str:
    """Where the image is: bytes for methods that stream are in host memory."""
    return "cpu" if spec.has_host_bytes and spec.method in HALOS else spec.device


def _grad(parameter: Tensor) -> Tensor:
    return torch.zeros_like(parameter) if parameter.grad is None else parameter.grad


def measure(spec: Spec) -> Result:
    """The result of a specification, whatever comes of it."""
    _set_threads(spec)
    return _attempt(partial(measure_step if spec.task == "step" else check_gradients, spec))


def serve(spec: Spec, requests: Any, answer: Callable[[Result], None]) -> None:
    """Prepare a step, then answer requests until there are no more, or one fails."""
    _set_threads(spec)
    prepared: list[Bench] = []

    def prepare() -> Result:
        prepared.append(Bench(spec))
        return {"compile_seconds": prepared[0].compile_seconds}

    result = _attempt(prepare)
    answer(result)
    for request in requests:
        if result["status"] != "ok":
            return
        (bench,) = prepared
        result = _attempt({"step": bench.measure_step, "profile": bench.profile}[request.strip()])
        answer(result)


def _set_threads(spec: Spec) -> None:
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)


def _attempt(work: Callable[[], Result]) -> Result:
    """What comes of it, as a result."""
    try:
        result = work()
    except ImportError as error:
        return {"status": "not installed", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever fails is a result: the other variants still run
        traceback.print_exc()
        return {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"status": "ok", **result}


def _print(result: Result) -> None:
    print(json.dumps(result), flush=True)


if __name__ == "__main__":
    _spec = Spec.from_json(sys.argv[1])
    if sys.argv[2:] == ["--serve"]:
        serve(_spec, sys.stdin, _print)
    else:
        _print(measure(_spec))
