"""`init.lsuv_`: the weights that the published loop finds on the plain model with whole images, and what it refuses."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

import streamplan
from streamplan.errors import BatchesError, InitialisationError
from streamplan.options import HaloPolicy
from tests.features.plain_lsuv import layer_outputs, plain_lsuv_
from tests.golden import assert_matches_golden
from tests.module.small_nets import Classifier, Heads, Normed, TwoImages
from tests.nets.convnext import convnext_tiny
from tests.nets.randomize import randomize_
from tests.nets.resnet import resnet18
from tests.nets.tupac import tupac
from tests.nets.unet import unet, unet3d


class Grouped(nn.Module):
    """One axis; groups, also of a transposed convolution, and more than one linear layer behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv1d(2, 6, 5, stride=3)
        self.depthwise = nn.Conv1d(6, 12, 3, groups=6, bias=False)
        self.up = nn.ConvTranspose1d(12, 8, 4, stride=2, groups=4)
        self.fc = nn.Linear(8, 4)
        self.out = nn.Linear(4, 3, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(self.up(F.silu(self.depthwise(self.first(x)))))
        return self.out(torch.tanh(self.fc(x.mean(2))))


class CalledTwice(nn.Module):
    """The second call of the convolution reads what the first computed, so scaling its weights is not enough once."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.out = nn.Conv2d(3, 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(torch.relu(self.conv(torch.relu(self.conv(x)))))


class InBothParts(nn.Module):
    """One linear layer for every position of the map and again for its mean."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.mix = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.mix(self.conv(x).permute(0, 2, 3, 1))
        return self.mix(torch.relu(y).mean((1, 2)))


WEIGHTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d, nn.Linear)
Sizes = tuple[tuple[int, ...], ...]
NETS: dict[str, tuple[Callable[[], nn.Module], Sizes, Any]] = {
    "the paper's": (lambda: tupac(width=2), ((3, 3, 64, 96), (2, 3, 80, 65)), 48),
    "U-Net": (lambda: unet(width=2, depth=1), ((2, 3, 40, 36), (1, 3, 28, 52)), (20, 16)),
    "1-D, groups": (Grouped, ((6, 2, 101), (3, 2, 64)), 31),
    "3-D": (lambda: unet3d(width=2, depth=1), ((1, 1, 12, 10, 14),), (6, 8, 10)),
    "ConvNeXt": (lambda: convnext_tiny(width=4, depths=(1, 1), num_classes=2), ((4, 3, 64, 56),), 32),
    "two outputs": (Heads, ((5, 3, 21, 25), (4, 3, 30, 18)), 9),
    "called twice": (CalledTwice, ((2, 3, 20, 17),), 9),
    "in both parts": (InBothParts, ((5, 3, 20, 17), (6, 3, 15, 15)), 9),
}


@pytest.mark.parametrize(
    ("name", "orthogonal"), [*((name, True) for name in NETS), ("1-D, groups", False), ("two outputs", False)]
)
def test_weights_of_the_plain_loop(name: str, orthogonal: bool) -> None:
    make, sizes, tile_size = NETS[name]
    model = randomize_(make().double().eval(), 1)
    batches = [torch.randn(size, dtype=torch.float64) * 3 + 1 for size in sizes]
    plain = copy.deepcopy(model)
    streamed = streamplan.compile(model, sizes[0], tile_size)
    assert streamed._plan.num_tiles > 1
    torch.manual_seed(3)
    report = streamplan.init.lsuv_(streamed, batches, tol=1e-6, orthogonal=orthogonal)
    paths = [layer.name for layer in report.layers]
    assert sorted(paths) == sorted(path for path, module in plain.named_modules() if isinstance(module, WEIGHTED))
    torch.manual_seed(3)
    passes = plain_lsuv_(plain, paths, [(batch,) for batch in batches], 1e-6, orthogonal=orthogonal)
    assert passes == {layer.name: layer.num_passes for layer in report.layers}
    found, expected = model.state_dict(), plain.state_dict()
    for key, value in expected.items():
        torch.testing.assert_close(found[key], value, rtol=1e-10, atol=1e-10 * float(value.abs().max()), msg=key)
    for layer in report.layers:
        std = layer_outputs(plain, layer.name, [(batch,) for batch in batches]).std(1, correction=0)
        torch.testing.assert_close(layer.std, std, rtol=1e-10, atol=0)
        assert layer.is_converged == bool(((std**2 - 1).abs() <= 1e-6).all())
    if name == "called twice":
        assert report.layers[0].num_passes > 2
    elif name != "in both parts":
        assert {layer.num_passes for layer in report.layers} == {2}
        assert report.is_converged


@pytest.mark.parametrize("halo", ["reuse", "recompute"])
def test_both_halo_policies(halo: HaloPolicy) -> None:
    model = randomize_(Classifier().double().eval(), 1)
    plain, batches = copy.deepcopy(model), [torch.randn(3, 3, 29, 23).double(), torch.randn(4, 3, 37, 31).double()]
    streamed = streamplan.compile(model, batches[0].shape, (13, 11), halo=halo)
    report = streamplan.init.lsuv_(streamed, batches, orthogonal=False)
    assert [(layer.name, layer.kind, layer.is_streamed) for layer in report.layers] == [
        ("stem.0", "Conv2d", True),
        ("body.0", "Conv2d", True),
        ("fc", "Linear", False),
    ]
    plain_lsuv_(plain, ["stem.0", "body.0", "fc"], [(batch,) for batch in batches], 0.01, orthogonal=False)
    for (name, value), other in zip(model.state_dict().items(), plain.state_dict().values(), strict=True):
        torch.testing.assert_close(value, other, rtol=1e-10, atol=1e-12, msg=name)
    outputs = {path: layer_outputs(model, path, [(batch,) for batch in batches]) for path in ("stem.0", "body.0", "fc")}
    for path, output in outputs.items():
        assert float((output.var(1, correction=0) - 1).abs().max()) < 1e-10, path


@pytest.mark.slow
def test_a_residual_net_with_norms() -> None:
    """Layers whose norms are folded and whose ReLUs overwrite, in a net whose execution order is not that of paths."""
    model = resnet18(width=2, num_classes=3).eval()
    batches = [torch.randn(4, 3, 64, 64)] * 2
    streamed = streamplan.compile(model, (4, 3, 64, 64), 32)
    report = streamplan.init.lsuv_(streamed, batches)
    assert report.is_converged
    assert len(report.layers) == 1 + 16 + 3 + 1
    for layer in report.layers:  # float32, checked in float64 on the plain model
        exact = copy.deepcopy(model).double()
        std = layer_outputs(exact, layer.name, [(batch.double(),) for batch in batches]).std(1, correction=0)
        assert float((std - 1).abs().max()) < 1e-4, layer.name


def test_what_is_left_alone() -> None:
    """Biases, norms, frozen weights and directions; only the length of each channel's weights changes."""
    model = randomize_(Classifier().double().eval(), 1)
    model.body[0].weight.requires_grad_(False)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    streamed = streamplan.compile(model, (3, 3, 29, 23), 13)
    report = streamplan.init.lsuv_(streamed, [torch.randn(3, 3, 29, 23).double()], orthogonal=False)
    assert [layer.name for layer in report.layers] == ["stem.0", "fc"]
    for name, value in model.state_dict().items():
        if name in ("stem.0.weight", "fc.weight"):
            ratio = (value / before[name]).flatten(1)
            assert not torch.allclose(ratio[:, 0], torch.ones(()).double())
            torch.testing.assert_close(ratio, ratio[:, :1].expand_as(ratio), rtol=1e-12, atol=0)
        else:
            assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())


def test_orthonormal_weights() -> None:
    model = Heads().double()
    size = (6, 3, 21, 25)
    streamed, batches = streamplan.compile(model, size, 9), [torch.randn(size).double()]
    drawn = []
    for _ in range(2):
        streamplan.init.lsuv_(streamed, batches, generator=torch.Generator().manual_seed(5))
        drawn.append({name: value.clone() for name, value in model.state_dict().items()})
    for name, value in drawn[0].items():
        assert torch.equal(value, drawn[1][name]), name
    rows = F.normalize(drawn[0]["conv.weight"].flatten(1))
    torch.testing.assert_close(rows @ rows.T, torch.eye(4).double(), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_weights_are_drawn_in_float32(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3)).to(dtype)
    streamed = streamplan.compile(model, (1, 3, 24, 24), 12)
    report = streamplan.init.lsuv_(streamed, [torch.randn(1, 3, 24, 24, dtype=dtype)], tol=0.05)
    assert report.is_converged
    assert model[0].weight.dtype == dtype


def test_modules_that_share_a_weight_are_one_layer() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.ReLU(), nn.Conv2d(3, 3, 3), nn.Conv2d(3, 2, 1)).double()
    model[2].weight = model[0].weight
    batch = torch.randn(2, 3, 24, 20).double()
    streamed = streamplan.compile(model, batch.shape, 9)
    report = streamplan.init.lsuv_(streamed, [batch], tol=1e-8, max_iter=60)
    assert [layer.name for layer in report.layers] == ["0, 2", "3"]
    both = torch.cat([layer_outputs(model, path, [(batch,)]) for path in ("0", "2")], 1)
    torch.testing.assert_close(both.std(1, correction=0), torch.ones(3).double(), rtol=1e-7, atol=0)


def test_streamed_layers_do_not_run_the_head() -> None:
    model = randomize_(Classifier().eval(), 1)
    num_calls = []
    model.pool.register_forward_hook(lambda *_: num_calls.append(1))
    streamed = streamplan.compile(model, (3, 3, 29, 23), 13)
    report = streamplan.init.lsuv_(streamed, [torch.randn(3, 3, 29, 23)] * 3)
    assert report.num_passes == 6
    assert len(num_calls) == 2 * 3  # two passes of three images, for the one resident layer
    assert len(model.pool._forward_hooks) == 1
    assert not model.fc._forward_hooks


def test_several_inputs_and_sources() -> None:
    model = randomize_(TwoImages().double(), 1)
    plain = copy.deepcopy(model)
    arrays = [np.random.default_rng(0).standard_normal((channels, 40, 30)) for channels in (3, 1)]
    streamed = streamplan.compile(model, [(1, 3, 40, 30), (1, 1, 40, 30)], 12)
    report = streamplan.init.lsuv_(streamed, [tuple(map(streamplan.Source, arrays))], orthogonal=False)
    paths = [layer.name for layer in report.layers]
    assert paths == ["left", "right", "out"]
    batch = tuple(torch.from_numpy(array)[None] for array in arrays)
    plain_lsuv_(plain, paths, [batch], 0.01, orthogonal=False)
    for name, value in plain.state_dict().items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-10, atol=0, msg=name)


def test_norms_in_training_mode_keep_their_statistics() -> None:
    model = Normed().double().train()
    before = {name: value.clone() for name, value in model.named_buffers()}
    streamed = streamplan.compile(model, (6, 3, 29, 23), 13, batch_norm="resident")
    report = streamplan.init.lsuv_(streamed, [torch.randn(6, 3, 29, 23).double()] * 2)
    assert report.is_converged
    assert [layer.is_streamed for layer in report.layers] == [True, False, False]
    for name, value in model.named_buffers():
        assert torch.equal(value, before[name]), name


def test_a_net_that_does_not_converge_says_so() -> None:
    model = randomize_(CalledTwice().double(), 1)
    streamed = streamplan.compile(model, (1, 3, 20, 20), 9)
    report = streamplan.init.lsuv_(streamed, [torch.randn(1, 3, 20, 20).double()], tol=1e-9, max_iter=1)
    assert not report.is_converged
    assert [layer.is_converged for layer in report.layers] == [False, True]
    assert "NOT CONVERGED" in str(report)


def test_table() -> None:
    model = nn.Sequential(nn.Conv2d(1, 2, 1), nn.ReLU(), nn.Conv2d(2, 1, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(0.5)
    streamed = streamplan.compile(model, (1, 1, 4, 3), 2)
    report = streamplan.init.lsuv_(streamed, [torch.arange(12.0).view(1, 1, 4, 3)], orthogonal=False)
    assert_matches_golden(str(report), "lsuv_table")


# ------------------------------------------------------------------------------------------------------------ failures


def state(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def assert_unchanged(model: nn.Module, before: dict[str, Tensor]) -> None:
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name


def refused(model: nn.Module, batches: Any, size: tuple[int, ...] = (2, 3, 29, 23), **options: Any) -> Exception:
    """What is raised; the model must be as it was."""
    streamed = streamplan.compile(model, size, 13)
    before = state(model)
    with pytest.raises((BatchesError, InitialisationError)) as caught:
        streamplan.init.lsuv_(streamed, batches, **options)
    assert_unchanged(model, before)
    error = caught.value
    assert isinstance(error, ValueError)
    assert str(pickle.loads(pickle.dumps(error))) == str(error)
    return error


IMAGE = torch.linspace(-1, 1, 2 * 3 * 29 * 23).view(2, 3, 29, 23)


def test_constant_channels_are_named() -> None:
    model = randomize_(Classifier().eval(), 1)
    with torch.no_grad():
        model.body[0].weight[[1, 3]] = 0.0
    error = refused(model, [IMAGE], orthogonal=False)
    assert error.channels == (1, 3)
    assert_matches_golden(str(error), "error_lsuv_constant")


def test_one_image_is_constant_for_a_layer_behind_the_pool() -> None:
    error = refused(Classifier().eval(), [IMAGE[:1]])
    assert error.channels == (0, 1, 2, 3, 4)
    assert error.where == "fc (Linear)"


def test_many_constant_channels_are_counted() -> None:
    model = nn.Sequential(nn.Conv2d(3, 20, 3), nn.ReLU())
    error = refused(model, [torch.full((1, 3, 29, 23), 0.1)])
    assert len(error.channels) == 20
    assert "channels 0, 1, 2, 3, 4, 5, 6, 7 and 12 more of 20" in error.what


def test_infinities_are_refused() -> None:
    image = IMAGE.clone()
    image[0, 0, 3, 4] = float("inf")
    assert_matches_golden(str(refused(Classifier().eval(), [image])), "error_lsuv_not_finite")


def test_weights_that_are_computed_are_refused() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), weight_norm(nn.Conv2d(4, 4, 3)))
    assert_matches_golden(str(refused(model, [IMAGE])), "error_lsuv_parametrised")


class Exhausted:
    """Gives its image so many times, and then nothing."""

    def __init__(self, num_times: int) -> None:
        self.num_left = num_times

    def __iter__(self) -> Iterator[Tensor]:
        self.num_left -= 1
        yield from [IMAGE] if self.num_left >= 0 else []


def test_what_fails_in_the_middle_is_undone() -> None:
    batches = Exhausted(3)
    refused(randomize_(Classifier().eval(), 1), batches)
    assert batches.num_left == -1  # the first layer was scaled, and the second measured


def test_an_interrupt_is_undone() -> None:
    class Interrupted(Exhausted):
        def __iter__(self) -> Iterator[Tensor]:
            if self.num_left == 0:
                raise KeyboardInterrupt
            return super().__iter__()

    model = randomize_(Classifier().eval(), 1)
    streamed = streamplan.compile(model, IMAGE.shape, 13)
    before = state(model)
    with pytest.raises(KeyboardInterrupt):
        streamplan.init.lsuv_(streamed, Interrupted(5))
    assert_unchanged(model, before)
    assert not model.fc._forward_hooks
    out, plain = streamed(IMAGE), model(IMAGE)
    torch.testing.assert_close(out, plain)


class OnlyLargeImages(nn.Module):
    """A layer that small images do not meet."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3, padding=1)
        self.more = nn.Conv2d(3, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.more(y) if x.shape[-1] > 20 else y


def test_a_layer_that_no_image_reaches_is_refused() -> None:
    error = refused(OnlyLargeImages(), [IMAGE[..., :19]])
    assert_matches_golden(str(error), "error_lsuv_not_reached")
    streamed = streamplan.compile(OnlyLargeImages(), IMAGE.shape, 13)
    report = streamplan.init.lsuv_(streamed, [torch.randn(1, 3, 29, 19), torch.randn(1, 3, 29, 23)])
    assert [layer.name for layer in report.layers] == ["conv", "more"]
