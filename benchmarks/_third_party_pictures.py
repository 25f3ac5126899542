"""Architectures for pictures and volumes: timm, torchvision, vit-pytorch, smp, monai, diffusers."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from _third_party_subjects import (
    CLASSES,
    Build,
    Subject,
    classes,
    cross_entropy,
    let_torchvision_in,
    pictures,
    waves,
)
from torch import Tensor, nn
from torch.nn import functional

MOST_PARAMETERS = 35e6


def size_of(make: Callable[[], nn.Module]) -> float:
    """Parameters of a model, counted without making them where that works."""
    try:
        with torch.device("meta"):
            return sum(p.numel() for p in make().parameters())
    except Exception:
        return float("inf")


def timm_source() -> Iterator[tuple[str, Build]]:
    """The smallest model of each module of timm."""
    let_torchvision_in()
    import timm

    for module in timm.list_modules():
        yield f"timm/{module}", lambda module=module: timm_smallest(module)


def timm_smallest(module: str) -> Subject:
    """At 64 pixels where the model takes them, else at its own size."""
    import timm

    names = timm.list_models(module=module, pretrained=False)
    sizes = {
        name: size_of(lambda n=name: timm.create_model(n, num_classes=CLASSES)) for name in names
    }
    name = min(sizes, key=lambda n: sizes[n])
    if sizes[name] > MOST_PARAMETERS:
        raise ValueError(f"the smallest, {name}, has {sizes[name] / 1e6:.0f} M parameters")
    own = timm.get_pretrained_cfg(name)
    own_size = own.input_size[-1] if own is not None else 224
    errors = []
    for size, more in ((64, {}), (64, {"img_size": 64}), (own_size, {})):
        torch.manual_seed(0)
        try:
            model = timm.create_model(name, num_classes=CLASSES, **more).train()
            subject = pictures(model, size, rows=8 if size <= 64 else 4, note=f"{name} at {size}")
            loss = subject.loss(subject.batch(0))
            loss.backward()
        except Exception as error:
            errors.append(f"{size}: {type(error).__name__}: {error}")
            continue
        torch.manual_seed(0)
        fresh = timm.create_model(name, num_classes=CLASSES, **more).train()
        return Subject(fresh, subject.batch, subject.loss_fn, note=subject.note)
    raise ValueError(" | ".join(errors))


def torchvision_source() -> Iterator[tuple[str, Build]]:
    """Its classifiers of at most 35 M parameters, and segmentation; small pictures."""
    let_torchvision_in()
    from torchvision import models

    every = models.list_models(module=models)
    maps = models.list_models(module=models.segmentation)
    films = models.list_models(module=models.video)
    for name in every:
        yield f"torchvision/{name}", lambda name=name: torchvision_one(name)
    for name in maps:
        yield f"torchvision/{name}", lambda name=name: torchvision_map(name)
    for name in films:
        yield f"torchvision/{name}", lambda name=name: torchvision_film(name)


def torchvision_one(name: str) -> Subject:
    from torchvision import models

    # Without init_weights, inception and googlenet warn and draw for a minute.
    more: dict[str, Any] = {"init_weights": True} if name in ("inception_v3", "googlenet") else {}
    count = size_of(lambda: models.get_model(name, weights=None, num_classes=CLASSES))
    if MOST_PARAMETERS < count < float("inf"):
        raise ValueError(f"{count / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=CLASSES, **more).train()
    size = 96 if name.startswith(("inception", "alexnet", "squeezenet", "densenet")) else 64
    size = 224 if name.startswith(("vit", "maxvit")) else size
    return pictures(model, size, rows=16 if size < 224 else 4, note=f"at {size}")


def dense_loss(output: Any, target: Tensor) -> Tensor:
    """Cross-entropy at each place, resized to the target where the map is coarser."""
    scores = output["out"] if isinstance(output, dict) else output
    scores = scores[0] if isinstance(scores, list | tuple) else scores
    if scores.shape[2:] != target.shape[1:]:
        scores = functional.interpolate(scores, target.shape[1:])
    return functional.cross_entropy(scores, target)


def places(model: nn.Module, shape: tuple[int, ...], rows: int, **more: Any) -> Subject:
    """A class for each place: whether it is bright."""

    def batch(n: int) -> tuple[Tensor, Tensor]:
        x = waves(n, rows, shape)
        return x, (x[:, 0] > 0).long()

    return Subject(model, batch, dense_loss, **more)


def torchvision_map(name: str) -> Subject:
    from torchvision import models

    def make() -> nn.Module:
        return models.get_model(name, weights=None, weights_backbone=None, num_classes=2)

    count = size_of(make)
    if MOST_PARAMETERS < count < float("inf"):
        raise ValueError(f"{count / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    return places(make().train(), (3, 96, 96), 4)


def torchvision_film(name: str) -> Subject:
    from torchvision import models

    count = size_of(lambda: models.get_model(name, weights=None, num_classes=CLASSES))
    if MOST_PARAMETERS < count < float("inf"):
        raise ValueError(f"{count / 1e6:.0f} M parameters")
    torch.manual_seed(0)
    model = models.get_model(name, weights=None, num_classes=CLASSES).train()
    return Subject(model, lambda n: (waves(n, 4, (3, 8, 32, 32)), classes(n, 4)), cross_entropy)


def vit_pytorch_source() -> Iterator[tuple[str, Build]]:
    """Vision transformers written anew by one hand, many of them variations of a theme."""
    let_torchvision_in()
    plain: dict[str, Any] = {
        "image_size": 64,
        "patch_size": 8,
        "num_classes": CLASSES,
        "dim": 64,
        "depth": 4,
        "heads": 4,
        "mlp_dim": 128,
    }
    staged: dict[str, Any] = {"num_classes": CLASSES}
    every: list[tuple[str, str, dict[str, Any]]] = [
        ("vit", "ViT", plain),
        ("simple_vit", "SimpleViT", plain),
        ("simple_vit_with_register_tokens", "SimpleViT", plain),
        ("simple_vit_with_patch_dropout", "SimpleViT", plain),
        ("simple_vit_with_qk_norm", "SimpleViT", plain),
        ("simple_flash_attn_vit", "SimpleViT", plain | {"use_flash": False}),
        ("simple_vit_with_fft", "SimpleViT", plain | {"freq_patch_size": 8}),
        ("simple_vit_with_value_residual", "SimpleViT", plain),
        ("simple_vit_with_hyper_connections", "SimpleViT", plain | {"num_residual_streams": 2}),
        (
            "normalized_vit",
            "nViT",
            plain,
        ),
        ("deepvit", "DeepViT", plain),
        ("cait", "CaiT", plain | {"cls_depth": 2}),
        ("parallel_vit", "ViT", plain),
        ("vit_for_small_dataset", "ViT", plain),
        ("learnable_memory_vit", "ViT", plain),
        (
            "look_vit",
            "LookViT",
            {
                "dim": 64,
                "image_size": 64,
                "num_classes": CLASSES,
                "depth": 2,
                "patch_size": 16,
                "heads": 4,
                "mlp_factor": 2,
                "dim_head": 16,
                "highres_patch_size": 8,
                "highres_mlp_factor": 2,
                "cross_attn_heads": 4,
                "cross_attn_dim_head": 16,
            },
        ),
        (
            "vit_with_patch_merger",
            "ViT",
            plain | {"patch_merge_layer": 2, "patch_merge_num_tokens": 8},
        ),
        ("vit_with_decorr", "ViT", plain),
        ("local_vit", "LocalViT", plain),
        ("rvt", "RvT", plain),
        ("xcit", "XCiT", plain | {"cls_depth": 2}),
        (
            "mobile_vit",
            "MobileViT",
            staged
            | {
                "image_size": (64, 64),
                "dims": [32, 48, 64],
                "channels": [8, 16, 24, 24, 32, 32, 48, 48, 64, 64, 96],
            },
        ),
        (
            "cvt",
            "CvT",
            staged
            | {"s1_emb_dim": 32, "s2_emb_dim": 48, "s3_emb_dim": 64, "s3_depth": 2, "s3_heads": 4},
        ),
        (
            "twins_svt",
            "TwinsSVT",
            staged
            | {
                "s1_emb_dim": 32,
                "s1_patch_size": 4,
                "s1_local_patch_size": 4,
                "s1_global_k": 4,
                "s2_emb_dim": 48,
                "s2_patch_size": 2,
                "s2_local_patch_size": 4,
                "s2_global_k": 4,
                "s3_emb_dim": 64,
                "s3_patch_size": 2,
                "s3_local_patch_size": 2,
                "s3_global_k": 2,
                "s3_depth": 2,
                "s4_emb_dim": 96,
                "s4_patch_size": 2,
                "s4_local_patch_size": 2,
                "s4_global_k": 2,
                "s4_depth": 2,
            },
        ),
        (
            "levit",
            "LeViT",
            {
                "image_size": 128,
                "num_classes": CLASSES,
                "stages": 3,
                "dim": (32, 48, 64),
                "depth": 2,
                "heads": (2, 3, 4),
                "mlp_mult": 2,
                "dim_key": 8,
            },
        ),
        (
            "pit",
            "PiT",
            {
                "image_size": 64,
                "patch_size": 8,
                "dim": 64,
                "num_classes": CLASSES,
                "depth": (2, 2),
                "heads": 4,
                "mlp_dim": 128,
            },
        ),
        (
            "nest",
            "NesT",
            {
                "image_size": 64,
                "patch_size": 4,
                "dim": 48,
                "heads": 3,
                "num_hierarchies": 2,
                "block_repeats": (2, 2),
                "num_classes": CLASSES,
            },
        ),
        (
            "t2t",
            "T2TViT",
            {
                "dim": 64,
                "image_size": 64,
                "depth": 3,
                "heads": 4,
                "mlp_dim": 128,
                "num_classes": CLASSES,
                "t2t_layers": ((7, 4), (3, 2)),
            },
        ),
        (
            "cross_vit",
            "CrossViT",
            {
                "image_size": 64,
                "num_classes": CLASSES,
                "sm_dim": 48,
                "lg_dim": 64,
                "sm_patch_size": 8,
                "lg_patch_size": 16,
            },
        ),
        (
            "crossformer",
            "CrossFormer",
            staged
            | {
                "dim": (32, 32, 48, 64),
                "depth": (1, 1, 2, 1),
                "local_window_size": 2,
                "global_window_size": (8, 4, 2, 1),
            },
        ),
        (
            "regionvit",
            "RegionViT",
            staged | {"dim": (32, 48, 64, 64), "depth": (1, 1, 2, 1), "window_size": 2},
        ),
        (
            "max_vit",
            "MaxViT",
            staged
            | {"dim": 32, "depth": (1, 2), "dim_conv_stem": 16, "window_size": 4, "dim_head": 16},
        ),
        (
            "sep_vit",
            "SepViT",
            staged
            | {"dim": 32, "depth": (1, 1, 2), "heads": (1, 2, 4), "window_size": 4, "dim_head": 16},
        ),
        (
            "scalable_vit",
            "ScalableViT",
            staged
            | {
                "dim": 32,
                "depth": (1, 1, 2),
                "heads": (2, 2, 4),
                "reduction_factor": (4, 2, 1),
                "window_size": (8, 4, None),
            },
        ),
        ("ats_vit", "ViT", plain | {"max_tokens_per_depth": (32, 24, 16, 8)}),
    ]
    for module, name, arguments in every:
        yield (
            f"vit-pytorch/{module}",
            lambda module=module, name=name, arguments=arguments: pictures(
                made(f"vit_pytorch.{module}", name, arguments),
                arguments["image_size"] if isinstance(arguments.get("image_size"), int) else 64,
            ),
        )


def made(module: str, name: str, arguments: dict[str, Any]) -> nn.Module:
    """A class of a module, built."""
    torch.manual_seed(0)
    model: nn.Module = getattr(importlib.import_module(module), name)(**arguments)
    return model.train()
