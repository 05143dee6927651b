"""Devices that are not there are told of; some of torch's kernels would end the process."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import streamplan
from streamplan.errors import OptionError

ELSEWHERE = ("mps", "xpu", "hip", "xla", "ipu", "vulkan", "hpu", "mtia", "cuda:77")


def is_here(name: str) -> bool:
    return torch.device(name).type == (torch.accelerator.current_accelerator() or torch.device("cpu")).type


@pytest.mark.parametrize("name", [name for name in ELSEWHERE if ":" in name or not is_here(name)])
@pytest.mark.parametrize("call", [streamplan.plan, streamplan.compile, streamplan.receptive_field])
def test_a_device_that_is_not_there(call: object, name: str) -> None:
    if name == "cuda:77" and not torch.cuda.is_available():
        pytest.skip("no CUDA device; tracing says so")
    assert callable(call)
    with pytest.raises(OptionError, match=f"device='{name}' is not there"):
        call(nn.Conv2d(3, 4, 3), (1, 3, 40, 36), tile_size=16, device=torch.device(name))
