"""The zoo: one small factory per network class of `monai.networks.nets`.

Each factory builds its net with few channels for a number of image axes. `zoo_net` turns it into entries: one per
number of axes and normalisation, each with the arguments of a call. Images are long along one axis, so that a net with
a large receptive field still has more than one tile while the net beside it stays cheap to compute.
"""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # MONAI's own imports warn
    from monai.networks import nets
    from monai.networks.nets.restormer import Restormer

Size = tuple[int, ...]
Arguments = Callable[[Size], tuple[Any, ...]]

_DTYPE = torch.float64


@dataclass(frozen=True)
class ZooNet:
    """A net to plan and verify."""

    net: str
    """Class name."""
    num_axes: int
    """Image axes: 2 or 3."""
    norm: str
    """The normalisation it has: its default's name, or `batch` where that is an option."""
    build: Callable[[], nn.Module]
    arguments: Callable[[], tuple[Any, ...]]
    """Makes the arguments of a call, the image first, in float64."""
    dtype: torch.dtype = torch.float64
    """What the net can compute in: VQVAE converts to float32 by itself."""

    @property
    def name(self) -> str:
        """`UNet-2d-batch`: unique, and usable as the name of a test."""
        return f"{self.net}-{self.num_axes}d-{self.norm}".replace(" ", "-")


ZOO: dict[str, ZooNet] = {}
"""Every entry by its name."""

NOT_NETS: dict[str, str] = {
    "BertAttention": "a layer over tokens; needs transformers",
    "BertMixedLayer": "a layer over tokens; needs transformers",
    "BertOutput": "a layer over tokens; needs transformers",
    "BertPreTrainedModel": "a base class; needs transformers",
    "DAF3D": "needs torchvision",
    "DecoderOnlyTransformer": "reads tokens, not an image",
    "FullyConnectedNet": "reads vectors, not an image",
    "HoVerNet": "its one image size and its fixed channels take minutes in float64",
    "HyenaNDUNETR": "needs nvsubquadratic",
    "MultiModal": "needs transformers",
    "PatchMerging": "a layer of SwinUNETR over channels-last tokens",
    "PatchMergingV2": "a layer of SwinUNETR over channels-last tokens",
    "Pooler": "a layer over tokens",
    "TopologyConstruction": "a base class without a forward pass of its own",
    "TopologyInstance": "part of DiNTS, which is here",
    "TorchVisionFCModel": "needs torchvision",
    "Transchex": "needs transformers",
    "VarFullyConnectedNet": "reads vectors, not an image",
}
"""Exported modules that are left out, and why."""

_KNOWN_REFUSALS = {
    "DiNTS": "TracingError: __bool__ needs the values of a tensor",
    "TopologySearch": "TracingError: __bool__ needs the values of a tensor",
    "Generator": "InputSizeError: no input has the rank of an image",
    "MILModel": "InputSizeError: input_size=(2, 3, 1, 96, 32) has 5 dimensions",
    "NaViT": "TracingError: getitem needs the values of a tensor",
    "Quicknat": "NothingToStreamError: nothing can be streamed: no local operation reads the image first",
    "VoxelMorph": "TracingError: a property of a traced value is assigned",
}
"""What streamplan is known to refuse, by class name: the error class, and how its message begins."""


def image_only(size: Size) -> tuple[Any, ...]:
    """A random image."""
    return (torch.randn(size, generator=torch.Generator().manual_seed(1), dtype=_DTYPE),)


def zoo_net(
    net: str,
    size_2d: Size | None,
    size_3d: Size | None,
    *,
    norm: str = "none",
    batch: dict[str, Any] | None = None,
    arguments: Arguments = image_only,
    dtype: torch.dtype = torch.float64,
) -> Callable[[Callable[..., nn.Module]], Callable[..., nn.Module]]:
    """Register a factory.

    Args:
        net: Class name.
        size_2d: Size of the image, batch and channels included; None if the net has no 2-D form.
        size_3d: The same in 3-D.
        norm: Name of the default normalisation.
        batch: Arguments of the factory that ask for batch normalisation; None if the net has no such option.
        arguments: Makes the arguments of a call from a size.
        dtype: What the net can compute in.
    """

    def register(factory: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
        for num_axes, size in ((2, size_2d), (3, size_3d)):
            if size is None:
                continue
            for name, options in ((norm, {}), ("batch", batch)):
                if options is not None:
                    build = functools.partial(factory, num_axes, size, **options)
                    entry = ZooNet(net, num_axes, name, build, functools.partial(arguments, size), dtype)
                    assert entry.name not in ZOO
                    ZOO[entry.name] = entry
        return factory

    return register


# ------------------------------------------------------------------------------------------------------- segmentation


@zoo_net("AHNet", (1, 1, 416, 32), (1, 1, 352, 32, 32), norm="batch")
def ahnet(num_axes: int, _size: Size) -> nn.Module:
    return nets.AHNet((1, 1, 1, 1), num_axes, 1, 2, psp_block_num=1)


@zoo_net("AttentionUnet", (1, 1, 128, 32), (1, 1, 64, 16, 16), norm="instance")
def attention_unet(num_axes: int, _size: Size) -> nn.Module:
    return nets.AttentionUnet(num_axes, 1, 2, (2, 4, 8), (2, 2))


@zoo_net("BasicUNet", (1, 1, 256, 32), (1, 1, 224, 16, 16), norm="instance", batch={"norm": "batch"})
def basic_unet(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.BasicUNet(num_axes, 1, 2, features=(2, 2, 4, 4, 8, 2), **options)


@zoo_net("BasicUNetPlusPlus", (1, 1, 256, 32), (1, 1, 224, 16, 16), norm="instance", batch={"norm": "batch"})
def basic_unet_plus_plus(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.BasicUNetPlusPlus(num_axes, 1, 2, features=(2, 2, 4, 4, 8, 2), **options)


def _dints_topology(num_axes: int, topology: Callable[..., nn.Module], options: dict[str, Any]) -> nn.Module:
    names = {"norm_name": options["norm_name"]} if options else {}
    space = topology(channel_mul=0.125, num_blocks=2, num_depths=2, spatial_dims=num_axes, use_downsample=True, **names)
    return nets.DiNTS(space, 1, 2, spatial_dims=num_axes, use_downsample=True, **names)


@zoo_net("DiNTS", (1, 1, 128, 32), (1, 1, 96, 16, 16), norm="instance", batch={"norm_name": "batch"})
def dints(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return _dints_topology(num_axes, nets.TopologyInstance, options)


@zoo_net("TopologySearch", (1, 1, 128, 32), (1, 1, 96, 16, 16), norm="instance", batch={"norm_name": "batch"})
def topology_search(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return _dints_topology(num_axes, nets.TopologySearch, options)


@zoo_net("DynUNet", (1, 1, 128, 32), (1, 1, 72, 16, 16), norm="instance", batch={"norm_name": "batch"})
def dyn_unet(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.DynUNet(num_axes, 1, 2, [3, 3, 3], [1, 2, 2], [2, 2], filters=[2, 4, 8], res_block=True, **options)


@zoo_net("FlexibleUNet", (1, 1, 416, 32), (1, 1, 96, 32, 32), norm="batch")
def flexible_unet(num_axes: int, _size: Size) -> nn.Module:
    return nets.FlexibleUNet(1, 2, "resnet10", decoder_channels=(16, 8, 8, 4, 4), spatial_dims=num_axes)


@zoo_net("HighResNet", (1, 1, 128, 32), (1, 1, 96, 8, 8), norm="batch")
def high_res_net(num_axes: int, _size: Size) -> nn.Module:
    layers = (
        {"name": "conv_0", "n_features": 2, "kernel_size": 3},
        {"name": "res_1", "n_features": 2, "kernels": (3, 3), "repeat": 2},
        {"name": "res_2", "n_features": 4, "kernels": (3, 3), "repeat": 1},
        {"name": "res_3", "n_features": 8, "kernels": (3, 3), "repeat": 1},
        {"name": "conv_1", "n_features": 4, "kernel_size": 1},
        {"name": "conv_2", "kernel_size": 1},
    )
    return nets.HighResNet(num_axes, 1, 2, layer_params=layers)


@zoo_net("HighResBlock", (1, 2, 48, 32), (1, 2, 24, 16, 16), norm="batch")
def high_res_block(num_axes: int, _size: Size) -> nn.Module:
    return nets.HighResBlock(num_axes, 2, 4, (3, 3), dilation=2)


@zoo_net("MedNeXt", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="group")
def med_next(num_axes: int, _size: Size) -> nn.Module:
    return nets.MedNeXt(num_axes, 2, 1, 2, kernel_size=3, blocks_down=(1, 1), blocks_bottleneck=1, blocks_up=(1, 1))


@zoo_net("Quicknat", (1, 1, 128, 32), None, norm="instance")  # the first blocks have it whatever `norm` says
def quicknat(_num_axes: int, _size: Size) -> nn.Module:
    return nets.Quicknat(2, 1, 4)


@zoo_net("SegResNet", (1, 1, 128, 32), (1, 1, 96, 16, 16), norm="group", batch={"norm": "batch"})
def seg_res_net(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.SegResNet(num_axes, 8, 1, 2, blocks_down=(1, 1, 1), blocks_up=(1, 1), **options)


@zoo_net("SegResNetDS", (1, 1, 192, 32), (1, 1, 144, 16, 16), norm="batch")
def seg_res_net_ds(num_axes: int, _size: Size) -> nn.Module:
    return nets.SegResNetDS(num_axes, 4, 1, 2, blocks_down=(1, 1, 1), dsdepth=2)


@zoo_net("SegResNetDS2", (1, 1, 192, 32), (1, 1, 144, 16, 16), norm="batch")
def seg_res_net_ds2(num_axes: int, _size: Size) -> nn.Module:
    return nets.SegResNetDS2(num_axes, 4, 1, 2, blocks_down=(1, 1, 1))


@zoo_net("SegResNetVAE", (1, 1, 96, 32), (1, 1, 96, 16, 16), norm="group", batch={"norm": "batch"})
def seg_res_net_vae(num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.SegResNetVAE(
        size[2:], spatial_dims=num_axes, init_filters=8, in_channels=1, out_channels=2, vae_nz=4,
        blocks_down=(1, 1, 1), blocks_up=(1, 1), **options,
    )  # fmt: skip


@zoo_net("SwinUNETR", (1, 1, 64, 32), (1, 1, 64, 32, 32), norm="instance and layer", batch={"norm_name": "batch"})
def swin_unetr(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.SwinUNETR(
        1, 2, depths=(1, 1, 1, 1), num_heads=(1, 2, 4, 8), window_size=4, feature_size=12, spatial_dims=num_axes,
        **options,
    )  # fmt: skip


@zoo_net("UNETR", (1, 1, 64, 32), (1, 1, 48, 16, 16), norm="instance", batch={"norm_name": "batch"})
def unetr(num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.UNETR(
        1, 2, size[2:], feature_size=2, hidden_size=12, mlp_dim=24, num_heads=2, spatial_dims=num_axes, **options
    )


@zoo_net("UNet", (1, 1, 128, 32), (1, 1, 96, 16, 16), norm="instance", batch={"norm": "batch"})
def unet(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.UNet(num_axes, 1, 2, (2, 4, 8), (2, 2), num_res_units=2, **options)


def _class_prompt(size: Size) -> tuple[Any, ...]:
    """An image and the classes to segment."""
    return (*image_only(size), None, None, None, torch.tensor([[1], [2]]))


@zoo_net("VISTA3D", None, (1, 1, 64, 32, 32), norm="instance", arguments=_class_prompt)
def vista3d(_num_axes: int, _size: Size) -> nn.Module:
    return nets.vista3d132(encoder_embed_dim=8)


@zoo_net("VNet", (1, 1, 768, 16), (1, 1, 64, 16, 16), norm="batch")
def vnet(num_axes: int, _size: Size) -> nn.Module:
    return nets.VNet(num_axes, 1, 2, dropout_dim=num_axes)


# ----------------------------------------------------------------------------------------------------- classification


@zoo_net("Classifier", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="instance", batch={"norm": "batch"})
def classifier(_num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.Classifier(size[1:], 3, (2, 4), (2, 2), **options)


@zoo_net("Critic", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="instance", batch={"norm": "batch"})
def critic(_num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.Critic(size[1:], (2, 4), (2, 2), **options)


@zoo_net("Discriminator", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="instance", batch={"norm": "batch"})
def discriminator(_num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.Discriminator(size[1:], (2, 4), (2, 2), **options)


@zoo_net("DenseNet", (1, 1, 192, 32), (1, 1, 128, 32, 32), norm="batch")
def dense_net(num_axes: int, _size: Size) -> nn.Module:
    return nets.DenseNet(num_axes, 1, 3, init_features=4, growth_rate=2, block_config=(2, 2, 2))


@zoo_net("DenseNet121", (1, 1, 2304, 32), (1, 1, 128, 32, 32), norm="batch")
def dense_net_121(num_axes: int, _size: Size) -> nn.Module:
    return nets.DenseNet121(num_axes, 1, 3, init_features=4, growth_rate=2)


@zoo_net("DenseNet169", (1, 1, 256, 32), (1, 1, 96, 32, 32), norm="batch")
def dense_net_169(num_axes: int, _size: Size) -> nn.Module:
    return nets.DenseNet169(num_axes, 1, 3, init_features=4, growth_rate=2)


@zoo_net("DenseNet201", (1, 1, 256, 32), (1, 1, 96, 32, 32), norm="batch")
def dense_net_201(num_axes: int, _size: Size) -> nn.Module:
    return nets.DenseNet201(num_axes, 1, 3, init_features=4, growth_rate=2)


@zoo_net("DenseNet264", (1, 1, 256, 32), (1, 1, 96, 32, 32), norm="batch")
def dense_net_264(num_axes: int, _size: Size) -> nn.Module:
    return nets.DenseNet264(num_axes, 1, 3, init_features=4, growth_rate=2)


_EFFICIENT_BLOCKS = ["r1_k3_s11_e1_i32_o8_se0.25", "r1_k3_s22_e2_i8_o8_se0.25", "r1_k5_s22_e2_i8_o16_se0.25"]


@zoo_net("EfficientNet", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="batch")
def efficient_net(num_axes: int, size: Size) -> nn.Module:
    return nets.EfficientNet(_EFFICIENT_BLOCKS, num_axes, 1, 3, image_size=max(size[2:]))


@zoo_net("EfficientNetBN", (1, 1, 96, 32), (1, 1, 48, 32, 32), norm="batch")
def efficient_net_bn(num_axes: int, _size: Size) -> nn.Module:
    return nets.EfficientNetBN("efficientnet-b0", False, True, num_axes, 1, 3)


@zoo_net("EfficientNetBNFeatures", (1, 1, 96, 32), (1, 1, 48, 32, 32), norm="batch")
def efficient_net_bn_features(num_axes: int, _size: Size) -> nn.Module:
    return nets.EfficientNetBNFeatures("efficientnet-b0", False, True, num_axes, 1, 3)


@zoo_net("EfficientNetEncoder", (1, 1, 96, 32), (1, 1, 48, 32, 32), norm="batch")
def efficient_net_encoder(num_axes: int, _size: Size) -> nn.Module:
    return nets.EfficientNetEncoder("efficientnet-b0", False, True, num_axes, 1, 3)


@zoo_net("MILModel", (2, 3, 1, 96, 32), None, norm="batch")
def mil_model(_num_axes: int, _size: Size) -> nn.Module:
    return nets.MILModel(3, "att", backbone=_small_resnet(2), backbone_num_features=3)


@zoo_net("NetAdapter", (1, 1, 192, 64), (1, 1, 128, 32, 32), norm="batch")
def net_adapter(num_axes: int, _size: Size) -> nn.Module:
    pool = ("adaptiveavg", {"output_size": 1})
    return nets.NetAdapter(_small_resnet(num_axes), 3, num_axes, pool=pool)


@zoo_net("PatchDiscriminator", (1, 1, 96, 64), (1, 1, 48, 32, 32), norm="batch")
def patch_discriminator(num_axes: int, _size: Size) -> nn.Module:
    return nets.PatchDiscriminator(num_axes, 4, 1, num_layers_d=2)


@zoo_net("MultiScalePatchDiscriminator", (1, 1, 128, 64), (1, 1, 96, 32, 32), norm="batch")
def multi_scale_patch_discriminator(num_axes: int, _size: Size) -> nn.Module:
    return nets.MultiScalePatchDiscriminator(2, 2, num_axes, 4, 1, minimum_size_im=32)


@zoo_net("Regressor", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="instance", batch={"norm": "batch"})
def regressor(_num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.Regressor(size[1:], (2,), (2, 4), (2, 2), **options)


def _small_resnet(num_axes: int, block: str = "basic") -> nn.Module:
    return nets.ResNet(
        block, [1, 1, 1, 1], [2, 2, 4, 4], spatial_dims=num_axes, n_input_channels=1, num_classes=3, conv1_t_stride=2
    )


@zoo_net("ResNet", (1, 1, 384, 32), (1, 1, 256, 16, 16), norm="batch")
def resnet(num_axes: int, _size: Size) -> nn.Module:
    return _small_resnet(num_axes, "bottleneck")


@zoo_net("ResNetBlock", (1, 2, 48, 32), (1, 2, 24, 16, 16), norm="batch")
def resnet_block(num_axes: int, _size: Size) -> nn.Module:
    return nets.ResNetBlock(2, 2, num_axes)


@zoo_net("ResNetBottleneck", (1, 8, 48, 32), (1, 8, 24, 16, 16), norm="batch")
def resnet_bottleneck(num_axes: int, _size: Size) -> nn.Module:
    return nets.ResNetBottleneck(8, 2, num_axes)


@zoo_net("ResNetEncoder", (1, 1, 256, 32), (1, 1, 96, 16, 16), norm="batch")
def resnet_encoder(num_axes: int, _size: Size) -> nn.Module:
    return nets.ResNetEncoder("resnet10", pretrained=False, spatial_dims=num_axes)


@zoo_net("ResNetFeatures", (1, 1, 256, 32), (1, 1, 96, 16, 16), norm="batch")
def resnet_features(num_axes: int, _size: Size) -> nn.Module:
    return nets.ResNetFeatures("resnet10", pretrained=False, spatial_dims=num_axes)


@zoo_net("SENet", (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="batch")
def senet(num_axes: int, _size: Size) -> nn.Module:
    return nets.SENet(num_axes, 1, "se_bottleneck", (1, 1, 1, 1), 32, 16, inplanes=8, num_classes=3)


def _senet_of(net: str) -> Callable[[int, Size], nn.Module]:
    """A factory of a named SENet with one block per stage, whose channels are not an option."""
    return lambda num_axes, _size: getattr(nets, net)(
        layers=(1, 1, 1, 1), spatial_dims=num_axes, in_channels=1, num_classes=3
    )


for _net in ("SENet154", "SEResNet50", "SEResNet101", "SEResNet152", "SEResNext50", "SEResNext101"):
    zoo_net(_net, (1, 1, 96, 32), (1, 1, 48, 16, 16), norm="batch")(_senet_of(_net))


@zoo_net("ViT", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="layer")
def vit(num_axes: int, size: Size) -> nn.Module:
    return nets.ViT(1, size[2:], (8,) * num_axes, 12, 24, 2, 2, classification=True, spatial_dims=num_axes)


def _lists_of_images(size: Size) -> tuple[Any, ...]:
    """A batch as NaViT takes it: a list of lists of images without a batch axis."""
    return ([list(image_only(size)[0])],)


@zoo_net("NaViT", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="layer", arguments=_lists_of_images)
def navit(num_axes: int, size: Size) -> nn.Module:
    return nets.NaViT(size[2:], 8, 3, 12, 24, 1, 2, spatial_dims=num_axes)


# ------------------------------------------------------------------------------- images to images, autoencoders, others


@zoo_net("AutoEncoder", (1, 1, 128, 32), (1, 1, 96, 16, 16), norm="instance", batch={"norm": "batch"})
def auto_encoder(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.AutoEncoder(num_axes, 1, 1, (2, 4), (2, 2), num_res_units=1, **options)


_LEVELS: dict[str, Any] = {
    "num_res_blocks": 1, "channels": (4, 8), "attention_levels": (False, True), "norm_num_groups": 2
}  # fmt: skip


@zoo_net("AutoencoderKL", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="group")
def autoencoder_kl(num_axes: int, _size: Size) -> nn.Module:
    return nets.AutoencoderKL(num_axes, latent_channels=2, **_LEVELS)


def _image_and_labels(size: Size) -> tuple[Any, ...]:
    """An image and a map of labels, one channel each."""
    labels = torch.randint(0, 2, (size[0], 2, *size[2:]), generator=torch.Generator().manual_seed(2))
    return (*image_only(size), labels.to(_DTYPE))


@zoo_net("SPADEAutoencoderKL", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="group", arguments=_image_and_labels)
def spade_autoencoder_kl(num_axes: int, _size: Size) -> nn.Module:
    return nets.SPADEAutoencoderKL(num_axes, 2, latent_channels=2, spade_intermediate_channels=4, **_LEVELS)


def _labels_and_image(size: Size) -> tuple[Any, ...]:
    image, labels = _image_and_labels(size)
    return labels, image


@zoo_net(
    "SPADENet", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="instance", batch={"norm": "batch"},
    arguments=_labels_and_image,
)  # fmt: skip
def spade_net(num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.SPADENet(num_axes, 1, 1, 2, size[2:], [4, 8], z_dim=4, spade_intermediate_channels=4, **options)


def _image_and_timestep(size: Size) -> tuple[Any, ...]:
    return (*image_only(size), torch.full((size[0],), 7))


@zoo_net("DiffusionModelUNet", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="group", arguments=_image_and_timestep)
def diffusion_model_unet(num_axes: int, _size: Size) -> nn.Module:
    return nets.DiffusionModelUNet(num_axes, 1, 1, num_head_channels=4, **_LEVELS)


def _image_timestep_and_labels(size: Size) -> tuple[Any, ...]:
    image, labels = _image_and_labels(size)
    return image, torch.full((size[0],), 7), labels


@zoo_net(
    "SPADEDiffusionModelUNet", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="group", arguments=_image_timestep_and_labels
)
def spade_diffusion_model_unet(num_axes: int, _size: Size) -> nn.Module:
    return nets.SPADEDiffusionModelUNet(
        num_axes, 1, 1, 2, num_head_channels=4, spade_intermediate_channels=4, **_LEVELS
    )


def _image_timestep_and_condition(size: Size) -> tuple[Any, ...]:
    condition = torch.randn((size[0], 1, *(4 * n for n in size[2:])), dtype=_DTYPE)
    return (*image_only(size), torch.full((size[0],), 7), condition)


@zoo_net("ControlNet", (1, 1, 32, 16), (1, 1, 16, 8, 8), norm="group", arguments=_image_timestep_and_condition)
def control_net(num_axes: int, _size: Size) -> nn.Module:
    return nets.ControlNet(num_axes, 1, num_head_channels=4, conditioning_embedding_num_channels=(2, 2, 4), **_LEVELS)


def _latent(size: Size) -> tuple[Any, ...]:
    return image_only((size[0], 5))


@zoo_net("Generator", (1, 1, 32, 16), (1, 1, 16, 8, 8), norm="instance", batch={"norm": "batch"}, arguments=_latent)
def generator(_num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.Generator((5,), (4, *(n // 4 for n in size[2:])), (4, 1), (2, 2), **options)


@zoo_net("GlobalNet", (1, 2, 64, 32), (1, 2, 32, 16, 16), norm="batch")
def global_net(num_axes: int, size: Size) -> nn.Module:
    return nets.GlobalNet(list(size[2:]), num_axes, 2, 2, 2)


@zoo_net("LocalNet", (1, 2, 160, 32), (1, 2, 96, 16, 16), norm="batch")
def local_net(num_axes: int, _size: Size) -> nn.Module:
    return nets.LocalNet(num_axes, 2, 2, (0, 1, 2), out_channels=num_axes)


@zoo_net("RegUNet", (1, 2, 160, 32), (1, 2, 96, 16, 16), norm="batch")
def reg_unet(num_axes: int, _size: Size) -> nn.Module:
    return nets.RegUNet(num_axes, 2, 2, 2, out_channels=num_axes)


@zoo_net("MaskedAutoEncoderViT", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="layer")
def masked_auto_encoder_vit(num_axes: int, size: Size) -> nn.Module:
    return nets.MaskedAutoEncoderViT(
        1, size[2:], 8, 12, 24, 1, 2, decoder_hidden_size=12, decoder_mlp_dim=24, decoder_num_layers=1,
        decoder_num_heads=2, spatial_dims=num_axes, pos_embed_type="learnable", decoder_pos_embed_type="learnable",
    )  # fmt: skip


@zoo_net("Restormer", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="instance")
def restormer(num_axes: int, _size: Size) -> nn.Module:
    return Restormer(num_axes, 1, 1, dim=4, num_blocks=(1, 1), heads=(1, 2), num_refinement_blocks=1)


@zoo_net("VarAutoEncoder", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="instance", batch={"norm": "batch"})
def var_auto_encoder(num_axes: int, size: Size, **options: Any) -> nn.Module:
    return nets.VarAutoEncoder(num_axes, size[1:], 1, 4, (2, 4), (2, 2), use_mean_at_inference=True, **options)


@zoo_net("ViTAutoEnc", (1, 1, 64, 32), (1, 1, 32, 16, 16), norm="layer")
def vit_auto_enc(num_axes: int, size: Size) -> nn.Module:
    return nets.ViTAutoEnc(1, size[2:], 16, 1, 2, 12, 24, 2, 2, spatial_dims=num_axes)


@zoo_net("VoxelMorphUNet", (1, 2, 256, 32), (1, 2, 192, 16, 16), batch={"norm": "batch"})
def voxel_morph_unet(num_axes: int, _size: Size, **options: Any) -> nn.Module:
    return nets.VoxelMorphUNet(num_axes, 2, num_axes, (2, 4, 4, 4, 4, 2), (2, 2), **options)


def _moving_and_fixed(size: Size) -> tuple[Any, ...]:
    (image,) = image_only(size)
    return image, image.flip(2)


@zoo_net("VoxelMorph", (1, 1, 256, 32), (1, 1, 192, 16, 16), arguments=_moving_and_fixed)
def voxel_morph(num_axes: int, _size: Size) -> nn.Module:
    backbone = nets.VoxelMorphUNet(num_axes, 2, num_axes, (2, 4, 4, 4, 4, 2), (2, 2))
    return nets.VoxelMorph(backbone, 2, spatial_dims=num_axes)


@zoo_net("VQVAE", (1, 1, 96, 32), (1, 1, 64, 16, 16), dtype=torch.float32)
def vqvae(num_axes: int, _size: Size) -> nn.Module:
    return nets.VQVAE(
        num_axes,
        1,
        1,
        (4, 4),
        1,
        (4, 4),
        ((2, 4, 1, 1),) * 2,
        ((2, 4, 1, 1, 0),) * 2,
        num_embeddings=8,
        embedding_dim=4,
    )


REFUSALS = {entry.name: _KNOWN_REFUSALS[entry.net] for entry in ZOO.values() if entry.net in _KNOWN_REFUSALS}
"""How the refusal of an entry begins."""


def exported_modules() -> set[str]:
    """Names of all module classes that `monai.networks.nets` exports, aliases once."""
    classes = {item for item in vars(nets).values() if isinstance(item, type) and issubclass(item, nn.Module)}
    return {item.__name__ for item in classes}


__all__ = ["NOT_NETS", "REFUSALS", "ZOO", "ZooNet", "exported_modules", "zoo_net"]
