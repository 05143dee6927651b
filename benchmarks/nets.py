"""The nets of the benchmark, each as a local body and a head, with the blocks that checkpointing wraps.

The nets are those of the tests, structured as in torchvision. Their children are regrouped so that every method gets
the same module: `body` is local, which lightstream has to be told, `head` is the rest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.spec import Spec
from tests.nets.densenet import DenseNet, _DenseLayer, _Transition, densenet121
from tests.nets.randomize import randomize_
from tests.nets.resnet import BasicBlock, Bottleneck, ResNet, resnet18, resnet50
from tests.nets.tupac import tupac
from tests.nets.unet import DoubleConv, unet

SEED = 0
"""Of the weights and of the image."""
_PERIOD = 2048
"""Images of bytes repeat themselves: billions of random numbers would take longer than what is measured."""


class Stem(nn.Sequential):
    """The first layers of a net, up to a pool; or any other run of layers that checkpointing wraps as one."""


CHECKPOINTED = (Stem, BasicBlock, Bottleneck, _DenseLayer, _Transition, DoubleConv)
"""What the checkpointing variant computes again as one piece in the backward pass."""


class Net(nn.Module):
    """A local body and a head.

    Args:
        body: Convolutions, pools and what else is local.
        head: The rest; an identity where the benchmark is of the body alone.
    """

    def __init__(self, body: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.body = body
        self.head = head

    def forward(self, x: Tensor) -> Tensor:
        """The head of the body of an image."""
        return self.head(self.body(x))

    def checkpointed_blocks(self) -> Iterator[nn.Module]:
        """The outermost blocks of `CHECKPOINTED` types."""
        yield from _outermost(self.body)


def _outermost(module: nn.Module) -> Iterator[nn.Module]:
    if isinstance(module, CHECKPOINTED):
        yield module
        return
    for child in module.children():
        yield from _outermost(child)


def _resnet(net: ResNet, has_head: bool) -> Net:
    body = nn.Sequential(
        OrderedDict(
            stem=Stem(net.conv1, net.bn1, net.relu, net.maxpool),
            layer1=net.layer1,
            layer2=net.layer2,
            layer3=net.layer3,
            layer4=net.layer4,
        )
    )
    return Net(body, nn.Sequential(net.avgpool, nn.Flatten(), net.fc) if has_head else nn.Identity())


def _densenet(net: DenseNet, has_head: bool) -> Net:
    children = dict(net.features.named_children())
    stem = Stem(*(children.pop(f"{kind}0") for kind in ("conv", "norm", "relu", "pool")))
    body = nn.Sequential(OrderedDict(stem=stem, **children))
    head = nn.Sequential(nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), net.classifier)
    return Net(body, head if has_head else nn.Identity())


def _tupac(**options: Any) -> Net:
    """The paper's net in training mode, as it was trained there; without its dropout, which would be random."""
    net = tupac(**options)
    groups: list[list[nn.Module]] = [[]]
    for layer in net.streamed:
        groups[-1].append(layer)
        if isinstance(layer, nn.MaxPool2d):
            groups.append([])
    body = nn.Sequential(*(Stem(*group) for group in groups if group))
    return Net(body, nn.Sequential(net.resident, net.pool, nn.Flatten(), net.fc))


NETS: dict[str, Callable[..., Net]] = {
    "resnet18-body": lambda **options: _resnet(resnet18(**options), has_head=False),
    "resnet18": lambda **options: _resnet(resnet18(**options), has_head=True),
    "resnet50-body": lambda **options: _resnet(resnet50(**options), has_head=False),
    "resnet50": lambda **options: _resnet(resnet50(**options), has_head=True),
    "densenet121-body": lambda **options: _densenet(densenet121(**options), has_head=False),
    "densenet121": lambda **options: _densenet(densenet121(**options), has_head=True),
    "tupac": _tupac,
    "unet": lambda **options: Net(unet(**options), nn.Identity()),
}
"""By name; the options are those of the constructors in `tests.nets`."""

IN_TRAINING_MODE = ("tupac",)
"""Nets whose BatchNorms are in training mode, all of them in the head; the others are in eval mode throughout."""


class FromBytes(nn.Module):
    """Bytes as numbers in [0, 1]."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.dtype = dtype

    def forward(self, x: Tensor) -> Tensor:
        """The numbers."""
        return x.to(self.dtype) / 255


def build_net(spec: Spec, dtype: torch.dtype) -> Net:
    """The net of a specification, with weights that are the same at every call."""
    net = NETS[spec.net](**spec.options).to(dtype)
    randomize_(net, SEED)
    if spec.has_host_bytes:
        net = Net(nn.Sequential(OrderedDict(numbers=FromBytes(dtype), body=net.body)), net.head)
    net = net.train(spec.net in IN_TRAINING_MODE).to(spec.device)
    return net.to(memory_format=torch.channels_last) if spec.is_channels_last else net


def make_image(spec: Spec, dtype: torch.dtype, device: str) -> Tensor:
    """An image of one batch entry and three channels, the same at every call: bytes, or numbers in [0, 1)."""
    generator, size = torch.Generator().manual_seed(SEED), (1, 3, *spec.image_size)
    if spec.has_host_bytes:
        rows, columns = spec.image_size
        tile = torch.randint(0, 256, (1, 3, _PERIOD, _PERIOD), generator=generator, dtype=torch.uint8)
        whole = tile.repeat(1, 1, -(-rows // _PERIOD), -(-columns // _PERIOD))
        return whole[..., :rows, :columns].contiguous().to(device)
    image = torch.rand(size, generator=generator, dtype=torch.float64 if dtype is torch.float64 else torch.float32)
    image = image.to(device, dtype)
    return image.contiguous(memory_format=torch.channels_last) if spec.is_channels_last else image
