from __future__ import annotations

import pytest

from benchmarks.cases import CASES, QUICK_CASES
from benchmarks.gpu_cases import GPU_CASES, GPU_VARIANTS
from benchmarks.machine import device_slug, slug
from benchmarks.nets import NETS
from benchmarks.run import Settings, cases_for, parse_arguments, schedule
from benchmarks.spec import Spec
from benchmarks.variants import PASSES, Variant, default_variants, parse_variant


def test_names() -> None:
    assert parse_variant("plain") == Variant("plain", "plain", None)
    assert parse_variant("recompute-no-passes") == Variant("recompute-no-passes", "recompute", ())
    for name in PASSES:
        without = parse_variant(f"reuse-without-{name}").passes
        assert without is not None
        assert {*without, name} == set(PASSES)
        assert name not in without
        assert parse_variant(f"recompute-only-{name}").passes == (name,)
    assert parse_variant("reuse@224x1120") == Variant("reuse@224x1120", "reuse", tile_size=(224, 1120))
    cut = parse_variant("recompute@960x960@body.layer3")
    assert (cut.method, cut.tile_size, cut.cut) == ("recompute", (960, 960), "body.layer3")
    assert parse_variant("lightstream@1600x1600").tile_size == (1600, 1600)


def test_tiles_and_cut_of_a_variant_replace_those_of_the_case() -> None:
    case = CASES["resnet18-2240"]
    spec = case.spec("step", parse_variant("reuse@96x2240@body.layer1"), "cpu", 2, None)
    assert (spec.tile_size, spec.cut) == ((96, 2240), "body.layer1")
    assert case.spec("check", parse_variant("reuse@96x2240@body.layer1"), "cpu", 2, None).cut == "body.layer1"


@pytest.mark.parametrize(
    "name",
    [
        "",
        "fast",
        "plain-no-passes",
        "reuse-",
        "reuse-without",
        "reuse-without-magic",
        "reuse-with-inplace",
        "plain@64x64",
        "reuse@64",
        "lightstream@64x96",
    ],
)
def test_other_names_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match="not a variant"):
        parse_variant(name)


def test_every_pass_is_switched_off_by_default() -> None:
    names = [variant.name for variant in default_variants()]
    assert {"plain", "checkpoint", "lightstream", "recompute", "reuse"} <= set(names)
    assert {f"reuse-without-{name}" for name in PASSES} <= set(names)


def test_specifications_survive_json() -> None:
    for case in [*CASES.values(), *QUICK_CASES.values(), *GPU_CASES.values()]:
        assert case.net in NETS
        assert case.checks.keys() >= case.steps.keys() - {"plain"}
        for variant in default_variants():
            if variant.method in case.steps:
                spec = case.spec("step", variant, "cpu", 2, None)
                assert Spec.from_json(spec.to_json()) == spec


def test_small_images_get_a_warmup() -> None:
    plain = parse_variant("plain")
    assert CASES["unet-1024"].spec("step", plain, "cpu", None, None).num_warmups == 1
    assert CASES["unet-1536"].spec("step", plain, "cpu", None, None).num_warmups == 0
    assert CASES["unet-1536"].spec("step", plain, "cuda", None, None).num_warmups == 1
    assert CASES["unet-1536"].spec("step", plain, "cpu", None, 2).num_warmups == 2


def _settings(text: str) -> Settings:
    return parse_arguments(text.split())


def test_variants_are_interleaved() -> None:
    settings = _settings("--quick --variants plain reuse --repeats 3")
    order = [(kind, repeat, variant.name) for kind, repeat, variant in schedule(settings.variants, settings)]
    assert order == [
        ("check", 0, "reuse"),
        ("step", 0, "plain"),
        ("step", 0, "reuse"),
        ("step", 1, "reuse"),
        ("step", 1, "plain"),
        ("step", 2, "plain"),
        ("step", 2, "reuse"),
        ("memory", 0, "plain"),
        ("memory", 0, "reuse"),
    ]


@pytest.mark.parametrize("text", ["--cases nothing", "--variants nothing", "--quick --cases unet-1024"])
def test_unknown_names_end_the_run(text: str) -> None:
    with pytest.raises(SystemExit):
        _settings(text)


def test_a_gpu_has_cases_of_its_own() -> None:
    known, default = cases_for("cuda", quick=False)
    assert default is GPU_CASES
    assert known.keys() == CASES.keys() | GPU_CASES.keys()
    assert cases_for("cpu", quick=False) == (CASES, CASES)
    assert cases_for("cuda", quick=True) == (QUICK_CASES, QUICK_CASES)
    sizes = {case.image_size[0]: case for case in GPU_CASES.values()}
    assert sorted(sizes) == [4096, 16384, 32768]
    assert {"plain", "checkpoint", "reuse"} == sizes[4096].steps.keys() <= set(GPU_VARIANTS)
    for extent in (16384, 32768):
        assert sizes[extent].has_host_bytes
        assert sizes[extent].steps.keys() == {"reuse"}


def test_results_are_named_by_the_device() -> None:
    assert slug("NVIDIA H100 80GB HBM3") == "nvidia-h100-80gb-hbm3"
    assert device_slug("cpu") == "cpu"
    assert parse_arguments([]).out.name == "cpu.json"
    assert parse_arguments(["--quick"]).out.name == "quick-cpu.json"
