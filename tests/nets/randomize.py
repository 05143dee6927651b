"""Random but well-conditioned weights for any net, so that float64 comparisons of deep gradients mean something.

Freshly built nets are poor test material: their BatchNorms are identities in eval mode, and as nothing was fitted to
the statistics, activations of a deep residual net grow by a constant factor per block (2^50 in ResNet-152).
`randomize_` draws weights, affine parameters and running statistics, then keeps the scale in one of two ways:

- without a sample: variance-preserving weights (He et al. 2015), residual branches damped at their last norm;
- with a sample: one forward pass in which each convolution and linear layer is divided by the root mean square of its
  output (after Mishkin and Matas 2016, "All you need is a good init"). Channels that a ReLU would almost
  always kill are negated. This also works for nets of unknown structure.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
_TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
_WEIGHTED = (*_CONVS, *_TRANSPOSED, nn.Linear)
_BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)

_BRANCH_GAIN = 0.3
"""Scale of the last norm of a residual branch: 50 blocks then grow the variance by 1.09^50, about 75."""

_SMALLEST_RMS = 1e-6
"""Outputs below this are left alone: dividing by them would only amplify rounding errors."""

_ALIVE_FRACTION = 0.25
"""Channels with a smaller share of positive outputs are negated."""


def randomize_(model: nn.Module, seed: int, sample: Tensor | None = None) -> nn.Module:
    """Draws all weights and running statistics of `model` in place; the same seed gives the same weights.

    Args:
        model: Any net. Its dtype and train/eval state are kept.
        seed: Seed of a private generator; the global one is not touched.
        sample: An input of the net, in its dtype. If given, each layer's scale is fitted to it.

    Returns:
        `model`.
    """
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, _WEIGHTED):
                _draw_weights(module, generator)
            elif isinstance(module, _BATCH_NORMS):
                _draw_norm(module, generator)
            elif isinstance(module, nn.PReLU):
                _uniform_(module.weight, 0.1, 0.4, generator)
        for module in model.modules():
            _damp_branch(module)
        if sample is not None:
            _fit_scales(model, sample)
    return model


def _normal_(tensor: Tensor, std: float, generator: torch.Generator) -> None:
    # Drawn in float64, so that a float32 and a float64 copy of a net get the same weights.
    tensor.copy_(torch.randn(tensor.shape, generator=generator, dtype=torch.float64) * std)


def _uniform_(tensor: Tensor, low: float, high: float, generator: torch.Generator) -> None:
    tensor.copy_(torch.rand(tensor.shape, generator=generator, dtype=torch.float64) * (high - low) + low)


def _draw_weights(module: nn.Module, generator: torch.Generator) -> None:
    weight: Any = module.weight
    fan_in = weight[0].numel()  # (out, in / groups, *kernel)
    if isinstance(module, _TRANSPOSED):  # (in, out / groups, *kernel); each output sample sees kernel / stride taps
        fan_in = weight.shape[0] // module.groups * weight[0, 0].numel() / math.prod(module.stride)
    # 2 makes up for the half of the variance that a ReLU takes; classifiers have none.
    gain = 1.0 if isinstance(module, nn.Linear) else 2.0
    _normal_(weight, math.sqrt(gain / max(fan_in, 1)), generator)
    bias: Any = module.bias
    if bias is not None:
        _normal_(bias, 0.1, generator)


def _draw_norm(module: Any, generator: torch.Generator) -> None:
    if module.running_mean is not None:
        _normal_(module.running_mean, 0.1, generator)
        _uniform_(module.running_var, 0.5, 1.5, generator)
    if module.weight is not None:
        _uniform_(module.weight, 0.7, 1.3, generator)
        _normal_(module.bias, 0.1, generator)


def _damp_branch(module: nn.Module) -> None:
    """Damps the last norm of a residual branch; blocks are known by torchvision's attribute names."""
    shortcut = getattr(module, "downsample", None)
    is_residual = hasattr(module, "downsample") or getattr(module, "use_res_connect", False)
    if not is_residual:
        return
    of_shortcut = set(shortcut.modules()) if isinstance(shortcut, nn.Module) else set()
    norms = [m for m in module.modules() if isinstance(m, _BATCH_NORMS) and m not in of_shortcut]
    if norms and norms[-1].weight is not None:
        norms[-1].weight.mul_(_BRANCH_GAIN)


def _fit_scales(model: nn.Module, sample: Tensor) -> None:
    was_training = {module: module.training for module in model.modules()}
    handles = [m.register_forward_hook(_fit_scale) for m in model.modules() if isinstance(m, _WEIGHTED)]
    try:
        model.eval()(sample)
    finally:
        for handle in handles:
            handle.remove()
        for module, training in was_training.items():
            module.training = training


def _fit_scale(module: Any, _inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
    rms = output.square().mean().sqrt()
    if not rms > _SMALLEST_RMS:
        return None
    if isinstance(module, _TRANSPOSED):
        module.weight.div_(rms)
        if module.bias is not None:
            module.bias.div_(rms)
        return output / rms
    channel_dim = -1 if isinstance(module, nn.Linear) else 1
    positive = (output > 0).to(output.dtype).transpose(0, channel_dim).flatten(1).mean(1)
    factor = torch.where(positive < _ALIVE_FRACTION, -1 / rms, 1 / rms)
    module.weight.mul_(factor.reshape(-1, *[1] * (module.weight.ndim - 1)))
    if module.bias is not None:
        module.bias.mul_(factor)
    shape = [1] * output.ndim
    shape[channel_dim] = -1
    return output * factor.reshape(shape)
