"""Edits that set weights and biases."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.draws import draw_normal, draw_weight
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.records.prescription import Edit


@edit_kind
def initialise(bench: Bench, edit: Edit) -> None:
    """Draw weights anew: scheme, gain, seed; and set biases, centred where asked.

    ``targets`` are weights; the lists in ``args`` run parallel to them: ``biases`` (names or
    null), ``gains`` (sigma_w), ``centres`` (the mean of what the layer reads, removed by the
    bias b = -centre * W 1), ``bias_stds`` (random part of the bias).
    """
    args = edit.args
    scheme = str(args.get("scheme", "orthogonal"))
    generator = torch.Generator().manual_seed(int(number(args.get("seed", 0))) + bench.seed)
    rows = zip(
        edit.targets, list_of(edit, "biases"), list_of(edit, "gains"), list_of(edit, "centres"),
        list_of(edit, "bias_stds"), strict=True,
    )  # fmt: skip
    for name, bias_name, gain, centre, bias_std in rows:
        weight = bench.parameter(name)
        drawn = draw_weight(tuple(weight.shape), scheme, float(number(gain)), generator)
        bench.write(weight, drawn.to(weight.device, weight.dtype))
        if bias_name is not None:
            bias = bench.parameter(str(bias_name))
            values = draw_normal(tuple(bias.shape), generator) * float(number(bias_std))
            values = values - float(number(centre)) * drawn.reshape(drawn.shape[0], -1).sum(dim=1)
            bench.write(bias, values.to(bias.device, bias.dtype))


@edit_kind
def rescale_by_data(bench: Bench, edit: Edit) -> None:
    """Rescale each target layer on one batch: units centred, pre-activations at rms ``std``.

    One forward pass: each layer is corrected as it runs, so the next sees the corrected signal
    (after LSUV, Mishkin and Matas 2016, with a mean per unit instead of one for all).
    ``orthogonal`` draws the weights anew first. ``targets`` are the layers' module paths.
    """
    if bench.run_batch is None:
        raise CannotApply(
            "this edit looks at a batch of data, and there is none",
            "the scales are measured, not computed",
            "pass batches= and loss_fn= to gradmend.apply",
        )
    target = float(number(edit.args.get("std", 1.0)))
    if edit.args.get("orthogonal", True):
        generator = torch.Generator().manual_seed(
            int(number(edit.args.get("seed", 0))) + bench.seed
        )
        for path in edit.targets:
            weight = bench.parameter(f"{path}.weight")
            drawn = draw_weight(tuple(weight.shape), "orthogonal", 1.0, generator)
            bench.write(weight, drawn.to(weight.device, weight.dtype))
    handles = []

    def correct(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
        del inputs  # unused: the layer's own output is what is scaled
        channel = 1 if output.dim() >= 3 and not isinstance(module, nn.Linear) else -1
        rows = output.detach().movedim(channel, -1).reshape(-1, output.shape[channel])
        mean = rows.mean(dim=0)
        size = (rows - mean).square().mean().sqrt()
        if not bool(torch.isfinite(size)):
            raise CannotApply(
                f"a layer of {list(output.shape)} outputs gives NaN or infinity on this batch",
                "no scale can be measured there",
            )
        scale = target / size if bool(size > 0) else torch.ones_like(size)
        weight, bias = module._parameters["weight"], module._parameters["bias"]
        assert weight is not None and bias is not None
        bench.write(weight, weight.detach() * scale)
        bench.write(bias, (bias.detach() - mean) * scale)
        shape = [1] * output.dim()
        shape[channel] = -1
        return (output - mean.view(shape)) * scale

    # The pass is a measurement: running statistics of a BatchNorm must not move with it.
    buffers = [(buffer, buffer.detach().clone()) for buffer in bench.model.buffers()]
    try:
        for path in edit.targets:
            layer = inside(bench.module(path))
            if layer._parameters.get("bias") is None:
                raise CannotApply(f"'{path}' has no bias", "its units cannot be centred")
            handles.append(layer.register_forward_hook(correct))
        with torch.no_grad():
            bench.run_batch(bench.model)
    finally:
        for handle in handles:
            handle.remove()
        with torch.no_grad():
            for buffer, saved in buffers:
                buffer.copy_(saved)
