"""The benchmark: `python -m benchmarks.run`; see benchmarks/README.md.

    for each case:
        for each variant: check the gradients
        for each repeat:  for each variant: time one step     (every other repeat backwards)
        for each variant: measure the memory of one step      (on the CPU)
                          or profile one step                 (on a GPU)

Every measurement on the CPU is a process of its own. On a GPU every variant is one, which stays for all its steps.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from rich.console import Console

from benchmarks.cases import CASES, QUICK_CASES, Case
from benchmarks.gpu_cases import GPU_CASES, GPU_VARIANTS
from benchmarks.machine import device_slug, machine_facts
from benchmarks.memory import MALLOC_ENVIRONMENT
from benchmarks.processes import Server, run_worker
from benchmarks.results import RESULTS, SCRATCH, CaseResults, VariantResults, write_results
from benchmarks.table import case_table
from benchmarks.variants import PASSES, Variant, default_variants, parse_variant

Kind = Literal["check", "step", "memory", "profile"]

_NARROWEST_TABLE = 130
"""Columns; a table that wraps cannot be read."""


@dataclass(frozen=True)
class Settings:
    """What the command line asks for."""

    cases: tuple[Case, ...]
    variants: tuple[Variant, ...]
    device: str
    num_repeats: int
    num_memory_runs: int
    checks: bool
    num_warmups: int | None
    num_threads: int | None
    timeout_seconds: float | None
    out: Path


def schedule(variants: tuple[Variant, ...], settings: Settings) -> Iterator[tuple[Kind, int, Variant]]:
    """The measurements of a case, in the order they are made."""
    for variant in variants:
        if settings.checks and variant.method != "plain":
            yield "check", 0, variant
    for repeat in range(settings.num_repeats):
        for variant in variants if repeat % 2 == 0 else reversed(variants):
            yield "step", repeat, variant
    for repeat in range(settings.num_memory_runs):
        for variant in variants:
            yield "memory", repeat, variant
    for variant in variants:
        if settings.device != "cpu":
            yield "profile", 0, variant


def run_case(case: Case, settings: Settings, console: Console) -> Iterator[CaseResults]:
    """Measure a case; yields its results, the same object, after every measurement."""
    variants = tuple(variant for variant in settings.variants if variant.method in case.steps)
    description = {"net": case.net, "options": dict(case.options), "image_size": case.image_size, "dtype": case.dtype}
    results = CaseResults(case.name, description)
    results.variants = {variant.name: VariantResults(variant.name) for variant in variants}
    with ExitStack() as stack:
        servers: dict[str, Server] = {}
        for kind, repeat, variant in schedule(variants, settings):
            own = results.variants[variant.name]
            if own.problem is not None:
                continue
            if settings.device != "cpu" and kind != "check" and not servers:
                servers |= _start_servers(case, variants, settings, stack)
            if variant.name in servers:
                result = servers[variant.name].ask(kind)
            else:
                task: Literal["check", "step"] = "check" if kind == "check" else "step"
                spec = case.spec(task, variant, settings.device, settings.num_threads, settings.num_warmups)
                result = run_worker(spec, gives_memory_back=kind == "memory", timeout_seconds=settings.timeout_seconds)
            own.add(kind, repeat, result)
            said = result.get("reason") or (f"{result['seconds']:.3f} s" if "seconds" in result else "")
            console.print(
                f"{case.name} {variant.name} {kind} {repeat}: {result['status']} {said}", markup=False, soft_wrap=True
            )
            yield results


def _start_servers(
    case: Case, variants: tuple[Variant, ...], settings: Settings, stack: ExitStack
) -> dict[str, Server]:
    """A process for each variant, all of them ready."""
    servers = {}
    for variant in variants:
        spec = case.spec("step", variant, settings.device, settings.num_threads, settings.num_warmups)
        servers[variant.name] = stack.enter_context(Server(spec, settings.timeout_seconds))
    for server in servers.values():
        server.ready()
    return servers


def main(arguments: list[str] | None = None) -> None:
    """Measure, print a table per case, write JSON."""
    settings = parse_arguments(arguments)
    console = Console()
    facts = {
        "machine": machine_facts(settings.device, settings.num_threads),
        "malloc_environment_of_memory_runs": MALLOC_ENVIRONMENT,
    }
    done: list[CaseResults] = []
    for case in settings.cases:
        for results in run_case(case, settings, console):
            write_results(settings.out, facts, [*done, results])
            latest = results
        done.append(latest)
    for case_results in done:
        table = case_table(case_results)
        Console(width=max(console.width, _NARROWEST_TABLE)).print(table)
    console.print(f"written: {settings.out}", markup=False, soft_wrap=True)


def cases_for(device: str, *, quick: bool) -> tuple[Mapping[str, Case], Mapping[str, Case]]:
    """The cases that may be named for a device, and those that are run unless some are."""
    if quick:
        return QUICK_CASES, QUICK_CASES
    return ({**CASES, **GPU_CASES}, GPU_CASES) if device == "cuda" else (CASES, CASES)


def parse_arguments(arguments: list[str] | None = None) -> Settings:
    """The settings that a command line asks for."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.run",
        description=f"Cases: {', '.join(CASES)}; for GPUs: {', '.join(GPU_CASES)}. "
        f"Lowering passes: {', '.join(PASSES)}.",
    )
    parser.add_argument("--cases", nargs="+", help="names of cases; all unless given")
    parser.add_argument("--variants", nargs="+", help="names of variants, see benchmarks/variants.py")
    parser.add_argument("--quick", action="store_true", help="small images and nets instead of the cases")
    parser.add_argument("--repeats", type=int, help="timed steps per variant (5; 2 with --quick)")
    parser.add_argument("--memory-runs", type=int, help="on the CPU, steps whose memory is measured (1)")
    parser.add_argument("--no-checks", action="store_true", help="do not compare gradients")
    parser.add_argument("--warmup", type=int, help="steps before the timed one; 1 on a GPU and up to 1024 x 1024, or 0")
    parser.add_argument("--threads", type=int, help="of torch; its default unless given")
    parser.add_argument("--timeout", type=float, help="seconds after which a process is given up")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--out", type=Path, help=f"of the results ({RESULTS}/DEVICE.json; {SCRATCH} if quick)")
    given = parser.parse_args(arguments)
    is_on_gpu = given.device == "cuda"
    known, default = cases_for(given.device, quick=given.quick)
    unknown = set(given.cases or ()) - known.keys()
    if unknown:
        parser.error(f"unknown cases {', '.join(sorted(unknown))}; known: {', '.join(known)}")
    if is_on_gpu and not torch.cuda.is_available():
        parser.error("there is no CUDA device")
    try:
        names = given.variants or (GPU_VARIANTS if is_on_gpu else None)
        variants = tuple(map(parse_variant, names)) if names else default_variants()
    except ValueError as error:
        parser.error(str(error))
    name = f"quick-{device_slug(given.device)}" if given.quick else device_slug(given.device)
    memory_runs = 1 if given.memory_runs is None else given.memory_runs
    return Settings(
        cases=tuple(known[name] for name in given.cases or default),
        variants=variants,
        device=given.device,
        num_repeats=given.repeats or (2 if given.quick else 5),
        num_memory_runs=memory_runs if given.device == "cpu" else 0,
        checks=not given.no_checks,
        num_warmups=given.warmup,
        num_threads=given.threads,
        timeout_seconds=given.timeout,
        out=given.out or (SCRATCH if given.quick else RESULTS) / f"{name}.json",
    )


if __name__ == "__main__":
    main()
