"""A few real training steps on copies of a model's tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradmend.probe.batch import Batch, Feeder, check_fit, check_loss, map_tensors
from gradmend.probe.shadow import make_shadow, untouched


def train_shadow(
    model: nn.Module, batch: Batch, feeder: Feeder, *, steps: int, learning_rate: float
) -> dict[int, Tensor]:
    """Train copies of the model's tensors on one batch; the model itself is left alone.

    Args:
        model: The model to copy from.
        batch: The batch of every step.
        feeder: How batch and model make a loss.
        steps: Steps of Adam.
        learning_rate: Of Adam.

    Returns:
        The trained copies, by ``id`` of the original tensor.
    """
    model = getattr(model, "_orig_mod", model)
    check_fit(model, batch)
    owners = feeder.owners(model)
    shadow = make_shadow(owners, None)
    trained = [tensor for tensor in shadow.values() if tensor.requires_grad]
    optimizer = torch.optim.Adam(trained, lr=learning_rate)
    with untouched(owners, shadow), torch.enable_grad():
        for _ in range(steps):
            optimizer.zero_grad(set_to_none=True)
            fed = map_tensors(batch, lambda tensor: tensor.detach().clone())
            check_loss(feeder.loss(model, fed)).backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return {
        key: tensor.detach().requires_grad_(tensor.requires_grad) for key, tensor in shadow.items()
    }
