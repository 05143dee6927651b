"""Run the zoo and write its table.

python -m tests.zoo.run                        # every net, one line each
python -m tests.zoo.run --only UNet            # those whose names contain UNet
python -m tests.zoo.run --write docs/zoo.md    # also write the page
"""

from __future__ import annotations

import argparse
import importlib.metadata
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rich.console import Console

from tests.zoo.checking import Outcome, check_in_process
from tests.zoo.monai_nets import NOT_NETS, ZOO

_VERDICTS = ("verified", "refused", "wrong", "crashed", "slow", "not built")
_STYLES = {"verified": "green", "refused": "yellow"}
_PACKAGES = ("monai", "torch", "numpy")

_PAGE = """# The zoo

Every network class of `monai.networks.nets` that can be built with the packages of the test suite, in 2-D and in 3-D,
planned and verified with recomputed and with carried halos: {summary}.

`streamplan.verify` compares the streamed net with the plain net in float64: outputs, the gradient of every parameter
and of the image, buffers. The largest error allowed is 1e-10; in VQVAE, which converts to float32 by itself, it
is 1e-4. Nets are in eval mode and have few channels and random weights, BatchNorm statistics included. This page is
made by

```sh
make zoo
```

on one CPU thread per net, with Python {python}, {packages}.

- **norm** is the default of the net; `batch` was asked for where the net has an option for it. A net whose norm needs
  statistics of the whole map (instance, group and layer norm) is streamed up to the first of them.
- **cut** is the module that computes the last streamed value. An asterisk marks a cut before the latest one: at the
  size of the image here, which is small, the latest does not divide into two tiles.
- **share streamed** is the part of the plain net's activations, in bytes, and of its forward FLOPs that stands before
  this cut. Both depend on the image size and on the channels, which are small here.
- **error** is the worst of all tensors, with either policy of `halo`; **tiles** are those of `recompute`.
- **ends at** is the first operation that is not local; empty if the whole net is.

## Verified

| net | axes | norm | cut | bytes streamed | FLOPs streamed | tiles | error, recompute | error, reuse | ends at |
|---|---|---|---|--:|--:|--:|--:|--:|---|
{verified}

## Refused

| net | axes | norm | reason |
|---|---|---|---|
{others}

## Left out

| module | why |
|---|---|
{left_out}
"""


def main() -> int:
    """Run from the command line; returns 0 if no net is wrong and none crashed."""
    parser = argparse.ArgumentParser(description="Plan and verify the networks of MONAI.")
    parser.add_argument("--write", type=Path, help="write the page here")
    parser.add_argument("--only", default="", help="run only the nets whose names contain this")
    parser.add_argument("--jobs", type=int, default=2, help="nets at a time")
    options = parser.parse_args()
    started = time.monotonic()
    names = [name for name in ZOO if options.only in name]
    outcomes = dict(_run(names, options.jobs))
    Console().print(f"{_summary(outcomes)}; {time.monotonic() - started:.0f} s", highlight=False)
    if options.write:
        options.write.write_text(page(outcomes))
    bad = {outcome.verdict for outcome in outcomes.values()} - {"verified", "refused"}
    return 1 if bad or not outcomes else 0


def _run(names: list[str], num_jobs: int) -> Iterator[tuple[str, Outcome]]:
    """Outcomes in the order of the names, a line for each as it ends."""
    console = Console(soft_wrap=True)

    def check(name: str) -> tuple[str, Outcome]:
        outcome = check_in_process(name)
        style = _STYLES.get(outcome.verdict, "bold red")
        verdict = f"[{style}]{outcome.verdict:<9}[/]"
        console.print(f"{name:<42}{verdict} {outcome.seconds:5.1f} s  {_details(outcome)}", highlight=False)
        return name, outcome

    with ThreadPoolExecutor(num_jobs) as pool:
        yield from pool.map(check, names)


def _details(outcome: Outcome) -> str:
    if outcome.verdict != "verified":
        return outcome.reason.replace("[", r"\[")
    errors = " ".join(f"{error:.0e}" for error in outcome.errors)
    return f"{outcome.streamed_flops_share:6.1%} of the FLOPs, {outcome.num_tiles} tiles, errors {errors}"


def _summary(outcomes: dict[str, Outcome]) -> str:
    """`87 verified (40 of them streamed whole), 9 refused, 0 wrong`."""
    counts = Counter(outcome.verdict for outcome in outcomes.values())
    whole = sum(_is_whole(outcome) for outcome in outcomes.values())
    parts = [f"{counts[verdict]} {verdict}" for verdict in _VERDICTS if counts[verdict] or verdict == "wrong"]
    return ", ".join(parts).replace("verified", f"verified ({whole} of them streamed from end to end)")


def _is_whole(outcome: Outcome) -> bool:
    return outcome.verdict == "verified" and outcome.is_latest_cut and not outcome.barrier


def page(outcomes: dict[str, Outcome]) -> str:
    """The page with its tables."""
    verified = [_verified_row(name, outcome) for name, outcome in outcomes.items() if outcome.verdict == "verified"]
    others = [_other_row(name, outcome) for name, outcome in outcomes.items() if outcome.verdict != "verified"]
    return _PAGE.format(
        summary=_summary(outcomes),
        python=".".join(map(str, sys.version_info[:2])),
        packages=", ".join(f"{name} {importlib.metadata.version(name).split('+')[0]}" for name in _PACKAGES),
        verified="\n".join(verified),
        others="\n".join(others),
        left_out="\n".join(f"| {name} | {reason} |" for name, reason in NOT_NETS.items()),
    )


def _verified_row(name: str, outcome: Outcome) -> str:
    cut = f"`{outcome.cut}`" + ("" if outcome.is_latest_cut else " \\*")
    shares = f"{outcome.streamed_bytes_share:.1%} | {outcome.streamed_flops_share:.1%}"
    barrier = f"`{outcome.barrier}`" if outcome.barrier else ""
    errors = " | ".join(f"{error:.0e}" for error in outcome.errors)
    return f"| {_head(name)} | {cut} | {shares} | {outcome.num_tiles} | {errors} | {barrier} |"


def _other_row(name: str, outcome: Outcome) -> str:
    verdict = "" if outcome.verdict == "refused" else f"**{outcome.verdict}**: "
    reason = outcome.reason.replace("|", r"\|").replace("<", "&lt;").replace("__", r"\_\_").replace("[", r"\[")
    return f"| {_head(name)} | {verdict}{reason} |"


def _head(name: str) -> str:
    entry = ZOO[name]
    return f"{entry.net} | {entry.num_axes} | {entry.norm}"


if __name__ == "__main__":
    sys.exit(main())
