"""The training of very deep models at the speed of its arithmetic.

A step of a deep net of narrow layers costs what its operations cost to call: at a width of 32 and a
batch of 64, most of the time (``benchmarks/deep_step.py``). For the length of a training,
:func:`express` lets long runs of equal layers go through one autograd function
(:mod:`gradmend.engine.trial.chains`) and the optimizer through few large tensors
(:mod:`gradmend.engine.trial.blocks`). The mathematics is the same; the order of a few roundings is
not. A model with fewer than :data:`DEEP` equal layers is not touched at all.

Modules, parameters and optimizer stay the objects they are, and at the end everything is back where
it was, with the numbers that the training came to.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.optim import Optimizer
from torch.optim import optimizer as hooks

from gradmend.controls import (
    ClipByNorm,
    ClipByPercentile,
    ClipByValue,
    ClipByZScore,
    LayerRates,
    LossScale,
    WarmUp,
)
from gradmend.engine.trial.blocks import ELEMENTWISE, Block, Packed, lendable
from gradmend.engine.trial.pool import Pool
from gradmend.engine.trial.sequences import DEEP, Line, is_sequence, lay

FUSED: frozenset[type[Optimizer]] = frozenset(
    {torch.optim.Adam, torch.optim.AdamW, torch.optim.SGD}
)
"""Optimizers whose fused kernel on the CPU is used."""

BLIND = frozenset(
    control.name
    for control in (
        ClipByNorm,
        ClipByPercentile,
        ClipByValue,
        ClipByZScore,
        LayerRates,
        LossScale,
        WarmUp,
    )
)
"""Controls that do the same whether they see many gradients or one tensor of all of them."""


@dataclass(slots=True)
class Express:
    """What a model and its optimizer have lent, and the way back."""

    model: nn.Module
    optimizer: Optimizer
    lines: list[Line] = field(default_factory=list)
    blocks: list[Block] = field(default_factory=list)
    stepped: bool = False
    """Whether a step has come as far as the optimizer."""
    _pool: Pool = field(default_factory=Pool)
    _packed: Packed | None = None
    _way_back: list[Callable[[], None]] = field(default_factory=list)

    @property
    def active(self) -> bool:
        """Whether anything is lent."""
        return bool(self.blocks)

    @property
    def untried(self) -> bool:
        """Whether something is lent and no step has come as far as the optimizer."""
        return self.active and not self.stepped

    def engage(self) -> None:
        """Lend what is worth it."""
        modules = list(self.model.modules())
        if not _ordinary(modules) or isinstance(self.optimizer, torch.optim.LBFGS):
            return
        held = [p for group in self.optimizer.param_groups for p in group["params"]]
        every = {id(p): p for p in (*self.model.parameters(), *held)}
        if len(every) < DEEP:
            return
        apart = {key for h in _hooks_of(self.optimizer) for key in getattr(h, "apart", ())}
        free = {key for key, p in every.items() if lendable(p) and key not in apart}
        self._lay(modules, free)
        if all(getattr(h, "name", "") in BLIND for h in _hooks_of(self.optimizer)):
            self._pack(free)
        if self.active:
            for group in self.optimizer.param_groups:
                self._fuse(group, modules)
            handle = self.optimizer.register_step_pre_hook(lambda *_: self._before_step())
            self.optimizer._optimizer_step_pre_hooks.move_to_end(handle.id, last=False)  # type: ignore[attr-defined]
            self._way_back.append(handle.remove)
        else:
            self.release()

    def release(self) -> None:
        """Put everything back to where it belongs, with the numbers it has now."""
        while self._way_back:
            self._way_back.pop()()
        self.lines.clear()
        self.blocks.clear()

    def _lay(self, modules: list[nn.Module], free: set[int]) -> None:
        """Replace what the containers of long runs do."""
        done: set[int] = set()
        for module in modules:
            if id(module) in done or not is_sequence(module):
                continue
            line = lay(module, free, done, self._pool, self._keep)
            if line is None:
                continue
            self.lines.append(line)
            for block in line.blocks:
                block.whole.register_post_accumulate_grad_hook(block.arrived)  # type: ignore[no-untyped-call]
            line.enter()
            self._way_back.append(line.leave)

    def _pack(self, free: set[int]) -> None:
        """Let the optimizer train blocks in place of their members."""
        if type(self.optimizer) not in ELEMENTWISE:
            return
        alike: dict[Any, list[nn.Parameter]] = {}
        for at, group in enumerate(self.optimizer.param_groups):
            for p in group["params"]:
                if id(p) in free:
                    alike.setdefault((at, p.shape, p.dtype), []).append(p)
        self._packed = packed = Packed(optimizer=self.optimizer)
        self._way_back.append(packed.release)
        for block in self.blocks:
            packed.take(block)
        for members in alike.values():
            if len(members) >= DEEP and len({id(p) for p in members}) == len(members):
                self._keep(Block.lend(members))
                if not packed.take(self.blocks[-1]):
                    self._way_back.pop()()
                    self.blocks.pop()
        packed.enter()

    def _keep(self, block: Block) -> None:
        self.blocks.append(block)
        self._way_back.append(block.give_back)

    def _fuse(self, group: dict[str, Any], modules: list[nn.Module]) -> None:
        """Let one group be stepped by torch's fused kernel."""
        if (
            type(self.optimizer) not in FUSED
            or group.get("fused")
            or group.get("capturable")
            or group.get("differentiable")
            or not isinstance(group["lr"], float)
            or not any(p is block.whole for block in self.blocks for p in group["params"])
            or any(p.device.type != "cpu" or p.dtype not in (torch.float32, torch.float64)
                   or p.layout is not torch.strided for p in group["params"])
            or any(getattr(module, "sparse", False) for module in modules)
        ):  # fmt: skip
            return
        saved: dict[str, Any] = {key: group[key] for key in ("fused", "foreach") if key in group}
        own = dict(vars(self.optimizer))
        group.update(fused=True, foreach=None)

        def back() -> None:
            group.update(saved)
            if "_need_device_dtype_check_for_fused" not in own:  # SGD notes it in a step
                vars(self.optimizer).pop("_need_device_dtype_check_for_fused", None)

        self._way_back.append(back)

    def _before_step(self) -> None:
        """Bring every gradient to where the optimizer looks for it."""
        self.stepped = True
        if self._packed is not None and not all(
            block.gather(self._pool) for block in self._packed.blocks
        ):
            self.release()  # some parameters have no part in this step: each for itself


@contextmanager
def express(model: nn.Module, optimizer: Optimizer) -> Iterator[Express]:
    """Train a model faster within the block, if it is deep."""
    lent = Express(model=model, optimizer=optimizer)
    try:
        lent.engage()
        yield lent
    finally:
        lent.release()


def _ordinary(modules: list[nn.Module]) -> bool:
    """Whether the modules run here, as they are written, and for this process alone."""
    return not (
        (torch.distributed.is_available() and torch.distributed.is_initialized())
        or any(isinstance(m, torch.jit.ScriptModule) or "_orig_mod" in m._modules for m in modules)
    )


def _hooks_of(optimizer: Optimizer) -> list[Any]:
    """What acts before the steps of an optimizer; a stranger's hook behind them counts, too."""
    ahead = [
        *hooks._global_optimizer_pre_hooks.values(),
        *optimizer._optimizer_step_pre_hooks.values(),
    ]
    behind = len(hooks._global_optimizer_post_hooks) + len(optimizer._optimizer_step_post_hooks)
    return [*ahead, *[None] * (behind - len(ahead))]
