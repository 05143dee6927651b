"""What a worker process is asked to do, as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import Literal

Task = Literal["step", "check"]
"""`step`: time and measure one training step. `check`: compare its gradients with the plain net's."""


@dataclass(frozen=True)
class Spec:
    """One measurement."""

    task: Task
    net: str
    options: dict[str, int]
    """Of the net's constructor."""
    image_size: tuple[int, int]
    """Rows and columns."""
    method: str
    tile_size: tuple[int, ...] | int | None = None
    cut: str = "latest"
    passes: tuple[str, ...] | None = None
    keep_tiles: int | None = None
    """How many tiles are not computed again; None leaves it to streamplan's default."""
    cuda_graphs: bool = False
    """Whether tiles are recorded on a GPU."""
    dtype: str = "float32"
    """Of weights and timed images; gradients are checked in float64."""
    is_autocast: bool = False
    """Whether timed steps compute in bfloat16 under autocast."""
    is_channels_last: bool = False
    """Whether weights, and images on the device, are in channels-last order before anything else."""
    has_host_bytes: bool = False
    """Whether the net takes bytes; methods that stream then get them in host memory."""
    device: str = "cpu"
    num_warmups: int = 0
    """Steps before the timed one."""
    num_threads: int | None = None
    """Of torch; None leaves its default."""

    def to_json(self) -> str:
        """The text that `from_json` reads."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Spec:
        """The specification that `to_json` wrote."""
        fields = json.loads(text)
        for name in ("image_size", "tile_size", "passes"):
            if isinstance(fields.get(name), list):
                fields[name] = tuple(fields[name])
        return cls(**fields)
