"""State that would make a streamed net differ from the plain net: first the wrong number, then the error.

Each test shows that the danger is real, by computing what the emitted program, or a naive tiling of the plain net,
gives when nothing checks it; then that streamplan refuses, or gives the plain net's number.
"""

from __future__ import annotations

import contextlib

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import streamplan
from streamplan.errors import (
    CutError,
    DoubleBackwardError,
    HookError,
    StaleStateError,
    TracingError,
    TrainingBatchNormError,
)

SIZE = (1, 2, 24, 24)
TILE = 14


class Local(nn.Module):
    """Two convolutions around whatever is asked for."""

    def __init__(self, middle: nn.Module | None = None) -> None:
        super().__init__()
        self.first = nn.Conv2d(2, 4, 3, padding=1)
        self.middle = middle or nn.Identity()
        self.last = nn.Conv2d(4, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.middle(self.first(x)))


@pytest.fixture
def image() -> Tensor:
    return torch.randn(SIZE, dtype=torch.float64)


def naive_tiles(model: nn.Module, image: Tensor) -> Tensor:
    """The plain net on the two halves of the image, side by side: tiling without regions or locality."""
    half = image.shape[-1] // 2
    return torch.cat([model(image[..., :half]), model(image[..., half:])], -1)


def run_unchecked(streamed: streamplan.StreamedModule, image: Tensor) -> Tensor:
    """The emitted program as it was compiled, without the checks of a call."""
    return streamed._planned_executable().run(streamed._model, [image], image.device)


def differs(a: Tensor, b: Tensor) -> bool:
    return not torch.allclose(a, b, rtol=1e-6, atol=1e-9)


def test_hook_added_later(image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    model.first.register_forward_hook(lambda module, args, output: output * 2)
    assert differs(run_unchecked(streamed, image), model(image))
    with pytest.raises(HookError, match="first"):
        streamed(image)


def test_hook_present_at_compile() -> None:
    model = Local().double()
    model.first.register_forward_pre_hook(lambda module, args: (args[0] + 1,))
    with pytest.raises(HookError, match="first"):
        streamplan.compile(model, SIZE, TILE)


def test_backward_hook(image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    model.first.register_full_backward_hook(lambda module, grad_input, grad_output: tuple(g * 2 for g in grad_input))
    with pytest.raises(HookError, match="backward hook"):
        streamed(image)


def test_old_style_weight_norm_is_a_hook(image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    with pytest.warns(FutureWarning, match="weight_norm"):
        torch.nn.utils.weight_norm(model.first)
    with torch.no_grad():
        model.first.weight_g.mul_(3.0)
    assert differs(run_unchecked(streamed, image), model(image))
    with pytest.raises(HookError, match="parametrizations"):
        streamed(image)


def test_parametrized_weight_norm_is_exact(image: Tensor) -> None:
    model = Local()
    torch.nn.utils.parametrizations.weight_norm(model.first)
    assert streamplan.verify(model, SIZE, TILE).passed


@pytest.mark.parametrize("dropout", [nn.Dropout(0.5), nn.Dropout2d(0.5)])
def test_dropout_in_training_mode(dropout: nn.Module, image: Tensor) -> None:
    model = Local(dropout).double().train()
    streamed = streamplan.compile(model, SIZE, TILE)
    found = streamed(image)
    expected = streamplan.testing.reference(streamed)(image)
    assert differs(naive_tiles(model, image), expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_alpha_dropout_in_training_mode(image: Tensor) -> None:
    model = Local(nn.AlphaDropout(0.5)).double().train()
    torch.manual_seed(0)
    expected = model(image)
    torch.manual_seed(0)
    assert differs(naive_tiles(model, image), expected)
    with pytest.raises(CutError, match="random mask"):
        streamplan.compile(model, SIZE, TILE, cut="last")
    streamed = streamplan.compile(model, SIZE, TILE)
    torch.manual_seed(0)
    torch.testing.assert_close(streamed(image), expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("what", ["parameter", "buffer", "image"])
def test_change_between_forward_and_backward(what: str, image: Tensor) -> None:
    model = Local(nn.BatchNorm2d(4)).double().eval()
    before = model.last(model.middle(model.first(image))).sum()
    streamed = streamplan.compile(model, SIZE, TILE)
    image.requires_grad_()
    loss = streamed(image).square().sum()
    target = {"parameter": model.first.weight, "buffer": model.middle.running_mean, "image": image}[what]
    with torch.no_grad():
        target.add_(1.0)
    assert differs(model(image).sum(), before), "the backward pass would recompute with other values"
    with pytest.raises(StaleStateError) as caught:
        loss.backward()
    assert isinstance(caught.value, RuntimeError)
    assert model.first.weight.grad is None


def test_gradient_penalty(image: Tensor) -> None:
    """Without the check the penalty's gradient would be missing from the parameters' gradients."""
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.Tanh(), nn.Conv2d(4, 1, 3, padding=1)).double()
    image.requires_grad_()
    out = model(image).sum()
    (gradient,) = torch.autograd.grad(out, image, create_graph=True)
    (plain,) = torch.autograd.grad(gradient.square().sum(), model[0].weight)
    assert plain.abs().max() > 1e-3, "the second derivative is there, so leaving it out would be wrong"
    streamed = streamplan.compile(model, SIZE, TILE)
    (gradient,) = torch.autograd.grad(streamed(image).sum(), image, create_graph=True)
    with pytest.raises(DoubleBackwardError):
        gradient.square().sum().backward()


def test_batch_norm_switched_to_training(image: Tensor) -> None:
    model = Local(nn.BatchNorm2d(4)).double().eval()
    streamed = streamplan.compile(model, SIZE, TILE)
    streamed.train()
    assert differs(run_unchecked(streamed, image), model(image))
    with pytest.raises(TrainingBatchNormError):
        streamed(image)


def test_dropout_switched_to_training_is_planned_anew(image: Tensor) -> None:
    model = Local(nn.Dropout(0.5)).double().eval()
    streamed = streamplan.compile(model, SIZE, TILE)
    model.train()  # behind the streamed module's back
    found = streamed(image)
    expected = streamplan.testing.reference(streamed)(image)
    assert differs(run_unchecked(streamed, image), expected)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def test_requires_grad_changed_after_planning(image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    model.first.requires_grad_(False)
    streamed(image).sum().backward()
    assert model.first.weight.grad is None
    assert model.last.weight.grad is not None
    model.first.requires_grad_(True)
    streamed(image).sum().backward()
    found = model.first.weight.grad.clone()
    model.zero_grad()
    model(image).sum().backward()
    torch.testing.assert_close(found, model.first.weight.grad, rtol=1e-12, atol=1e-12)


class SqueezeExcite(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.gate = nn.Conv2d(4, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gate(x.mean((2, 3), keepdim=True)).sigmoid()


class Attention(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        tokens = x.flatten(2).transpose(1, 2)
        mixed = nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return mixed.transpose(1, 2).reshape(x.shape)


class FlattenMix(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.flatten(2).cumsum(-1).reshape(x.shape)


@pytest.mark.parametrize(
    "middle",
    [nn.GroupNorm(2, 4), nn.InstanceNorm2d(4), nn.BatchNorm2d(4), SqueezeExcite(), Attention(), FlattenMix()],
    ids=lambda module: type(module).__name__,
)
def test_global_operation_before_a_requested_cut(middle: nn.Module, image: Tensor) -> None:
    model = Local(middle).double().train()
    assert differs(naive_tiles(model, image), model(image))
    with pytest.raises((CutError, TrainingBatchNormError)) as caught:
        streamplan.compile(model, SIZE, TILE, cut="last")
    assert "middle" in caught.value.where
    expected = model(image)
    streamed = streamplan.compile(model, SIZE, TILE, batch_norm="resident")
    assert streamed.plan.cut == ("first",)
    torch.testing.assert_close(streamed(image), expected, rtol=1e-12, atol=1e-12)


def test_pooling_that_is_global_at_one_size_and_local_at_another() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3, padding=1), nn.AvgPool2d(12)).double()
    small, large = (torch.randn(1, 2, extent, extent, dtype=torch.float64) for extent in (12, 36))
    streamed = streamplan.compile(model, tuple(small.shape), 8)
    assert streamed.plan.chosen.module_path == "0"
    assert [barrier.locality for barrier in streamed.plan.barriers] == ["global"]
    torch.testing.assert_close(streamed(small), model(small), rtol=1e-12, atol=1e-12)
    assert not streamplan.plan(model, tuple(large.shape), 14).barriers
    wide = streamplan.compile(model, tuple(large.shape), 14)
    torch.testing.assert_close(wide(large), model(large), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(wide(small), model(small), rtol=1e-12, atol=1e-12)


class CountsCalls(nn.Module):
    """Keeps a buffer up to date in forward: a running mean of what it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.seen.add_(1.0)
        return x * 2


def test_state_kept_in_a_buffer(image: Tensor) -> None:
    plain, model = Local(CountsCalls()).double(), Local(CountsCalls()).double()
    model.load_state_dict(plain.state_dict())
    streamed = streamplan.compile(model, SIZE, TILE)
    assert streamed.plan.num_tiles > 1, "a count per tile would be wrong"
    for _ in range(3):
        torch.testing.assert_close(streamed(image), plain(image), rtol=1e-12, atol=1e-12)
    assert model.middle.seen == plain.middle.seen == 3


class RemembersBuffer(CountsCalls):
    def forward(self, x: Tensor) -> Tensor:
        self.seen = self.seen + 1.0
        return x * 2


def test_buffer_assigned_in_forward_is_refused() -> None:
    with pytest.raises(TracingError, match="seen"):
        streamplan.compile(Local(RemembersBuffer()), SIZE, TILE)


class SetsAttribute(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def forward(self, x: Tensor) -> Tensor:
        self.count += 1
        return x


def test_plain_attribute_set_in_forward_is_set_once_per_call(image: Tensor) -> None:
    model = Local(SetsAttribute()).double()
    streamed = streamplan.compile(model, SIZE, TILE)
    assert model.middle.count == 0, "compiling calls a copy"
    for calls in (1, 2, 3):
        streamed(image)
        assert model.middle.count == calls


def test_dtype_moved_after_compile(image: Tensor) -> None:
    model = Local()
    streamed = streamplan.compile(model, SIZE, TILE)
    model.double()
    torch.testing.assert_close(streamed(image), model(image), rtol=1e-12, atol=1e-12)


@pytest.mark.gpu
def test_device_moved_after_compile(image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    expected = model(image)
    streamed.cuda()
    torch.testing.assert_close(streamed(image.cuda()).cpu(), expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("kind", ["forward_hook", "forward_pre_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hook_on_all_modules(kind: str, image: Tensor) -> None:
    model = Local().double()
    streamed = streamplan.compile(model, SIZE, TILE)
    register = getattr(nn.modules.module, f"register_module_{kind}")
    handle = register(lambda *arguments: None)
    try:
        with pytest.raises(HookError, match="all modules"):
            streamed(image)
        with pytest.raises(HookError, match="all modules"):
            streamplan.compile(model, SIZE, TILE)
    finally:
        handle.remove()
    assert not differs(streamed(image), model(image))


def test_hooks_of_torchs_own_counters_may_run(image: Tensor) -> None:
    streamed = streamplan.compile(Local().double(), SIZE, TILE)
    with torch.utils.flop_counter.FlopCounterMode(display=False) as counter:
        streamed(image)
    assert counter.get_total_flops() > 0


@pytest.mark.parametrize("name", ["conv2d", "max_pool2d", "interpolate"])
def test_function_of_torch_exchanged(name: str, image: Tensor, monkeypatch: pytest.MonkeyPatch) -> None:
    class Net(Local):
        def forward(self, x: Tensor) -> Tensor:
            return F.interpolate(F.max_pool2d(super().forward(x), 2), scale_factor=2)

    model = Net().double()
    streamed, expected = streamplan.compile(model, SIZE, TILE), model(image)
    original = getattr(F, name)
    with monkeypatch.context() as patch:
        patch.setattr(F, name, lambda *args, **kwargs: original(*args, **kwargs) * 2)
        assert differs(model(image), expected)
        for call in (lambda: streamed, lambda: streamplan.compile(model, SIZE, TILE)):
            with contextlib.suppress(TracingError):
                assert not differs(call()(image), model(image))
    assert not differs(streamed(image), expected)
