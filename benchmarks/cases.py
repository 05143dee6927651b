"""What is measured: nets, image sizes and tile sizes.

Tile sizes mean different things: with `recompute` and in lightstream all that a tile reads, with `reuse` what it
advances by. They are chosen so that a tile's memory is of the same order in all of them; lightstream's are squares and
have to be larger than twice the receptive field, as its backward pass loses a border that wide on either side.

Gradients are checked in float64 on smaller images, which each method needs at another size.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from benchmarks.spec import Spec, Task
from benchmarks.variants import Variant

TileSize = tuple[int, ...] | int | None

_WARMUP_PIXELS = 1024 * 1024
"""Images up to this size get a warm-up step on the CPU; on larger ones a step takes so long that it drowns in it."""


@dataclass(frozen=True)
class Run:
    """The sizes of one run of a method."""

    image_size: tuple[int, int]
    tile_size: TileSize = None
    cut: str = "latest"
    options: Mapping[str, int] = field(default_factory=dict)
    """Of the net's constructor, over those of the case."""


@dataclass(frozen=True)
class Case:
    """One net at one image size."""

    name: str
    net: str
    """A name in `benchmarks.nets.NETS`."""
    steps: Mapping[str, Run]
    """What is timed, by method; a method that is missing cannot run the net, or not at this size."""
    checks: Mapping[str, Run]
    """Where gradients are compared, by method."""
    options: Mapping[str, int] = field(default_factory=dict)
    dtype: str = "float32"
    is_autocast: bool = False
    """Whether steps compute in bfloat16 under autocast."""
    is_channels_last: bool = False
    has_host_bytes: bool = False
    """Whether the image is of bytes and in host memory for methods that stream."""

    def __post_init__(self) -> None:
        if len({run.image_size for run in self.steps.values()}) != 1:
            raise ValueError(f"case {self.name}: methods are timed on images of different sizes")

    @property
    def image_size(self) -> tuple[int, int]:
        """Rows and columns of the image that is timed."""
        return next(iter(self.steps.values())).image_size

    def spec(self, task: Task, variant: Variant, device: str, num_threads: int | None, num_warmups: int | None) -> Spec:
        """What a worker is asked to do; `num_warmups` of None is one on small images and on a GPU, none on others.

        Recordings are made in the first two steps.
        """
        run = (self.steps if task == "step" else self.checks)[variant.method]
        if num_warmups is None:
            is_warmed_up = device != "cpu" or run.image_size[0] * run.image_size[1] <= _WARMUP_PIXELS
            num_warmups = (2 if variant.cuda_graphs else 1) if is_warmed_up else 0
        return Spec(
            task=task,
            net=self.net,
            options={**self.options, **run.options},
            image_size=run.image_size,
            method=variant.method,
            tile_size=variant.tile_size or run.tile_size,
            cut=variant.cut or run.cut,
            passes=variant.passes,
            keep_tiles=variant.keep_tiles,
            cuda_graphs=variant.cuda_graphs,
            dtype=self.dtype,
            is_autocast=self.is_autocast and task == "step",
            is_channels_last=self.is_channels_last,
            has_host_bytes=self.has_host_bytes,
            device=device,
            num_warmups=num_warmups,
            num_threads=num_threads,
        )


def runs(extent: int, *, plain: bool = True, **tilings: TileSize | Run) -> dict[str, Run]:
    """Runs on a square image; a method's value is its tile size, or a run where it needs another image or a cut."""
    image_size = (extent, extent)
    runs = {"plain": Run(image_size), "checkpoint": Run(image_size)} if plain else {}
    for method, tiling in tilings.items():
        runs[method] = tiling if isinstance(tiling, Run) else Run(image_size, tiling)
    return runs


_NARROW = {"width": 16}
"""Some checks need large images; a narrow net keeps them affordable."""
RESNET_CHECKS = runs(608, recompute=512, reuse=(96, 608), lightstream=Run((1536, 1536), 1152, options=_NARROW))
_DENSENET_CUT = "body.transition2"
"""The whole net's receptive field is 2071 samples: a tile that computes its halo again would read all of the image."""
_DENSENET_CHECKS = runs(416, recompute=Run((416, 416), 352, cut=_DENSENET_CUT), reuse=(96, 416))
_TUPAC_CHECKS = runs(512, recompute=320, reuse=(128, 512), lightstream=Run((640, 640), 480))
_UNET_CHECKS = runs(384, recompute=320, reuse=(64, 384))

CASES = {
    case.name: case
    for case in (
        Case(
            "resnet18-2240",
            "resnet18-body",
            runs(2240, recompute=1344, reuse=Run((2240, 2240), (192, 2240), cut="body.layer3"), lightstream=1632),
            RESNET_CHECKS,
        ),
        Case(
            "resnet18-1120",
            "resnet18-body",
            runs(1120, recompute=960, reuse=(224, 1120)),
            RESNET_CHECKS,
        ),
        Case(
            "resnet50-1408",
            "resnet50-body",
            runs(1408, recompute=960, reuse=Run((1408, 1408), (256, 1408), cut="body.layer3"), lightstream=1216),
            RESNET_CHECKS,
        ),
        Case(
            "densenet121-1408",
            "densenet121-body",
            runs(1408, recompute=Run((1408, 1408), 864, cut=_DENSENET_CUT), reuse=(352, 1408)),
            _DENSENET_CHECKS,
        ),
        Case(
            "tupac-2048",
            "tupac",
            runs(2048, recompute=1184, reuse=(384, 2048), lightstream=1248),
            _TUPAC_CHECKS,
        ),
        Case(
            "unet-1024",
            "unet",
            runs(1024, recompute=640, reuse=(192, 1024)),
            _UNET_CHECKS,
            options={"width": 32},
        ),
        Case(
            "unet-1536",
            "unet",
            runs(1536, recompute=928, reuse=(256, 1536)),
            _UNET_CHECKS,
            options={"width": 32},
        ),
        Case(
            "resnet18-8192",
            "resnet18",
            runs(8192, plain=False, recompute=2048, reuse=(256, 2048), lightstream=2464),
            RESNET_CHECKS,
        ),
        Case(
            "tupac-8192",
            "tupac",
            runs(8192, plain=False, recompute=2560, reuse=(512, 2048), lightstream=2176),
            runs(
                640,
                recompute=Run((1088, 1088), 960, options=_NARROW),
                reuse=(256, 640),
                lightstream=Run((2048, 2048), 1536, options=_NARROW),
            ),
            options={"depth": 3},
        ),
    )
}
"""By name. The last two are beyond what the plain net can do in 23 GiB."""

QUICK_CASES = {
    case.name: case
    for case in (
        Case(
            "quick-unet",
            "unet",
            runs(96, recompute=64, reuse=(32, 96)),
            runs(64, recompute=48, reuse=(16, 64)),
            options={"width": 4, "depth": 2},
        ),
        Case(
            "quick-resnet18",
            "resnet18",
            runs(192, reuse=(64, 192)),
            runs(128, reuse=(32, 128)),
            options={"width": 4, "num_classes": 3},
        ),
        Case(
            "quick-bytes",
            "resnet18",
            runs(192, reuse=(64, 192)),
            runs(128, reuse=(32, 128)),
            options={"width": 4, "num_classes": 3},
            dtype="bfloat16",
            is_channels_last=True,
            has_host_bytes=True,
        ),
        Case(
            "quick-tupac",
            "tupac",
            runs(384, recompute=256, reuse=(96, 384), lightstream=320),
            runs(256, recompute=224, reuse=(64, 256), lightstream=Run((384, 384), 320)),
            options={"width": 2},
        ),
    )
}
"""By name: nets of a few channels on images of at most 384 x 384, to see that everything runs."""
