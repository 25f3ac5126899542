"""Edits of what the model puts out: its units, its shape, its first guess."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, nn

from gradmend.edits.arguments import list_of, number
from gradmend.edits.bench import Bench, inside
from gradmend.edits.kind import edit_kind
from gradmend.errors import CannotApply
from gradmend.layers import FOLLOWERS, Followed, Rescaled
from gradmend.records.prescription import Edit


@edit_kind
def follow_module(bench: Bench, edit: Edit) -> None:
    """Put a small module behind each target; ``module`` names it, ``dim`` is handed to it."""
    name = str(edit.args.get("module"))
    if name not in FOLLOWERS:
        raise CannotApply(f"'{name}' cannot be put behind", "", f"one of {', '.join(FOLLOWERS)}")
    options: dict[str, Any] = {}
    if "dim" in edit.args:
        options["dim"] = int(number(edit.args["dim"]))
    for path in edit.targets:
        inner = inside(bench.module(path))
        bench.put(path, _behind(inner, FOLLOWERS[name](**options)))


@edit_kind
def standardise_target(bench: Bench, edit: Edit) -> None:
    """Let the target put out z std + mean, and train z as if the targets were standardised.

    ``mean`` and ``std`` are one for all outputs or one each, ``degree`` the power by which the
    loss grows with its unit. With ``compensate`` the layer is changed so that the outputs stay.
    """
    degree = int(number(edit.args.get("degree", 2)))
    if degree not in (1, 2):
        raise CannotApply(f"no loss of degree {degree} is known", "", "1 or 2")
    for path in edit.targets:
        inner = inside(bench.module(path))
        like = next((p for p in inner.parameters() if p.is_floating_point()), torch.zeros(()))
        mean, std = (
            torch.tensor(
                [float(number(v)) for v in list_of(edit, key)], dtype=like.dtype, device=like.device
            )
            for key in ("mean", "std")
        )
        if not mean.numel() or not std.numel() or bool((std < 0).any()):
            raise CannotApply("the edit 'standardise_target' needs a mean and a std of at least 0")
        if edit.args.get("compensate") is True:
            _into_units(bench, path, inner, mean, std)
        bench.put(path, _behind(inner, Rescaled(mean, std, degree)))


def _into_units(bench: Bench, path: str, layer: nn.Module, mean: Tensor, std: Tensor) -> None:
    weight, bias = layer._parameters.get("weight"), layer._parameters.get("bias")
    if not isinstance(layer, nn.Linear) or weight is None or bias is None:
        raise CannotApply(
            f"'{path}' is no linear layer with a bias that could take a scale in",
            "the model would compute something else than before",
        )
    std = torch.where(std > 0, std, torch.ones_like(std))
    bench.write(weight, weight.detach() / std.reshape(-1, 1))
    bench.write(bias, (bias.detach() - mean) / std)


def _behind(inner: nn.Module, then: nn.Module) -> Followed:
    follower = Followed(inner, then)
    then.training = inner.training
    return follower


@edit_kind
def class_prior_bias(bench: Bench, edit: Edit) -> None:
    """Set each target, the bias of an output layer, to the logits of the class ``shares``.

    One share for each class of a softmax, or the share of the positive class for each sigmoid.
    """
    shares = [float(number(v)) for v in list_of(edit, "shares")]
    if not shares or not all(0.0 < share < 1.0 for share in shares):
        raise CannotApply("the edit 'class_prior_bias' needs shares between 0 and 1")
    sigmoid = edit.args.get("sigmoid") is True
    logits = [math.log(s / (1.0 - s)) if sigmoid else math.log(s) for s in shares]
    if not sigmoid:
        middle = math.fsum(logits) / len(logits)
        logits = [value - middle for value in logits]
    for name in edit.targets:
        bias = bench.parameter(name)
        bench.write(bias, torch.tensor(logits, dtype=bias.dtype, device=bias.device))


@edit_kind
def scale_output(bench: Bench, edit: Edit) -> None:
    """Multiply each target, a parameter of an output layer, by ``factor``."""
    factor = float(number(edit.args.get("factor")))
    if not factor > 0:
        raise CannotApply(f"a factor of {factor:g} leaves no output")
    for name in edit.targets:
        parameter = bench.parameter(name)
        bench.write(parameter, parameter.detach() * factor)
