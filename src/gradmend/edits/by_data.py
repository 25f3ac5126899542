"""Edits that set weights and biases by what layers compute on a batch of data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number, rows_of
from gradmend.edits.bench import Bench, inside
from gradmend.edits.draws import draw_units, from_units, layout_of, to_units
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit

_FEATURES_LAST = (nn.Linear, nn.LayerNorm, nn.RMSNorm)


@edit_kind
def rescale_by_data(bench: Bench, edit: Edit) -> None:
    """Rescale each target layer on one batch: units centred, pre-activations at rms ``std``.

    One forward pass: each layer is corrected as it runs, so the next sees the corrected signal
    (after LSUV, Mishkin and Matas 2016, with a mean per unit instead of one for all).
    ``orthogonal`` draws the weights anew first; ``scale`` false leaves the weights and only
    centres. A layer without bias is scaled by the rms of all it puts out. ``targets`` are the
    layers' module paths.
    """
    target = float(number(edit.args.get("std", 1.0)))
    scaled = bool(edit.args.get("scale", True))
    if edit.args.get("orthogonal", True):
        generator = _generator(bench, edit)
        for path in edit.targets:
            weight = bench.parameter(_inside(path, "weight"))
            layout = layout_of(inside(bench.module(path)), "weight")
            shape = tuple(to_units(weight.detach(), layout).shape)
            drawn = from_units(draw_units(shape, layout, "orthogonal", 1.0, generator), layout)
            bench.write(weight, drawn.to(weight.device, weight.dtype))

    def correct(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        del inputs  # unused: the layer's own output is what is scaled
        weight, bias = module._parameters["weight"], module._parameters.get("bias")
        assert weight is not None
        channel, rows = _units(module, output)
        mean = rows.mean(dim=0) if bias is not None else torch.zeros_like(rows[0])
        size = (rows - mean).square().mean().sqrt()
        if not bool(torch.isfinite(size)):
            raise CannotApply(
                f"a layer of {list(output.shape)} outputs gives NaN or infinity on this batch",
                "no scale can be measured there",
            )
        scale = target / size if scaled and bool(size > 0) else torch.ones_like(size)
        if scaled:
            bench.write(weight, weight.detach() * scale)
        if bias is not None:
            bench.write(bias, (bias.detach() - mean) * scale)
        return (output - _across(mean, output, channel)) * scale

    for path in edit.targets:
        bench.parameter(_inside(path, "weight"))
        if not scaled and inside(bench.module(path))._parameters.get("bias") is None:
            raise CannotApply(f"'{path}' has no bias", "its units cannot be centred")
    with _measuring(bench, [(path, correct) for path in edit.targets]):
        pass


@edit_kind
def revive_units(bench: Bench, edit: Edit) -> None:
    """Draw the incoming weights anew of units that are off on every sample of a batch.

    ``targets`` are the modules whose output a rectifier reads, ``gains`` the gain to draw at.
    Behind a norm it is the norm's own scale and offset that are set to one and zero. ``readers``
    names the weights that read each target's units; their columns for revived units become zero,
    so that the function stays what it was on this batch; none are named where it need not. Off is
    what never exceeds ``threshold``, a rectifier's zero where not given.
    """
    generator = _generator(bench, edit)
    hooks = []
    revived = 0
    threshold = float(number(edit.args.get("threshold", 0.0)))
    for path, gain, readers in zip(
        edit.targets, list_of(edit, "gains"), rows_of(edit, "readers"), strict=True
    ):
        sigma = float(number(gain))

        def revive(
            module: nn.Module,
            inputs: Any,
            output: Tensor,
            sigma: float = sigma,
            readers: list[Any] = readers,
        ) -> Tensor:
            nonlocal revived
            channel, rows = _units(module, output)
            dead = (rows <= threshold).all(dim=0)
            count = int(dead.sum())
            if not count:
                return output
            revived += count
            _set_units(bench, module, dead, sigma, generator)
            for name in readers:
                _silence(bench, str(name), dead)
            forward = type(module).forward
            again: Tensor = forward(module, *inputs)
            if isinstance(module, nn.Linear | nn.modules.conv._ConvNd):
                # Units that all samples see alike would be as dead, or as constant, as before.
                _, fresh = _units(module, again)
                bias = module._parameters.get("bias")
                if bias is not None:
                    mean = torch.where(dead, fresh.mean(dim=0), torch.zeros_like(fresh[0]))
                    bench.write(bias, bias.detach() - mean)
                    again = again - _across(mean, output, channel)
            return again

        hooks.append((path, revive))
    with _measuring(bench, hooks):
        pass
    bench.notes.append(f"{revived} dead unit(s) drawn anew")


Hook = Callable[..., Tensor]


@contextmanager
def _measuring(bench: Bench, hooks: list[tuple[str, Hook]]) -> Iterator[None]:
    """One forward pass with hooks; buffers are afterwards what they were."""
    if bench.run_batch is None:
        raise CannotApply(
            "this edit looks at a batch of data, and there is none",
            "the scales are measured, not computed",
            "pass batches= and loss_fn= to gradmend.apply",
        )
    handles = []
    # The pass is a measurement: running statistics of a BatchNorm must not move with it.
    buffers = [(buffer, buffer.detach().clone()) for buffer in bench.model.buffers()]
    try:
        for path, hook in hooks:
            handles.append(inside(bench.module(path)).register_forward_hook(hook))
        with torch.no_grad():
            bench.run_batch(bench.model)
        yield
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)


def _set_units(
    bench: Bench, module: nn.Module, dead: Tensor, sigma: float, generator: torch.Generator
) -> None:
    """Incoming weights and biases of some units; scale one and offset zero for a norm's."""
    weight, bias = module._parameters.get("weight"), module._parameters.get("bias")
    if weight is None:
        raise CannotApply(f"a {type(module).__name__} has no weight to draw anew")
    if weight.dim() == 1:
        bench.write(weight, torch.where(dead, torch.ones_like(weight), weight.detach()))
    else:
        layout = layout_of(module, "weight")
        old = to_units(weight.detach(), layout)
        drawn = draw_units(tuple(old.shape), layout, "normal", sigma, generator)
        mask = dead.view(-1, *[1] * (old.dim() - 1))
        new = torch.where(mask, drawn.to(old.device, old.dtype), old)
        bench.write(weight, from_units(new, layout))
    if bias is not None:
        bench.write(bias, torch.where(dead, torch.zeros_like(bias), bias.detach()))


def _silence(bench: Bench, name: str, dead: Tensor) -> None:
    """Zero what a weight [out, in, *kernel] reads of some units; flattened channels in runs."""
    weight = bench.parameter(name)
    inputs, units = weight.shape[1], dead.numel()
    if inputs % units:
        raise CannotApply(f"'{name}' reads {inputs} inputs, which are not {units} units' outputs")
    mask = dead.repeat_interleave(inputs // units).view(1, -1, *[1] * (weight.dim() - 2))
    bench.write(weight, torch.where(mask, torch.zeros_like(weight), weight.detach()))


def _units(module: nn.Module, output: Tensor) -> tuple[int, Tensor]:
    """(axis of the units, the outputs as [samples and places, units])."""
    channel = 1 if output.dim() >= 3 and not isinstance(module, _FEATURES_LAST) else -1
    rows = output.detach().movedim(channel, -1).reshape(-1, output.shape[channel])
    return channel, rows


def _across(values: Tensor, output: Tensor, channel: int) -> Tensor:
    shape = [1] * output.dim()
    shape[channel] = -1
    return values.view(shape)


def _inside(path: str, leaf: str) -> str:
    return f"{path}.{leaf}" if path else leaf


def _generator(bench: Bench, edit: Edit) -> torch.Generator:
    return torch.Generator().manual_seed(int(number(edit.args.get("seed", 0))) + bench.seed)
