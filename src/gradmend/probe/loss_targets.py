"""What only a loss knows of a bad value: targets that it ignores, lengths that do not fit."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from gradmend.probe.heard import HeardCall


def of_the_loss(call: HeardCall) -> dict[str, Any]:
    """What only a loss knows: the share of targets it ignores, lengths that do not fit."""
    if call.name in ("cross_entropy", "nll_loss"):
        index = call.kwargs.get("ignore_index", -100)
        if len(call.args) > 4 and isinstance(call.args[4], int):
            index = call.args[4]
        target = call.args[1] if len(call.args) > 1 else call.kwargs.get("target")
        if isinstance(target, Tensor) and not target.is_floating_point() and target.numel():
            return {"ignored": float((target == index).double().mean())}
    if call.name == "ctc_loss":
        return {"target_lengths": _unalignable(call)}
    return {}


def _unalignable(call: HeardCall) -> tuple[int, ...]:
    keys = ("log_probs", "targets", "input_lengths", "target_lengths")
    given = dict(zip(keys, call.args, strict=False)) | call.kwargs
    try:
        targets = given["targets"].detach().cpu()
        inputs, lengths = (
            torch.as_tensor(given[key]).reshape(-1).tolist()
            for key in ("input_lengths", "target_lengths")
        )
    except (KeyError, TypeError, ValueError, RuntimeError):
        return ()
    return unalignable(targets, inputs, lengths)


def unalignable(targets: Tensor, inputs: list[int], lengths: list[int]) -> tuple[int, ...]:
    """(input length, target length, repeats) of the first sample without an alignment."""
    start = 0
    for number, (given, wanted) in enumerate(zip(inputs, lengths, strict=False)):
        row = targets[number, :wanted] if targets.dim() > 1 else targets[start : start + wanted]
        start += wanted
        repeats = int((row[1:] == row[:-1]).sum())
        if given < wanted + repeats:
            return int(given), int(wanted), repeats
    return ()
