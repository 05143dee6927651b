"""Several maps in, small tensors in, several maps out."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from tests.rules.spellings import Net
from tests.runtime.comparison import assert_streams_like_plain

IMAGE = (2, 3, 21, 17)


def draw(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), dtype=torch.float64)


def net(function: Any, **members: Any) -> nn.Module:
    torch.manual_seed(0)
    return Net(function, **members).double().eval()


def conv(channels_in: int = 3, channels: int = 4, **options: Any) -> nn.Module:
    return nn.Conv2d(channels_in, channels, 3, padding=1, **options)


def test_two_images_of_one_size() -> None:
    model = net(lambda n, x, y: torch.tanh(n.a(x) * n.b(y)), a=conv(), b=conv())
    assert assert_streams_like_plain(model, [draw(*IMAGE), draw(*IMAGE)], 8).plan.num_tiles > 4


def test_two_images_of_different_sizes() -> None:
    def forward(n: Any, x: Tensor, y: Tensor) -> Tensor:
        small = F.avg_pool2d(n.a(x), 2)
        return torch.cat([small, n.b(y)], 1)

    model = net(forward, a=conv(), b=conv())
    streamed = assert_streams_like_plain(model, [draw(*IMAGE), draw(2, 3, 10, 8)], 9)
    assert streamed._plan.num_tiles > 4
    assert [image.shape for image in streamed._plan.inputs] == [IMAGE, (2, 3, 10, 8)]


def test_a_small_image_is_enlarged() -> None:
    def forward(n: Any, x: Tensor, y: Tensor) -> Tensor:
        up = F.interpolate(n.b(y), size=x.shape[2:], mode="bilinear")
        return n.a(x) + up

    model = net(forward, a=conv(), b=conv())
    assert assert_streams_like_plain(model, [draw(*IMAGE), draw(2, 3, 5, 6)], 7).plan.num_tiles > 4


def test_an_image_used_twice_and_one_read_by_the_head_only() -> None:
    def forward(n: Any, x: Tensor, y: Tensor) -> Tensor:
        return n.a(x).add(n.b(x)).mean((2, 3)) + y.mean((2, 3))[:, :1]

    model = net(forward, a=conv(), b=conv())
    assert assert_streams_like_plain(model, [draw(*IMAGE), draw(2, 3, 4, 4)], 8).plan.num_tiles > 4


def test_a_vector_per_image_is_a_small_tensor() -> None:
    def forward(n: Any, x: Tensor, v: Tensor) -> Tensor:
        return torch.relu(n.a(x) * n.scale(v)[:, :, None, None] + v[:, :4, None, None])

    model = net(forward, a=conv(), scale=nn.Linear(5, 4))
    streamed = assert_streams_like_plain(model, [draw(*IMAGE), draw(2, 5)], 8)
    assert streamed._plan.num_tiles > 4
    assert "prologue" in streamed.source


def test_outputs_of_different_strides() -> None:
    def forward(n: Any, x: Tensor) -> dict[str, Any]:
        fine = n.a(x)
        middle = F.max_pool2d(torch.relu(fine), 2, ceil_mode=True)
        coarse = n.b(middle)
        return {"fine": fine, "rest": (middle, [coarse]), "again": coarse}

    model = net(forward, a=conv(), b=conv(4, 2, stride=3))
    streamed = assert_streams_like_plain(model, [draw(*IMAGE)], 15)
    assert streamed._plan.num_tiles > 1
    result = streamed(draw(*IMAGE))
    assert list(result) == ["fine", "rest", "again"]
    assert isinstance(result["rest"], tuple)
    assert isinstance(result["rest"][1], list)


def test_only_one_of_several_outputs_is_used() -> None:
    model = net(lambda n, x: (n.a(x), F.avg_pool2d(n.b(x), 3)), a=conv(), b=conv())
    streamed = assert_streams_like_plain(model, [draw(*IMAGE)], 9)
    for net_ in (streamed, model):
        model.zero_grad()
        net_(draw(*IMAGE))[1].square().sum().backward()
        assert model.a.weight.grad is None
        assert model.b.weight.grad is not None


def test_a_mask_leaves_the_streamed_part() -> None:
    model = net(lambda n, x: (n.a(x) > 0.1, n.a(x)), a=conv())
    streamed = assert_streams_like_plain(model, [draw(*IMAGE)], 8)
    mask, _ = streamed(draw(*IMAGE))
    assert mask.dtype is torch.bool


def test_weight_standardisation_gets_its_gradient() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        weight = n.w - n.w.mean((1, 2, 3), keepdim=True)
        weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, weight, n.bias, padding=1)

    model = net(forward, w=nn.Parameter(torch.randn(4, 3, 3, 3)), bias=nn.Parameter(torch.randn(4)))
    assert assert_streams_like_plain(model, [draw(*IMAGE)], 8).plan.num_tiles > 4


def test_weight_norm_gets_its_gradient() -> None:
    model = net(lambda n, x: n.b(torch.relu(n.a(x))), a=parametrizations.weight_norm(conv()), b=conv(4))
    assert_streams_like_plain(model, [draw(*IMAGE)], 9)
    assert "a.parametrizations.weight.original0" in dict(model.named_parameters())


def test_shared_weights_before_and_behind_the_cut() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        x = n.a(torch.relu(n.a(x)))
        return n.a(x - x.mean((2, 3), keepdim=True))

    assert assert_streams_like_plain(net(forward, a=conv(3, 3)), [draw(*IMAGE)], 9).plan.num_tiles > 1


def test_a_frozen_parameter_gets_no_gradient() -> None:
    model = net(lambda n, x: n.b(torch.relu(n.a(x))), a=conv(), b=conv(4))
    model.a.weight.requires_grad_(False)
    assert_streams_like_plain(model, [draw(*IMAGE)], 9)


def test_windows_in_padding_beside_windows_elsewhere() -> None:
    # Near the start, one pad reads nothing at all of a region that lies away from the border.
    def forward(n: Any, x: Tensor) -> Tensor:
        y = torch.relu(x[..., 9:-9])
        return F.pad(y, (4, -4)) + F.pad(y, (-4, 4)) + n.wide(x)

    model = net(forward, wide=nn.Conv1d(3, 3, 19))
    assert assert_streams_like_plain(model, [draw(2, 3, 42)], 20, halo="recompute").plan.num_tiles > 8
    assert assert_streams_like_plain(model, [draw(2, 3, 42)], 5).plan.num_tiles > 8


def test_a_dilated_transposed_convolution_with_gaps_beside_a_skip() -> None:
    def forward(n: Any, x: Tensor) -> Tensor:
        return n.up(x)[..., : 2 * x.shape[-1]] + F.interpolate(n.down(x), scale_factor=2)

    up = nn.ConvTranspose1d(3, 4, 2, stride=4, dilation=3, output_padding=1)
    model = net(forward, up=up, down=nn.Conv1d(3, 4, 3, padding=1))
    assert assert_streams_like_plain(model, [draw(2, 3, 23)], 14).plan.num_tiles > 1


def test_a_transposed_convolution_whose_input_is_read_twice() -> None:
    # At the ends of the map its pull reaches beyond the input, where there is nothing to pad.
    def forward(n: Any, x: Tensor) -> tuple[Tensor, Tensor]:
        y = torch.tanh(x)
        return n.up(y), F.avg_pool1d(y, 2)

    model = net(forward, up=nn.ConvTranspose1d(3, 4, 5, stride=2, padding=1))
    assert assert_streams_like_plain(model, [draw(2, 3, 22)], 8).plan.num_tiles > 1
