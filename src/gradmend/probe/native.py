"""The pass as the user's own loop makes it, in the model's number format, to see whether it breaks.

The books are kept in float64 where that is affordable, and float64 hides what overflows in the
model's own format. So loss and gradient are computed once more as they are, and only where one of
them is not finite every call is written down (:mod:`.forensics`).
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from gradmend.probe.batch import Batch, Feeder, check_loss, map_tensors
from gradmend.probe.capture import tensors_in
from gradmend.probe.forensics import first_bad, is_sound
from gradmend.probe.shadow import make_shadow, untouched
from gradmend.records.badvalue import BadValue


def first_bad_of(
    model: nn.Module,
    batch: Batch,
    feeder: Feeder,
    shadow: Mapping[int, Tensor] | None = None,
) -> tuple[bool, BadValue | None]:
    """Whether loss and gradient are finite, and if not, the first value that is not.

    Args:
        model: The model; left as it was.
        batch: One batch.
        feeder: How they make a loss.
        shadow: Tensors to run on instead of the model's own, by ``id`` of the original.

    Returns:
        (sound, where it began); the latter is ``None`` where it could not be found.
    """
    owners = feeder.owners(model)
    copies = make_shadow(owners, None)
    for key, tensor in (shadow or {}).items():
        copies[key] = tensor.detach().clone().requires_grad_(tensor.requires_grad)
    trained = [copies[id(p)] for p in model.parameters() if id(p) in copies]

    def loss() -> Tensor:
        fed = map_tensors(batch, _copied)
        names.update({id(t): f"input {n}" for n, t in feeder.inputs(fed).items()})
        names.update({id(t): "batch" for t in tensors_in(fed) if id(t) not in names})
        kept.append(fed)
        return check_loss(feeder.loss(model, fed), cut_off=True)

    names = {id(copies[id(p)]): name for name, p in model.named_parameters() if id(p) in copies}
    kept: list[Batch] = []  # so that no id of an input is used twice
    with untouched(owners, copies), torch.enable_grad():
        if is_sound(loss(), trained):
            return True, None
    with untouched(owners, copies), torch.enable_grad():
        return False, first_bad(model, loss, names)


def _copied(tensor: Tensor) -> Tensor:
    copy = tensor.detach().clone()
    return copy.requires_grad_(tensor.requires_grad and copy.is_floating_point())
