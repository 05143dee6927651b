"""Nets of torchvision, timm and segmentation-models-pytorch, streamed and plain, in a process of their own.

    python -m tests.zoo.public_nets timm    # one line of JSON: the number of tiles of each net

The libraries are those that Python finds or, where it finds none, those in the folder of `make zoo-install`, which no
other process looks into.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

import torch
from torch import nn

import streamplan
from benchmarks.torchvision_schemas import define_missing_schemas
from tests.module.compare import assert_same_step
from tests.nets.randomize import randomize_

FOLDER = Path(sys.prefix) / "zoo"
"""Where `make zoo-install` puts the libraries."""

LIBRARIES: dict[str, dict[str, Callable[[Any], nn.Module]]] = {
    "torchvision": {
        "resnet18": lambda library: library.models.resnet18(num_classes=5),
        "mobilenet_v3_small": lambda library: library.models.mobilenet_v3_small(num_classes=5),
        "shufflenet_v2_x0_5": lambda library: library.models.shufflenet_v2_x0_5(num_classes=5),
    },
    "timm": {
        "resnet10t": lambda library: library.create_model("resnet10t", num_classes=5),
        "convnext_atto": lambda library: library.create_model("convnext_atto", num_classes=5),
        "resnetv2_18": lambda library: library.create_model("resnetv2_18", num_classes=5),
    },
    "segmentation_models_pytorch": {
        "Unet": lambda library: library.Unet("resnet18", encoder_weights=None, classes=2),
        "FPN": lambda library: library.FPN("resnet18", encoder_weights=None, classes=2),
        "Unet of timm": lambda library: library.Unet("tu-resnet10t", encoder_weights=None, classes=2),
    },
}
"""Nets by library."""

SIZE = (1, 3, 96, 64)
TILE_SIZE = 32


def is_there(library: str) -> bool:
    """Whether a library is installed, together with torchvision, which the others import."""
    paths = [*sys.path, str(FOLDER)]
    return all(PathFinder.find_spec(name, paths) is not None for name in (library, "torchvision"))


def num_tiles_of(model: nn.Module) -> int:
    """Stream a net, raise unless outputs and gradients are the plain net's, and count the tiles."""
    image = torch.randn(SIZE, dtype=torch.float64)
    randomize_(model.double().eval(), seed=1, sample=image)
    streamed = streamplan.compile(model, SIZE, TILE_SIZE)
    assert_same_step(model, streamed, image.requires_grad_())
    return streamed.plan.num_tiles


def main() -> None:
    """Check the nets of the library that is named by the argument."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    sys.path.append(str(FOLDER))
    define_missing_schemas()
    name = sys.argv[1]
    library = import_module(name)
    print(json.dumps({net: num_tiles_of(build(library)) for net, build in LIBRARIES[name].items()}))  # noqa: T201


if __name__ == "__main__":
    main()
