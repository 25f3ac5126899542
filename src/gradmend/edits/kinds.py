"""The kinds of edit: one function each, and the applying of many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number, rows_of
from gradmend.edits.bench import Bench, inside
from gradmend.errors import CannotApply, GradmendError
from gradmend.layers import REPLACEMENTS, CentredSigmoid, ReZero, Standardised
from gradmend.records.prescription import Edit


def apply_edits(bench: Bench, edits: Iterable[Edit]) -> Bench:
    """Apply edits in order; on any failure undo those already made.

    Raises:
        CannotApply: If an edit does not fit; the model is then as it was.
    """
    try:
        for edit in edits:
            if edit.kind not in KINDS:
                raise CannotApply(
                    f"there is no edit of kind '{edit.kind}'",
                    "edits are a closed set, so that every one can be undone",
                    f"known kinds: {', '.join(sorted(KINDS))}",
                )
            KINDS[edit.kind](bench, edit)
    except (GradmendError, torch.OutOfMemoryError):
        bench.undo()
        raise
    except Exception as error:  # hostile values, or the user's model on the way through it
        bench.undo()
        raise CannotApply(
            f"the edit '{edit.kind}' failed: {' '.join(str(error).split())[:300]}",
            "it does not fit this model, which was left as it was",
            "prescribe anew with gradmend.fix",
        ) from error
    except BaseException:
        bench.undo()
        raise
    return bench


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
            values = _draw(tuple(bias.shape), generator) * float(number(bias_std))
            values = values - float(number(centre)) * drawn.reshape(drawn.shape[0], -1).sum(dim=1)
            bench.write(bias, values.to(bias.device, bias.dtype))


def draw_weight(
    shape: tuple[int, ...], scheme: str, gain: float, generator: torch.Generator
) -> Tensor:
    """A weight with sqrt(fan_in E[w^2]) = gain.

    Args:
        shape: [out, in, *kernel].
        scheme: ``orthogonal`` (all singular values equal, Saxe et al. 2014) or ``normal``.
        gain: sigma_w.
        generator: Source of randomness.
    """
    out, fan_in = shape[0], math.prod(shape[1:])
    if scheme == "normal":
        return _draw(shape, generator) * (gain / math.sqrt(fan_in))
    if scheme != "orthogonal":
        raise CannotApply(f"there is no initialisation '{scheme}'", "", "orthogonal or normal")
    tall = _draw((max(out, fan_in), min(out, fan_in)), generator)
    q, r = torch.linalg.qr(tall)
    q = q * torch.sign(torch.diagonal(r))  # makes the distribution uniform (Mezzadri 2007)
    q = q if out >= fan_in else q.T
    # Columns are unit where out > in: scale up so that every output keeps its variance.
    drawn: Tensor = (q * (gain * math.sqrt(max(1.0, out / fan_in)))).reshape(shape).contiguous()
    return drawn


def _draw(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Standard normal numbers; the same bits whatever default type or device the user has set."""
    return torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")


def replace_module(bench: Bench, edit: Edit) -> None:
    """Put another activation in the place of each target; ``module`` names its class."""
    name = str(edit.args.get("module"))
    if name not in REPLACEMENTS:
        raise CannotApply(f"'{name}' cannot be put in", "", f"one of {', '.join(REPLACEMENTS)}")
    for path in edit.targets:
        bench.put(path, REPLACEMENTS[name]())


def wrap_residual(bench: Bench, edit: Edit) -> None:
    """Wrap runs of modules into h + alpha f(h): each target with its row of ``parts`` behind it.

    The first module of a run becomes the block, the others hand their input on.
    """
    alphas = []
    for path, rest in zip(edit.targets, rows_of(edit, "parts"), strict=True):
        paths = [path, *(str(part) for part in rest)]
        block = ReZero(*(inside(bench.module(part)) for part in paths))
        for part in paths[1:]:
            bench.put(part, nn.Identity())
        bench.put(path, block)
        block.f.training = block.training
        alphas.append(block.alpha)
    bench.register(alphas)


def standardise_input(bench: Bench, edit: Edit) -> None:
    """Let the target module read (x - mean) / std; ``mean`` and ``std`` per feature or for all."""
    if not list_of(edit, "mean") or not list_of(edit, "std"):
        raise CannotApply("the edit 'standardise_input' has an empty 'mean' or 'std'")
    for path in edit.targets:
        inner = inside(bench.module(path))
        like = next(inner.parameters(), next(bench.model.parameters()))
        mean, std = (
            torch.tensor(
                [float(number(v)) for v in list_of(edit, key)], device=like.device, dtype=like.dtype
            )
            for key in ("mean", "std")
        )
        bench.put(path, Standardised(inner, mean, std))


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


def scale_learning_rate(bench: Bench, edit: Edit) -> None:
    """Multiply the learning rate of every parameter group by ``factor``."""
    if bench.optimizer is None:
        raise CannotApply(
            "the learning rate belongs to an optimizer, and there is none",
            "a plain network this deep diverges at the usual rate",
            "pass optimizer= to gradmend.apply",
        )
    factor = float(number(edit.args.get("factor", 1.0)))
    if factor <= 0:
        raise CannotApply(f"a factor of {factor:g} leaves no learning rate to train with")
    for group in bench.optimizer.param_groups:
        saved = group["lr"]
        group["lr"] = saved * factor

        def back(group: dict[str, Any] = group, saved: Any = saved) -> None:
            group["lr"] = saved

        bench.undo_steps.append(back)
    if any("initial_lr" in group for group in bench.optimizer.param_groups):
        bench.notes.append(
            f"a scheduler is attached: one that computes the rate from its own base (LambdaLR,"
            f" OneCycleLR) will undo this; build it anew, or scale its base_lrs by {factor:.3g}"
        )


def centre_sigmoids(bench: Bench, edit: Edit) -> None:
    """Put the sigmoid into centred coordinates: targets become :class:`CentredSigmoid`.

    ``feeds`` names the layer in front of each and ``readers`` those behind it; export folds them.
    """
    for path in edit.targets:
        if type(inside(bench.module(path))) is not nn.Sigmoid:
            raise CannotApply(
                f"'{path}' is a {type(bench.module(path)).__name__}, not an nn.Sigmoid",
                "only the sigmoid has these coordinates",
            )
        bench.put(path, CentredSigmoid())


KINDS: dict[str, Callable[[Bench, Edit], None]] = {
    function.__name__: function
    for function in (
        initialise,
        replace_module,
        wrap_residual,
        standardise_input,
        rescale_by_data,
        scale_learning_rate,
        centre_sigmoids,
    )
}
"""Every kind of edit there is."""
