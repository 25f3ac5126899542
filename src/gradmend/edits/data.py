"""Edits of what the model is fed: scale, wild and missing entries, samples left out."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.finite import without_bad_samples
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import Clamped, Imputed, Standardised, Wrapped
from gradmend.records.prescription import Edit


@edit_kind
def standardise_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read (x - mean) / std; ``mean`` and ``std`` per feature or for all.

    ``trailing`` counts the dimensions behind that of the features (2 for images), ``limit`` draws
    wild entries in, in deviations. With ``compensate`` a linear target is changed so that it
    computes what it did: W std, b + W mean.
    """
    for path in edit.targets:
        inner = inside(bench.module(path))
        mean, std = (_figures(bench, edit, key, inner) for key in ("mean", "std"))
        limit = edit.args.get("limit")
        far = torch.inf if limit is None else float(number(limit))
        if not far > 0:
            raise CannotApply(f"a limit of {far:g} deviations leaves nothing of the input")
        if edit.args.get("compensate") is True:
            _compensate(bench, path, inner, mean, std)
        bench.put(path, Standardised(inner, mean, std, far))


def _compensate(bench: Bench, path: str, layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    """Let a linear map of (x - mean) / std be what it was of x."""
    padded = any(getattr(layer, "padding", None) or ()) if isinstance(layer, _CONVS) else False
    grouped = getattr(layer, "groups", 1) != 1
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if not isinstance(layer, (nn.Linear, *_CONVS)) or padded or grouped or weight is None:
        raise CannotApply(
            f"'{path}' is no linear layer whose weights could take a scale in",
            "the model would compute something else than before",
        )
    std = torch.where(std > 0, std, torch.ones_like(std))
    shape = (-1, *[1] * (weight.dim() - 2)) if weight.dim() > 2 else (-1,)
    if bias is None and bool((mean != 0).any()):
        raise CannotApply(f"'{path}' has no bias to take the mean in")
    with torch.no_grad():
        scaled = weight * std.reshape(shape)
        moved = (weight * mean.reshape(shape)).flatten(1).sum(dim=1)
    bench.write(weight, scaled)
    if bias is not None:
        bench.write(bias, bias.detach() + moved)


_CONVS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


@edit_kind
def impute_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read ``value``, per feature or one, where its input is not finite."""
    for path in edit.targets:
        inner = inside(bench.module(path))
        value = _as_read(bench, path, _figures(bench, edit, "value", inner))
        bench.put(path, Imputed(inner, value))


@edit_kind
def clamp_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read its input held between ``low`` and ``high``."""
    for path in edit.targets:
        inner = inside(bench.module(path))
        low, high = (
            _as_read(bench, path, _figures(bench, edit, key, inner)) for key in ("low", "high")
        )
        if bool((low > high).any()):
            raise CannotApply("the edit 'clamp_input' has a lower end above its upper end")
        bench.put(path, Clamped(inner, low, high))


def _figures(bench: Bench, edit: Edit, key: str, inner: nn.Module) -> Tensor:
    """A list of numbers as a tensor that fits beside the input."""
    values = [float(number(v)) for v in list_of(edit, key)]
    if not values:
        raise CannotApply(f"the edit '{edit.kind}' has an empty '{key}'")
    every = (*inner.parameters(), *bench.model.parameters())
    like = next((p for p in every if p.is_floating_point()), torch.zeros(()))
    trailing = int(number(edit.args.get("trailing", 0)))
    if not 0 <= trailing <= MOST_TRAILING:
        raise CannotApply(f"an input has no {trailing} dimensions behind its features")
    shape = (len(values), *[1] * trailing) if len(values) > 1 else (1,)
    return torch.tensor(values, device=like.device, dtype=like.dtype).reshape(shape)


def _as_read(bench: Bench, path: str, values: Tensor) -> Tensor:
    """Figures of the data in the units that an earlier edit lets the module read."""
    module = bench.module(path)
    while isinstance(module, Wrapped):
        if isinstance(module, Standardised):
            values = (values - module.mean) / module.std
        module = module.inner
    return values


MOST_TRAILING = 5
"""Dimensions behind the features, as of volumes; more come from a hostile file."""


@edit_kind
def drop_non_finite_samples(bench: Bench, edit: Edit) -> None:
    """Leave samples out of every batch whose inputs or targets hold NaN or infinity."""
    del edit  # unused: there is nothing to choose
    bench.change_batch(without_bad_samples)
    bench.notes.append(
        "samples with NaN or infinity are left out of every batch in the trial: in your own loop"
        " leave them out as the advice shows"
    )
