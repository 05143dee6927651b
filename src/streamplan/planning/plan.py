"""The plan: plain, frozen data. Equal inputs give equal plans, and a plan survives JSON."""

from __future__ import annotations

import dataclasses
import json
import math
from dataclasses import dataclass

from streamplan.errors import PlanMismatchError
from streamplan.options import BatchNormPolicy, CarryPlacement, HaloPolicy, ImagePlacement, Optimizer, Options
from streamplan.planning.arguments import CallArguments
from streamplan.planning.fitting import check_fit
from streamplan.planning.forecast import Forecast
from streamplan.planning.reading import UnreadableError, read
from streamplan.planning.text import plan_text
from streamplan.printed import Printed

FORMAT_VERSION = 4
"""Version of the JSON form."""


@dataclass(frozen=True)
class InputPlan:
    """An input map, the most a tile reads of it, and the most that is new."""

    name: str
    shape: tuple[int, ...]
    """Full size."""
    dtype: str
    """Such as `float32`."""
    max_read: tuple[int, ...]
    """Largest number of samples one tile reads along each image axis, its halo included."""
    max_step: tuple[int, ...]
    """Largest number of samples one tile advances along each image axis: its block of the cut, in input samples."""


@dataclass(frozen=True)
class CutCandidate:
    """A place where the net can be cut."""

    values: tuple[str, ...]
    """Cut values."""
    module_path: str
    """Module whose call computes the last of them."""
    shapes: tuple[tuple[int, ...], ...]
    """Full-size shapes of the cut values."""
    receptive_field: tuple[int, ...]
    """Image samples that one position reads, along each image axis, were the image unbounded."""
    halo: tuple[int, ...]
    """Those of them that are beyond the position's own share of the image."""
    cut_bytes: int
    """Bytes of all cut values."""
    streamed_flops: int
    """Forward FLOPs before the cut, without recomputed halos."""
    streamed_activation_bytes: int
    """Bytes of activations before the cut, in the plain net."""

    @property
    def extents(self) -> tuple[int, ...]:
        """Positions of the last cut value along each image axis; its channels may be split, or one of them taken."""
        return self.shapes[-1][-len(self.halo) :]


@dataclass(frozen=True)
class Barrier:
    """A call that ends the local part of the net."""

    name: str
    where: str
    """Module path, class and source line."""
    locality: str
    """`global` or `unknown`."""
    reason: str


@dataclass(frozen=True)
class Costs:
    """What the chosen cut and tile grid cost, counted from shapes."""

    flops: int
    """Forward FLOPs of the plain net."""
    streamed_flops: int
    """Those of the streamed part."""
    computed_flops: int
    """Those of the streamed part with every halo computed again."""
    activation_bytes: int
    """Bytes of all activations of the plain net's forward pass."""
    streamed_activation_bytes: int
    """Those of the streamed part."""
    tile_activation_bytes: int
    """Those of the streamed part in its largest tile."""
    cut_bytes: int
    """Bytes of the cut values."""
    carry_bytes: int
    """Bytes of all that tiles hand to each other: kept from the forward to the backward pass; 0 with recomputed
    halos."""
    recompute_factor: float
    """Forward FLOPs of the streamed part over those of the plain net, if as many tiles computed their halos again."""


@dataclass(frozen=True)
class Plan(Printed):
    """What will be streamed, and how."""

    model: str
    """Class name of the model."""
    fingerprint: str
    """Hash of the traced graph the plan is for."""
    arguments: CallArguments
    """The call it was made for."""
    device: str
    """Device it was made for."""
    inputs: tuple[InputPlan, ...]
    """Input maps."""
    tile_size: tuple[int, ...]
    """Samples a tile may read along each image axis."""
    smallest_tile_size: tuple[int, ...]
    """Smallest feasible tile size for this cut; with carried halos 1 along every axis."""
    halo: HaloPolicy
    """`recompute`: every tile computes its whole region, halo included; `reuse`: tiles carry halos to each other."""
    batch_norm: BatchNormPolicy
    """Policy for BatchNorm in training mode."""
    passes: tuple[str, ...]
    """Lowering passes."""
    carries: CarryPlacement
    """Where what tiles hand to each other is kept for the backward pass."""
    keep_tiles: int
    """How many tiles, from the last, are not computed again in the backward pass."""
    requested_cut: tuple[str, ...]
    """Names the cut was requested by; empty for the latest."""
    cut: tuple[str, ...]
    """Values that leave the streamed part."""
    cuts: tuple[CutCandidate, ...]
    """All single-tensor cuts before the latest, then the latest; the chosen one is among them or added last."""
    barriers: tuple[Barrier, ...]
    """The calls that end the local part; empty for a net that is local to its end."""
    boundaries: tuple[tuple[int, ...], ...]
    """Per image axis, what is divided into steps, from 0 to its extent: with recomputed halos the coarsest cut value,
    with carried ones the first input map."""
    costs: Costs
    shape_reads: tuple[str, ...]
    """Lines of the model that read a shape as a number, so that another image size needs another trace."""
    image: ImagePlacement = "device"
    """Where the image is: on the device, or where tiles read it region by region."""
    optimizer: Optimizer = "sgd"
    """Whose state is counted."""
    memory_budget: int | None = None
    """Bytes the plan was chosen for; None if its tiles were given."""
    budget_source: str = ""
    """Where they come from, if the user did not name them."""
    max_slowdown: float | None = None
    """Slowdown the plan was chosen for."""
    forecast: Forecast | None = None
    """What a step takes; None where that could not be told."""
    forecast_failure: str = ""
    """Why it could not."""

    @property
    def input_size(self) -> tuple[int, ...]:
        """Size of the first input map, batch and channels included."""
        return self.inputs[0].shape

    @property
    def options(self) -> Options:
        """The options that make this plan."""
        return Options(
            tile_size=self.tile_size,
            cut=self.requested_cut or "latest",
            halo=self.halo,
            batch_norm=self.batch_norm,
            passes=self.passes,
            carries=self.carries,
            keep_tiles=self.keep_tiles,
            image=self.image,
            optimizer=self.optimizer,
        )

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of tiles along each image axis."""
        return tuple(len(boundaries) - 1 for boundaries in self.boundaries)

    @property
    def num_tiles(self) -> int:
        """Number of tiles."""
        return math.prod(self.grid)

    @property
    def chosen(self) -> CutCandidate:
        """The chosen cut among `cuts`."""
        return next(candidate for candidate in self.cuts if candidate.values == self.cut)

    def __str__(self) -> str:
        return self.report()

    def report(self, *, verbose: bool = False) -> str:
        """The plan as text, at most 100 columns unless it is verbose.

        Args:
            verbose: Whether to show all cuts with what is streamed before each, and all phases item by item.
        """
        return plan_text(self, verbose=verbose)

    def to_json(self) -> str:
        """The plan as JSON text."""
        data = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        data["arguments"] = self.arguments.to_json()
        for name in ("inputs", "cuts", "barriers"):
            data[name] = [dataclasses.asdict(item) for item in data[name]]
        data["costs"] = dataclasses.asdict(self.costs)
        data["forecast"] = dataclasses.asdict(self.forecast) if self.forecast else None
        return json.dumps({"format_version": FORMAT_VERSION, **data}, indent=1)

    @classmethod
    def from_json(cls, text: str | bytes) -> Plan:
        """The inverse of `to_json`.

        Raises:
            PlanMismatchError: The text is not a plan, or one of another format version.
        """
        if not isinstance(text, str | bytes | bytearray):
            raise PlanMismatchError(
                f"an object of type {type(text).__name__} is not the text of a plan",
                why="a plan is stored as JSON text",
                do="pass what Plan.to_json() returned",
            )
        try:
            data = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise PlanMismatchError(
                "the text is not a plan", why=str(error), do="pass what Plan.to_json() returned"
            ) from error
        if not isinstance(data, dict):
            raise PlanMismatchError(
                "the text is not a plan",
                why=f"it holds a {type(data).__name__} instead of the fields of a plan",
                do="pass what Plan.to_json() returned",
            )
        version = data.pop("format_version", None)
        if version != FORMAT_VERSION:
            raise PlanMismatchError(
                f"the plan has format version {version}",
                why=f"this version of streamplan reads format version {FORMAT_VERSION}",
                do="make the plan again with streamplan.plan(...)",
            )
        try:
            plan: Plan = read(cls, data)
            check_fit(plan)
        except (UnreadableError, RecursionError) as error:
            raise PlanMismatchError(
                "the plan is damaged",
                where=error.place if isinstance(error, UnreadableError) else "",
                why=error.why if isinstance(error, UnreadableError) else "it is nested too deeply",
                do="make the plan again with streamplan.plan(...)",
            ) from error
        return plan
