"""`verify`: it passes exact nets, catches wrong ones, and reports what it compared."""

from __future__ import annotations

import math
import pickle
import random
import re
from typing import Any

import numpy
import pytest
import torch
from torch import Tensor, nn

import streamplan
from streamplan import errors
from streamplan.runtime import Segment, streaming
from streamplan.runtime.tile import Tile
from tests.golden import assert_matches_golden
from tests.module.compare import assert_same_results, run_step
from tests.module.refused_nets import Plain
from tests.module.small_nets import Classifier, Heads, Normed, TwoImages
from tests.nets.randomize import randomize_

SIZE = (2, 3, 29, 23)
TILE = (13, 11)


def make_classifier() -> nn.Module:
    return randomize_(Classifier().eval(), 1)


def test_report_of_an_exact_net() -> None:
    model = make_classifier()
    report = streamplan.verify(model, SIZE, TILE)
    assert report.passed
    assert report.worst.error <= 1e-10
    assert report.worst in report.errors
    assert report.plan.num_tiles > 4
    assert report.dtype == "float64"
    names = {(item.kind, item.name) for item in report.errors}
    expected = {("output", "output 0"), ("input gradient", "input 0")}
    expected |= {("gradient", name) for name, _ in model.named_parameters()}
    expected |= {("buffer", name) for name, _ in model.named_buffers()}
    assert names == expected
    rounded = re.sub(r"\d\.\de-1\d", "<error>", str(report))
    rounded = re.sub(r"(<error>|0\.0e\+00)  \S+( \d)?$", "<error>  <name>", rounded, flags=re.MULTILINE)
    assert_matches_golden(rounded, "verify_report")


def test_the_model_is_not_touched() -> None:
    model = make_classifier()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    streamplan.verify(model, SIZE, TILE)
    assert all(parameter.grad is None and parameter.dtype == torch.float32 for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_float32_within_its_own_tolerance() -> None:
    report = streamplan.verify(make_classifier(), SIZE, TILE, dtype=torch.float32, rtol=1e-4)
    assert report.passed
    assert report.dtype == "float32"
    assert report.worst.error > 1e-10  # rounding shows, so something was compared


def test_real_inputs() -> None:
    x = torch.rand(SIZE)
    assert streamplan.verify(make_classifier(), inputs=x, tile_size=TILE).plan.num_tiles > 4
    assert streamplan.verify(make_classifier(), inputs={"x": x}, tile_size=TILE).passed
    assert not x.requires_grad
    two = streamplan.verify(TwoImages(), inputs=(x, torch.rand(2, 1, 29, 23)), tile_size=TILE)
    assert {item.name for item in two.errors if item.kind == "input gradient"} == {"input 0", "input 1"}
    assert streamplan.verify(TwoImages(), (SIZE, (2, 1, 29, 23)), TILE).passed


def test_a_plan_is_verified_as_it_is() -> None:
    model = randomize_(Normed().double(), 1).train()
    plan = streamplan.plan(model, (6, 3, 29, 23), TILE, batch_norm="frozen", cut="features.3")
    report = streamplan.verify(model, plan=plan)
    assert (report.plan.cut, report.plan.batch_norm) == (plan.cut, "frozen")
    assert (report.plan.tile_size, report.plan.boundaries) == (plan.tile_size, plan.boundaries)
    other = streamplan.verify(model, (5, 3, 31, 37), plan=plan)
    assert (other.plan.input_size, other.plan.tile_size) == ((5, 3, 31, 37), TILE)


def test_a_bias_without_effect_is_not_mistaken_for_an_error() -> None:
    """A bias before BatchNorm in training mode has a true gradient of zero; both nets find rounding noise."""
    torch.manual_seed(3)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 3))
    plan = streamplan.plan(model.train(), (6, 3, 47, 45), 15, batch_norm="resident")
    assert plan.num_tiles > 4
    assert streamplan.verify(model, plan=plan).passed


def test_dict_outputs_are_compared_one_by_one() -> None:
    report = streamplan.verify(Heads(), SIZE, TILE)
    assert sum(item.kind == "output" for item in report.errors) == 3


def test_seeds_draw_other_images() -> None:
    first, again, other = (streamplan.verify(make_classifier(), SIZE, TILE, seed=seed) for seed in (1, 1, 2))
    assert first.errors == again.errors
    assert {item.scale for item in first.errors} != {item.scale for item in other.errors}


def test_random_layers_of_the_resident_part_draw_the_same_numbers() -> None:
    model = nn.Sequential(make_classifier(), nn.Dropout(0.5).train(), nn.Linear(5, 3))
    assert streamplan.verify(model, SIZE, TILE).passed


# ------------------------------------------------------------------------------------------------------- wrong results


def wrong_padding(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pad with ones where the map ends."""
    window = Tile.window

    def padded(self: Tile, x: Tensor, reader: str, *, fill: float = 0.0, **options: Any) -> Tensor:
        return window(self, x, reader, fill=fill or 1.0, **options)

    monkeypatch.setattr(Tile, "window", padded)


def one_tile_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last tile is computed in the forward pass alone."""
    indices = Segment.tile_indices
    monkeypatch.setattr(
        Segment,
        "tile_indices",
        lambda self: (index for index in indices(self) if not torch.is_inference_mode_enabled() and index != (0, 0)),
    )


def test_wrong_padding_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_padding(monkeypatch)
    model = make_classifier()
    report = streamplan.verify(model, SIZE, TILE, raise_exception=False)
    assert not report.passed
    assert report.worst.error > 1e-3
    assert "DIFFERENT" in str(report)
    assert f"FAILED {report.errors[0].kind} output 0" in str(report)
    with pytest.raises(errors.VerificationError) as caught:
        streamplan.verify(model, SIZE, TILE)
    error = caught.value
    assert isinstance(error, AssertionError)
    assert isinstance(error, errors.StreamPlanError)
    assert report.worst.name in error.what
    assert all((error.where, error.why, error.do))
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


def test_a_wrong_gradient_alone_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Outputs are right; only what arrives at one weight in the backward pass is scaled."""
    backward = streaming._StreamedSegment.backward

    def scaled(ctx: object, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
        found = list(backward(ctx, *gradients))
        index = next(i for i, g in enumerate(found) if g is not None and tuple(g.shape) == (4, 3, 3, 3))
        found[index] = found[index] * (1 + 1e-8)
        return tuple(found)

    monkeypatch.setattr(streaming._StreamedSegment, "backward", staticmethod(scaled))
    report = streamplan.verify(make_classifier(), SIZE, TILE, passes=(), raise_exception=False)
    assert [(item.kind, item.name) for item in report.errors if item.error > report.rtol] == [
        ("gradient", "stem.0.weight")
    ]
    assert report.worst.error == pytest.approx(1e-8, rel=1e-3)
    assert streamplan.verify(make_classifier(), SIZE, TILE, passes=(), rtol=1e-7).passed


def test_a_missing_tile_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    one_tile_left_out(monkeypatch)
    report = streamplan.verify(make_classifier(), SIZE, TILE, halo="recompute", raise_exception=False)
    assert not report.passed


def test_nan_and_infinity_are_not_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    block = Tile.block
    monkeypatch.setattr(Tile, "block", lambda self, x, name: block(self, x, name) * float("nan"))
    report = streamplan.verify(make_classifier(), SIZE, TILE, raise_exception=False)
    assert not report.passed
    assert math.isinf(report.worst.error)


def test_message_of_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong_padding(monkeypatch)
    with pytest.raises(errors.VerificationError) as caught:
        streamplan.verify(randomize_(Plain(), 1), (1, 3, 33, 29), 13)
    text = re.sub(r"\d\.\de[-+]\d\d", "<error>", str(caught.value))
    assert_matches_golden(text, "error_verification")


class OwnDtype(nn.Module):
    """Brings bytes to float32, whatever its weights are."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 2, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x.float() / 255)


def test_a_model_that_converts_to_a_fixed_dtype() -> None:
    image = torch.randint(0, 256, (1, 3, 24, 20), dtype=torch.uint8)
    with pytest.raises(errors.TracingError) as caught:
        streamplan.verify(OwnDtype(), inputs=image, tile_size=12)
    text = re.sub(r"\.py:\d+", ".py", str(caught.value))
    assert_matches_golden(text, "error_verify_fixed_dtype")
    assert streamplan.verify(OwnDtype(), inputs=image, tile_size=12, dtype=torch.float32, rtol=1e-4).passed


def test_a_model_that_fails_in_any_dtype() -> None:
    with pytest.raises(errors.TracingError) as caught:
        streamplan.verify(nn.Conv2d(4, 2, 3), (1, 3, 24, 20), tile_size=12)
    assert "runs in" not in caught.value.what


# ------------------------------------------------------------------------------------- the tests' own comparison bites


def perturbed(results: dict[str, Tensor | None], name: str, factor: float) -> dict[str, Tensor | None]:
    tensor = results[name]
    assert tensor is not None
    return {**results, name: tensor * (1 + factor)}


@pytest.mark.parametrize(
    "name", ["output", "gradient of stem.0.weight", "gradient of input.tuple[0].tuple[0]", "buffer scale"]
)
def test_own_comparison_sees_a_wrong_tensor(name: str) -> None:
    results = run_step(make_classifier().double(), (torch.ones(SIZE, dtype=torch.float64).requires_grad_(),), {})
    assert_same_results(results, perturbed(results, name, 1e-12))
    with pytest.raises(AssertionError, match=r"1 of .* tensors differ"):
        assert_same_results(results, perturbed(results, name, 1e-9))
    with pytest.raises(AssertionError, match="absent in the streamed"):
        assert_same_results(results, {**results, name: None})
    with pytest.raises(AssertionError, match="different names"):
        assert_same_results(results, {key: value for key, value in results.items() if key != name})


class Chance(nn.Module):
    """Takes one of two ways by chance, as stochastic depth in Python does."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x) * (2.0 if random.random() < 0.5 else 3.0) + numpy.random.rand()


def test_both_nets_draw_the_same_numbers_in_python() -> None:
    for seed in range(6):
        random.seed(seed)
        model = Chance()
        before = random.getstate(), torch.get_rng_state()
        assert streamplan.verify(model, (1, 2, 16, 16), 8).passed
        assert random.getstate() == before[0]
        assert torch.equal(torch.get_rng_state(), before[1])
