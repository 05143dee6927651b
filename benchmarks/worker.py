"""One measurement in a process of its own: `python -m benchmarks.worker SPEC`, with a `Spec` as JSON.

The last line of the output is the result, as JSON with a "status": "ok", "not installed" or "failed".
"""

from __future__ import annotations

import json
import sys
import time
import traceback
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.idle import measure_idle
from benchmarks.machine import synchronize
from benchmarks.memory import PeakMemory
from benchmarks.methods import prepare_step
from benchmarks.nets import build_net, make_image
from benchmarks.spec import Spec
from benchmarks.variants import HALOS

_SMALLEST_SHARE = 1e-6
"""Of the norm of all gradients: a parameter whose gradient is smaller than that is measured against it."""


def measure_step(spec: Spec) -> dict[str, Any]:
    """Time one training step, warm-ups and preparation not included, and take its peak memory."""
    dtype: torch.dtype = getattr(torch, spec.dtype)
    net, image = build_net(spec, dtype), make_image(spec, dtype, _image_device(spec))
    start = time.perf_counter()
    step = prepare_step(net, spec)
    compile_seconds = time.perf_counter() - start
    for _ in range(spec.num_warmups):
        step.run(image)
    step.zero_grad()
    memory = PeakMemory(spec.device)
    synchronize(spec.device)
    start = time.perf_counter()
    step.zero_grad()
    step.run(image)
    synchronize(spec.device)
    seconds = time.perf_counter() - start
    peak_bytes = memory.peak_bytes
    idle: dict[str, Any] = {}
    if spec.device != "cpu":
        step.zero_grad()
        idle = measure_idle(partial(step.run, image))
    return {
        "seconds": seconds,
        "compile_seconds": compile_seconds,
        "peak_bytes": peak_bytes,
        **idle,
        "memory_measure": memory.measure,
        "num_warmups": spec.num_warmups,
        "num_threads": torch.get_num_threads(),
        **step.notes,
    }


def check_gradients(spec: Spec) -> dict[str, Any]:
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


def measure(spec: Spec) -> dict[str, Any]:
    """The result of a specification, whatever comes of it."""
    if spec.num_threads is not None:
        torch.set_num_threads(spec.num_threads)
    try:
        result = measure_step(spec) if spec.task == "step" else check_gradients(spec)
    except ImportError as error:
        return {"status": "not installed", "reason": str(error)}
    except Exception as error:  # noqa: BLE001 - whatever fails is a result: the other variants still run
        traceback.print_exc()
        return {"status": "failed", "reason": f"{type(error).__name__}: {str(error).splitlines()[0]}"}
    return {"status": "ok", **result}


if __name__ == "__main__":
    print(json.dumps(measure(Spec.from_json(sys.argv[1]))))
