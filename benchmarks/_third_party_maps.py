"""Architectures with a value for each place: segmentation, volumes, denoisers, autoencoders."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from _third_party_pictures import made, places
from _third_party_subjects import (
    CLASSES,
    Build,
    Subject,
    classes,
    cross_entropy,
    generator,
    let_torchvision_in,
    waves,
)
from torch import Tensor, nn
from torch.nn import functional


def smp_source() -> Iterator[tuple[str, Build]]:
    """Every decoder on a ResNet-18, and one on other encoders."""
    let_torchvision_in()
    decoders = (
        "Unet",
        "UnetPlusPlus",
        "MAnet",
        "Linknet",
        "FPN",
        "PSPNet",
        "DeepLabV3",
        "DeepLabV3Plus",
        "PAN",
        "UPerNet",
        "Segformer",
    )
    encoders = ("mobilenet_v2", "efficientnet-b0", "mit_b0", "timm-regnetx_002", "vgg11")
    pairs = [(d, "resnet18") for d in decoders] + [("Unet", e) for e in encoders]
    for decoder, encoder in pairs:
        yield f"smp/{decoder}-{encoder}", lambda d=decoder, e=encoder: smp_one(d, e)


def smp_one(decoder: str, encoder: str) -> Subject:
    import segmentation_models_pytorch as smp

    torch.manual_seed(0)
    model = smp.create_model(decoder, encoder, encoder_weights=None, classes=2).train()
    return places(model, (3, 128, 128) if decoder == "PAN" else (3, 64, 64), 8)


def monai_source() -> Iterator[tuple[str, Build]]:
    """Nets for volumes: a class for each place, or for the whole."""
    maps: dict[str, dict[str, Any]] = {
        "UNet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "channels": (8, 16, 32),
            "strides": (2, 2),
            "num_res_units": 2,
        },
        "BasicUNet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "features": (8, 8, 16, 32, 32, 8),
        },
        "AttentionUnet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "channels": (8, 16, 32),
            "strides": (2, 2),
        },
        "SegResNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2, "init_filters": 8},
        "VNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2},
        "DynUNet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": 2,
            "kernel_size": [3, 3, 3],
            "strides": [1, 2, 2],
            "upsample_kernel_size": [2, 2],
            "filters": [8, 16, 32],
        },
        "UNETR": {
            "in_channels": 1,
            "out_channels": 2,
            "img_size": (32, 32, 32),
            "feature_size": 8,
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_heads": 4,
        },
        "SwinUNETR": {"in_channels": 1, "out_channels": 2, "feature_size": 12},
        "HighResNet": {"spatial_dims": 3, "in_channels": 1, "out_channels": 2},
        "RegUNet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "num_channel_initial": 8,
            "depth": 2,
            "out_channels": 2,
            "out_kernel_initializer": "kaiming_uniform",
        },
        "FlexibleUNet": {
            "in_channels": 3,
            "out_channels": 2,
            "backbone": "efficientnet-b0",
            "spatial_dims": 2,
        },
    }
    wholes: dict[str, dict[str, Any]] = {
        "DenseNet": {
            "spatial_dims": 3,
            "in_channels": 1,
            "out_channels": CLASSES,
            "init_features": 16,
            "growth_rate": 8,
            "block_config": (2, 2, 2),
        },
        "SEResNet50": {"spatial_dims": 2, "in_channels": 3, "num_classes": CLASSES},
        "ViT": {
            "in_channels": 1,
            "img_size": (32, 32, 32),
            "patch_size": (8, 8, 8),
            "hidden_size": 48,
            "mlp_dim": 96,
            "num_layers": 4,
            "num_heads": 4,
            "classification": True,
            "num_classes": CLASSES,
            "post_activation": "none",
        },
        "EfficientNetBN": {
            "model_name": "efficientnet-b0",
            "pretrained": False,
            "spatial_dims": 2,
            "in_channels": 3,
            "num_classes": CLASSES,
        },
    }
    for name, arguments in maps.items():
        flat = arguments.get("spatial_dims") == 2
        shape = (3, 64, 64) if flat else (1, 32, 32, 32)
        yield (
            f"monai/{name}",
            lambda name=name, arguments=arguments, shape=shape: places(
                made("monai.networks.nets", name, arguments), shape, 2 if len(shape) == 4 else 8
            ),
        )
    for name, arguments in wholes.items():
        yield f"monai/{name}", lambda name=name, arguments=arguments: monai_whole(name, arguments)


def monai_whole(name: str, arguments: dict[str, Any]) -> Subject:
    model = made("monai.networks.nets", name, arguments)
    shape = (3, 64, 64) if arguments.get("spatial_dims") == 2 else (1, 32, 32, 32)
    return Subject(model, lambda n: (waves(n, 8, shape), classes(n, 8)), cross_entropy)


def diffusion_source() -> Iterator[tuple[str, Build]]:
    """Denoisers: the noise is to be told from the picture. And an autoencoder."""
    for name in ("UNet2DModel", "UNet2DConditionModel", "DiTTransformer2DModel", "UNet1DModel"):
        yield f"diffusers/{name}", lambda name=name: denoiser(name)
    yield "diffusers/AutoencoderKL", autoencoder
    yield "diffusers/VQModel", autoencoder_vq
    yield "denoising-diffusion-pytorch/Unet", lambda: denoiser("ddpm")


def denoiser(name: str) -> Subject:
    torch.manual_seed(0)
    small: dict[str, Any] = {"sample_size": 32, "in_channels": 3, "out_channels": 3}
    if name == "ddpm":
        from denoising_diffusion_pytorch import Unet

        model: nn.Module = Unet(dim=16, dim_mults=(1, 2, 4))
    else:
        import diffusers

        kind = getattr(diffusers, name)
        if name == "UNet2DModel":
            model = kind(
                **small,
                block_out_channels=(32, 64, 64),
                norm_num_groups=8,
                down_block_types=("DownBlock2D", "AttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
            )
        elif name == "UNet2DConditionModel":
            model = kind(
                **small,
                block_out_channels=(32, 64),
                norm_num_groups=8,
                down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
                up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
                cross_attention_dim=32,
                attention_head_dim=8,
            )
        elif name == "UNet1DModel":
            model = kind(
                sample_size=64,
                in_channels=2,
                out_channels=2,
                block_out_channels=(32, 32, 64),
                extra_in_channels=64,
            )
        else:
            model = kind(
                num_attention_heads=4,
                attention_head_dim=16,
                in_channels=3,
                out_channels=3,
                num_layers=4,
                sample_size=32,
                patch_size=4,
                num_embeds_ada_norm=1000,
            )

    def batch(n: int) -> tuple[Any, Tensor]:
        draw = generator(n)
        shape = (2, 64) if name == "UNet1DModel" else (3, 32, 32)
        clean = waves(n, 8, shape, noise=0.0)
        noise = torch.randn(clean.shape, generator=draw)
        time = torch.randint(0, 1000, (8,), generator=draw)
        kept = torch.cos(time / 1000 * 1.57).view(-1, *[1] * (clean.dim() - 1))
        seen = kept * clean + (1 - kept**2).sqrt() * noise
        more = ()
        if name == "UNet2DConditionModel":
            more = (torch.randn(8, 4, 32, generator=draw),)
        if name == "DiTTransformer2DModel":
            return {
                "hidden_states": seen,
                "timestep": time,
                "class_labels": classes(n, 8),
                "noise": noise,
            }, noise
        return (seen, time, *more), noise

    def loss(output: Any, noise: Tensor) -> Tensor:
        return functional.mse_loss(getattr(output, "sample", output), noise)

    if name == "DiTTransformer2DModel":

        class Classes(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.net = model

            def forward(self, x: Tensor, time: Tensor, label: Tensor) -> Tensor:
                sample: Tensor = self.net(x, time, label).sample
                return sample

        def pair(n: int) -> tuple[Any, Tensor]:
            given, noise = batch(n)
            return (given["hidden_states"], given["timestep"], given["class_labels"]), noise

        return Subject(Classes().train(), pair, loss)
    return Subject(model.train(), batch, loss)


_SMALL_CODER: dict[str, Any] = {
    "block_out_channels": (16, 32),
    "norm_num_groups": 8,
    "latent_channels": 4,
    "down_block_types": ("DownEncoderBlock2D",) * 2,
    "up_block_types": ("UpDecoderBlock2D",) * 2,
}


def _itself(n: int) -> tuple[Tensor, Tensor]:
    """Pictures that are their own targets."""
    x = waves(n, 8, (3, 32, 32), noise=0.1)
    return x, x


def autoencoder() -> Subject:
    import diffusers

    torch.manual_seed(0)
    model = diffusers.AutoencoderKL(**_SMALL_CODER)
    return Subject(model.train(), _itself, lambda out, x: functional.mse_loss(out.sample, x))


def autoencoder_vq() -> Subject:
    import diffusers

    torch.manual_seed(0)
    model = diffusers.VQModel(**_SMALL_CODER)

    def loss(out: Any, x: Tensor) -> Tensor:
        return functional.mse_loss(out.sample, x) + out.commit_loss.mean()

    return Subject(model.train(), _itself, loss)
