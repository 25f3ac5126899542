"""Recurrent layers of one look, gone through step by step."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.nn.modules import module as torch_module
from torch.nn.modules.module import register_module_forward_hook

from gradmend.probe.recurrent import RECURRENT, Recurrences
from gradmend.records.recurrence import Recurrence, thinned


class Followed:
    """The recurrent calls of one forward pass, until their gradients are known."""

    def __init__(self) -> None:
        self.calls = Recurrences()
        self.failure = ""
        self.notes: list[str] = []

    def records(self) -> tuple[Recurrence, ...]:
        """Their books through time, the curve thinned; to be asked for after backward."""
        found: list[Recurrence] = []
        try:
            found = self.calls.records(self.notes)
        except Exception as error:  # the look itself is sound without them
            self.notes.append(f"recurrent layers could not be gone through by step: {error}")
        finally:
            self.calls.release()
        return tuple(
            replace(
                record, log10_curve=thinned(record.log10_grads), log10_grads=(), log10_jacobian=()
            )
            for record in found
        )


@contextmanager
def following(model: nn.Module) -> Iterator[Followed]:
    """Book the calls of a model's recurrent layers within a ``with`` block.

    Args:
        model: The root whose modules are named; nothing is registered on it.
    """
    followed = Followed()
    paths: dict[int, str] = {}
    for name, module in model.named_modules():
        if isinstance(module, RECURRENT):
            paths.setdefault(id(module), name)
    if not paths:
        yield followed
        return
    thread = threading.get_ident()

    def leave(module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        path = paths.get(id(module))
        if path is None or threading.get_ident() != thread or not torch.is_grad_enabled():
            return
        with torch._C.DisableTorchFunction():  # what is done here is no part of the user's pass
            try:
                why = followed.calls.saw(module, path, args, kwargs, output)
            except Exception as error:  # a subclass that returns something of its own
                why = f"{path} could not be gone through step by step: {error}"
        if why:
            followed.notes.append(why)

    handle = register_module_forward_hook(leave, with_kwargs=True, always_call=False)
    try:
        yield followed
    finally:
        handle.remove()
        # torch 2.13 forgets to remove this part of a global hook
        getattr(torch_module, "_global_forward_hooks_with_kwargs", {}).pop(handle.id, None)
