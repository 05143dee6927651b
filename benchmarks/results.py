"""What was measured, variant by variant, with its summaries; kept as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.summary import Summary, paired_ratio, summarize

Result = dict[str, Any]
"""What a worker printed."""

RESULTS = Path("benchmarks/results")
"""What was measured on purpose; the pages of the documentation are written from it."""
SCRATCH = Path("demo-output")
"""Where the rest goes; git ignores it."""


@dataclass
class VariantResults:
    """All of one variant of one case."""

    name: str
    steps: dict[int, Result] = field(default_factory=dict)
    """Timed steps, by repeat."""
    memory: list[Result] = field(default_factory=list)
    """Steps of processes whose memory was measured; empty where the timed steps' is as good."""
    profile: Result | None = None
    """On a GPU, what the device did during one more step."""
    check: Result | None = None
    problem: Result | None = None
    """The first result that is not "ok"; the variant's steps are not run again after it."""

    def add(self, kind: str, repeat: int, result: Result) -> None:
        """Keep a result of a `step`, of `memory`, of a `profile` or of a `check`."""
        if kind == "check":
            self.check = result
        elif kind == "profile":
            self.profile = result
        elif result["status"] != "ok":
            self.problem = self.problem or result
        elif kind == "memory":
            self.memory.append(result)
        else:
            self.steps[repeat] = result

    @property
    def seconds(self) -> Summary | None:
        """Of the timed steps."""
        return summarize([result["seconds"] for result in self.steps.values()])

    @property
    def peak_bytes(self) -> Summary | None:
        """Of the memory runs, or of the timed steps where there are none."""
        return summarize([result["peak_bytes"] for result in self.memory or self.steps.values()])

    @property
    def idle_share(self) -> Summary | None:
        """Of a GPU, in the profiled step; none on the CPU."""
        share = (self.profile or {}).get("device_idle_share")
        return None if share is None else summarize([share])

    def ratio(self, plain: VariantResults | None) -> Summary | None:
        """Of seconds to plain's."""
        if plain is None:
            return None
        own, others = ({n: result["seconds"] for n, result in each.steps.items()} for each in (self, plain))
        return paired_ratio(own, others)

    def to_json(self, plain: VariantResults | None) -> dict[str, Any]:
        """Samples and summaries."""
        summaries = {"seconds": self.seconds, "ratio_to_plain": self.ratio(plain), "peak_bytes": self.peak_bytes}
        summaries["device_idle_share"] = self.idle_share
        return {**asdict(self), "summary": {name: value and asdict(value) for name, value in summaries.items()}}


@dataclass
class CaseResults:
    """All of one case."""

    name: str
    description: dict[str, Any]
    variants: dict[str, VariantResults] = field(default_factory=dict)

    @property
    def plain(self) -> VariantResults | None:
        """The variant that ratios refer to, if it was run."""
        return self.variants.get("plain")

    def to_json(self) -> dict[str, Any]:
        """Samples and summaries of every variant."""
        variants = [variant.to_json(self.plain) for variant in self.variants.values()]
        return {"name": self.name, **self.description, "variants": variants}


def write_results(path: Path, facts: dict[str, Any], cases: list[CaseResults]) -> None:
    """Write everything measured so far, so that a run that is stopped has lost nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps({**facts, "cases": [case.to_json() for case in cases]}, indent=1)
    path.write_text(text + "\n", encoding="utf-8")
