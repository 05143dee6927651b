"""Dropout, Dropout2d and DropPath in training mode: one draw per forward pass, shared by tiles and recomputation."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st
from monai.networks.layers.drop_path import DropPath
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

import streamplan
from streamplan.errors import CutError, NothingRecordedError, NothingToStreamError
from tests.draws import num_examples
from tests.module.compare import assert_same_results, run_step
from tests.runtime.comparison import assert_same_results as assert_near
from tests.runtime.comparison import run
from tests.strategies import Recipe, nets

SIZE, TILE = (2, 3, 40, 33), (16, 12)


class StochasticDepth(nn.Module):
    """Drops a whole image's branch, with the mask made by `torch.empty`."""

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x
        noise = torch.empty((x.shape[0], 1, 1, 1), dtype=x.dtype, device=x.device).bernoulli_(0.6)
        return x * noise.div_(0.6)


class Block(nn.Module):
    """A residual block with every kind of dropout."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.middle = nn.Conv2d(channels, channels, 3, padding=1)
        self.last = nn.Conv2d(channels, channels, 5, padding=2)
        self.dropout = nn.Dropout(0.3, inplace=True)
        self.dropout2d = nn.Dropout2d(0.4)
        self.path = DropPath(0.5)
        self.depth = StochasticDepth()

    def forward(self, x: Tensor) -> Tensor:
        y = self.dropout(F.relu(self.first(x)))
        y = self.path(self.dropout2d(self.middle(y)))
        x = x + y
        return x + self.depth(F.dropout(self.last(x), 0.2, training=self.training))


def every_kind() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3, stride=2, padding=1),
        Block(4),
        nn.ConvTranspose2d(4, 4, 4, stride=2),
        Block(4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(4, 3),
    )


def only(dropout: nn.Module) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), dropout, nn.Conv2d(4, 4, 3, padding=1), nn.Tanh())


def draw_image(size: tuple[int, ...] = SIZE) -> Tensor:
    return torch.randn(size, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("keep_tiles", [0, 1, 3])
@pytest.mark.parametrize("halo", ["reuse", "recompute"])
@pytest.mark.parametrize("passes", ["all", ()])
def test_same_step_as_plain_with_the_recorded_masks(halo: str, passes: str, keep_tiles: int) -> None:
    model = every_kind().double().train()
    plain = copy.deepcopy(model)
    tile = TILE if halo == "reuse" else 32
    streamed = streamplan.compile(model, SIZE, tile, halo=halo, passes=passes, keep_tiles=keep_tiles)
    assert streamed.plan.num_tiles > 3
    found = run_step(streamed, (draw_image(),), {})
    reference = WithParameters(streamplan.testing.reference(streamed, plain), plain)
    assert_same_results(run_step(reference, (draw_image(),), {}), found, 1e-10, 1e-6)


class WithParameters(nn.Module):
    """A function with the parameters of a model."""

    def __init__(self, function: Callable[..., Tensor], model: nn.Module) -> None:
        super().__init__()
        self.__dict__["function"] = function
        self.__dict__["_parameters"], self.__dict__["_modules"] = model._parameters, model._modules

    def forward(self, *args: Tensor) -> Tensor:
        return self.function(*args)


@pytest.mark.parametrize("rank", [3, 5])
def test_other_numbers_of_axes(rank: int) -> None:
    axes = rank - 2
    conv, drop = getattr(nn, f"Conv{axes}d"), getattr(nn, f"Dropout{axes}d")
    model = nn.Sequential(conv(2, 3, 3, padding=1), nn.Dropout(), conv(3, 3, 3, stride=2), drop(0.3), conv(3, 2, 3))
    assert streamplan.verify(model.train(), (2, 2, *[19] * axes), 8).passed


@pytest.mark.parametrize("dropout", [nn.Dropout2d(0.5), DropPath(0.5), StochasticDepth()])
def test_masks_of_channels_and_images_are_those_of_the_plain_net(dropout: nn.Module) -> None:
    """No code of the reference has a part in this: with the same seed the plain net draws the same masks."""
    model = only(dropout).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    assert streamed.plan.cut == ("_3",), "the dropout is streamed"
    torch.manual_seed(3)
    expected = model(draw_image())
    torch.manual_seed(3)
    torch.testing.assert_close(streamed(draw_image()), expected, rtol=1e-12, atol=1e-12)
    assert not torch.allclose(expected, copy.deepcopy(model).eval()(draw_image()))


def test_elementwise_mask_against_a_net_with_that_mask() -> None:
    """The mask is seen by streaming a map of ones; then the plain net multiplies by it."""
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Dropout(0.3), nn.Conv2d(4, 2, 3, padding=1)).double()
    shows = copy.deepcopy(model)
    nn.init.zeros_(shows[0].weight)
    nn.init.ones_(shows[0].bias)
    shows[2] = nn.Conv2d(4, 4, 1, bias=False).double()
    shows[2].weight.data = torch.eye(4, dtype=torch.float64)[:, :, None, None]
    torch.manual_seed(7)
    with torch.no_grad():
        mask = streamplan.compile(shows.train(), SIZE, 20)(draw_image())
    values = mask.unique()
    torch.testing.assert_close(values, torch.tensor([0, 1 / 0.7], dtype=torch.float64))
    streamed = streamplan.compile(model.train(), SIZE, TILE)
    torch.manual_seed(7)
    found = streamed(draw_image())
    torch.testing.assert_close(found, model[2](model[0](draw_image()) * mask), rtol=1e-12, atol=1e-12)
    weight = draw_image(tuple(found.shape))
    (gradient,) = torch.autograd.grad((found * weight).sum(), model[0].weight)
    (expected,) = torch.autograd.grad((model[2](model[0](draw_image()) * mask) * weight).sum(), model[0].weight)
    torch.testing.assert_close(gradient, expected, rtol=1e-10, atol=1e-10)


def test_tiles_do_not_matter() -> None:
    model = every_kind().train()[:4]
    outputs = []
    for tile, halo in ((TILE, "reuse"), ((40, 33), "reuse"), ((7, 33), "reuse"), (36, "recompute")):
        streamed = streamplan.compile(model.double(), SIZE, tile, halo=halo)
        torch.manual_seed(0)
        outputs.append(streamed(draw_image()))
    for output in outputs[1:]:
        torch.testing.assert_close(output, outputs[0], rtol=1e-12, atol=1e-12)


def test_every_call_draws_anew_and_every_backward_sees_its_own_draw() -> None:
    model = only(nn.Dropout()).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    first, second = streamed(draw_image()), streamed(draw_image())
    assert not torch.equal(first, second)
    for output in (first, second):  # after both forward passes, and twice
        once = torch.autograd.grad(output.sum(), model[0].weight, retain_graph=True)[0]
        again = torch.autograd.grad(output.sum(), model[0].weight)[0]
        assert torch.equal(once, again)
    expected = streamplan.testing.reference(streamed)(draw_image())
    torch.testing.assert_close(second, expected, rtol=1e-12, atol=1e-12)


def test_two_dropouts_of_a_net_have_different_masks() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Dropout(0.5), nn.Dropout(0.5)).double().train()
    with torch.no_grad():
        found = streamplan.compile(model, (1, 3, 64, 64), 16)(torch.ones(1, 3, 64, 64, dtype=torch.float64))
    assert 0.22 < (found != 0).double().mean() < 0.28


def test_nothing_is_drawn_in_eval_mode() -> None:
    model = every_kind().double().eval()
    streamed = streamplan.compile(model, SIZE, TILE)
    state = torch.get_rng_state()
    torch.testing.assert_close(streamed(draw_image()), model(draw_image()), rtol=1e-12, atol=1e-12)
    assert torch.equal(torch.get_rng_state(), state)
    assert not streamed._reference().has_streamed_draws
    streamed.train()
    assert not torch.allclose(streamed.predict(draw_image()), copy.deepcopy(model).eval()(draw_image()))
    assert streamed._reference().has_streamed_draws


@pytest.mark.parametrize("dropout", [nn.Dropout(1.0), nn.Dropout2d(1.0), nn.Dropout(0.0), nn.Dropout2d(0.0)])
def test_extreme_probabilities(dropout: nn.Module) -> None:
    model = only(dropout).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    torch.testing.assert_close(streamed(draw_image()), model(draw_image()), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("dropout", "reason"),
    [(nn.AlphaDropout(0.5), "random mask"), (nn.FeatureAlphaDropout(0.5), "random mask")],
)
def test_what_has_no_rule_is_not_streamed(dropout: nn.Module, reason: str) -> None:
    model = only(dropout).double().train()
    with pytest.raises(CutError, match=reason):
        streamplan.compile(model, SIZE, TILE, cut="3")
    streamed = streamplan.compile(model, SIZE, TILE)
    torch.manual_seed(0)
    expected = model(draw_image())
    torch.manual_seed(0)
    torch.testing.assert_close(streamed(draw_image()), expected, rtol=1e-12, atol=1e-12)


def test_channels_that_lie_on_an_image_axis_are_not_dropped_tile_by_tile() -> None:
    class Permuted(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return F.dropout2d(x.permute(0, 2, 3, 1), 0.5, self.training)

    model = only(Permuted()).train()
    with pytest.raises(CutError, match="first two dimensions"):
        streamplan.compile(nn.Sequential(model[0], model[1]).train(), SIZE, TILE, cut="1")


def test_verify_compares_with_the_same_masks() -> None:
    report = streamplan.verify(every_kind().train(), SIZE, TILE)
    assert report.passed
    assert report.worst.error < 1e-11


def test_a_wrong_mask_fails_verification(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tiles that count their positions from their own corner, as a tile-wise dropout would."""
    from streamplan.runtime import tile

    right = tile.drop
    monkeypatch.setattr(tile, "drop", lambda x, seed, p, shape, starts: right(x, seed, p, shape, [0] * x.dim()))
    assert not streamplan.verify(only(nn.Dropout()).train(), SIZE, TILE, raise_exception=False).passed


def test_gradient_checkpointing_around_the_streamed_net() -> None:
    model = only(nn.Dropout()).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    torch.manual_seed(0)
    (expected,) = torch.autograd.grad(streamed(draw_image()).square().sum(), model[0].weight)
    torch.manual_seed(0)
    output = checkpoint(streamed, draw_image(), use_reentrant=False)
    (found,) = torch.autograd.grad(output.square().sum(), model[0].weight)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dropout", [nn.Dropout(), nn.Dropout2d()])
def test_autocast_keeps_its_dtype(dropout: nn.Module) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), dropout).train()
    streamed = streamplan.compile(model, SIZE, TILE)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, expected = streamed(draw_image().float()), model(draw_image().float())
    assert found.dtype == expected.dtype == torch.bfloat16


def test_copies_after_a_call() -> None:
    streamed = streamplan.compile(only(nn.Dropout()).double().train(), SIZE, TILE)
    streamed(draw_image())
    for twin in (copy.deepcopy(streamed), pickle.loads(pickle.dumps(streamed))):
        with pytest.raises(NothingRecordedError):
            streamplan.testing.reference(twin)
        twin(draw_image())
        streamplan.testing.reference(twin)(draw_image())


def test_reference_leaves_the_generator_alone() -> None:
    streamed = streamplan.compile(every_kind().double().train(), SIZE, TILE)
    streamed(draw_image())
    state = torch.get_rng_state()
    streamplan.testing.reference(streamed)(draw_image())
    assert torch.equal(torch.get_rng_state(), state)


def test_program_shows_what_is_drawn() -> None:
    streamed = streamplan.compile(every_kind().train(), SIZE, TILE)
    assert "t.dropout(" in streamed.source
    assert "t.scale(" in streamed.source
    assert "bernoulli_" in streamed.source.split("def tile")[0], "DropPath's mask is drawn before the tiles"


@settings(max_examples=num_examples(60), phases=(Phase.generate,), suppress_health_check=list(HealthCheck))
@given(nets(), st.data())
def test_random_nets(recipe: Recipe, data: st.DataObject) -> None:
    model = recipe.build()
    dropouts = [module for module in model.modules() if isinstance(module, nn.Dropout)]
    assume(dropouts)
    for dropout in dropouts:
        dropout.train()
    size = tuple(-(-extent // data.draw(st.integers(1, 3))) for extent in recipe.extents)
    try:
        streamed = streamplan.compile(model, recipe.input_size, size, dtype=torch.float64)
    except NothingToStreamError:
        return
    inputs = [recipe.draw_input()]
    found = run(streamed, model, inputs)
    assert_near(found, run(streamplan.testing.reference(streamed), model, inputs), 1e-10, f"tile size {size}")


def test_a_map_written_to_an_array_is_what_the_reference_repeats() -> None:
    model = only(nn.Dropout(0.5)).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    image, out = draw_image(), np.zeros((*SIZE[:1], 4, *SIZE[2:]))
    streamed(image)
    streamed.predict(image, out=out)
    repeated = streamplan.testing.reference(streamed)(image)
    assert_near({"map": torch.from_numpy(out)}, {"map": repeated.detach()}, 1e-12)


def test_the_reference_runs_in_the_modes_of_the_call() -> None:
    model = every_kind().double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    found = streamed(draw_image()).detach()
    streamed.eval()
    repeated = streamplan.testing.reference(streamed)(draw_image()).detach()
    assert_near({"output": found}, {"output": repeated}, 1e-12)
    assert not any(module.training for module in model.modules())


def test_the_reference_takes_sources() -> None:
    model = only(nn.Dropout2d(0.5)).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    source = streamplan.Source(draw_image().numpy(), batch=True)
    found = streamed(source).detach()
    assert_near({"map": found}, {"map": streamplan.testing.reference(streamed)(source).detach()}, 1e-12)
