"""How a model of a script began: a full look at its first step, with what trains it.

A remedy needs more than a run's tables: the model's operations, its modules, its optimizer's
options as they were before the first step. They are taken once for each model, at its first step.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from torch import nn
from torch.optim import Optimizer

from gradmend.engine.watching.batches import HeardLoss
from gradmend.engine.watching.calls import HeldCall
from gradmend.probe.layout import modules_of, optimizer_of
from gradmend.probe.look import FLOAT64_LIMIT
from gradmend.probe.loss_again import Again
from gradmend.probe.source import construction_of
from gradmend.records.layout import ModuleFacts, OptimizerFacts
from gradmend.records.script import Place
from gradmend.records.trace import Trace

MOST_MODELS = 4
"""Models of one script whose first step is looked at: each takes a full look (our choice)."""
SAME_LOSS = 0.2
"""Share by which the loss made again may differ from the run's: dropout draws other masks in
float64. Beyond it something stood between the function and backward (our choice)."""


@dataclass(frozen=True, kw_only=True)
class Beginning:
    """One model's first step."""

    root: nn.Module
    """Held: where the script's own code has ended, it is looked at all the same."""
    kind: str
    """Its class."""
    step: int
    trace: Trace | None
    """The look; ``None`` where none was possible."""
    why_not: str
    """Then why."""
    own_loss: bool
    """Whether the look's loss is the script's; else the cotangents stood in for it."""
    has_data: bool
    """Whether it was fed data, all of the step's, and nothing that another model had put out."""
    modules: tuple[ModuleFacts, ...]
    optimizer: OptimizerFacts
    optimizer_number: int
    """Its column in the run's table of steps."""
    place: Place | None
    optimizer_place: Place | None
    module_places: dict[str, Place]
    call: HeldCall
    loss: Again | None

    def look_now(self, step: int) -> Trace | None:
        """Look at the same batch again, with the weights as they are now."""
        if self.trace is None or self.call.why_not() is not None:
            return None
        loss = self.loss if self.own_loss else None
        return self.call.look_again(precision="auto", step=step, loss=loss)


def beginning_of(
    call: HeldCall,
    optimizer: Optimizer,
    *,
    number: int,
    step: int,
    calls: Sequence[HeldCall],
    heard: Iterable[HeardLoss],
    losses: Sequence[float],
    taken: Trace | None,
    trained: bool,
) -> Beginning:
    """Look at a model on a call of its first step, before the optimizer steps.

    Args:
        call: The call, with the cotangents that backward brought.
        optimizer: The one that is about to step.
        number: Its column.
        step: Of the run.
        calls: All of the iteration, to tell data from what models put out.
        heard: Loss calls of the iteration.
        losses: What backward was called on.
        taken: The look that was just taken of this call, if any: none is taken twice.
        trained: Whether the optimizer had a state before the run's first step.
    """
    root = call.root()
    assert root is not None
    inner = getattr(root, "_orig_mod", root)
    same = [each for each in calls if each.root() is root and each.was_trained]
    made = frozenset[int]().union(*(each.made for each in (*same, call)))
    own = [each for each in heard if each.again is not None and each.again.place in made]
    alone = len(same) < 2  # a critic is fed what is real and what is not, one after the other
    loss = own[0].again if alone and len(own) == 1 and len(losses) < 2 else None
    trace, why_not, own_loss = None, _impossible(call, inner), False
    if call.loss_output is not None:
        loss = None
    if not why_not:
        trace, why_not, own_loss = _look(call, loss, losses, step, taken)
    if trace is not None and trace.run.loss is None:
        total = math.fsum(losses) if losses and all(map(math.isfinite, losses)) else math.nan
        known = tuple(each.look() for each in own) if not trace.losses else trace.losses
        run = replace(trace.run, loss=total if losses else None)
        trace = replace(trace, run=run, losses=known)
    places = {path: construction_of(module) for path, module in inner.named_modules()}
    return Beginning(
        root=root,
        kind=type(inner).__name__,
        step=step,
        trace=trace,
        why_not=why_not,
        own_loss=own_loss,
        has_data=alone and call.has_data(calls),
        modules=trace.modules if trace is not None else modules_of(inner),
        optimizer=replace(optimizer_of(optimizer, inner), steps_taken=trained),
        optimizer_number=number,
        place=construction_of(inner),
        optimizer_place=construction_of(optimizer),
        module_places={path: place for path, place in places.items() if place is not None},
        call=call,
        loss=loss,
    )


def _impossible(call: HeldCall, root: nn.Module) -> str:
    size = sum(p.numel() for p in root.parameters())
    if size > FLOAT64_LIMIT:
        return f"the model has {size:,} parameters, beyond {FLOAT64_LIMIT:,}"
    return call.why_not() or ""


def _look(
    call: HeldCall,
    loss: Again | None,
    losses: Sequence[float],
    step: int,
    taken: Trace | None,
) -> tuple[Trace | None, str, bool]:
    """(the look, why there is none, whether its loss is the script's own)."""
    if loss is not None:
        try:
            trace = call.look_again(precision="auto", step=step, loss=loss)
        except Exception:  # the user's forward, on copies and in another number format
            trace = None
        if trace is not None and (not losses or _same(trace.run.loss, losses[0])):
            return trace, "", True
    try:
        known = taken if taken is not None else call.look_again(precision="auto", step=step)
        return known, "", call.loss_output is not None
    except Exception as error:  # as above
        text = " ".join(str(error).split())[:160]
        return None, f"{type(error).__name__}: {text}", False


def _same(made: float | None, run: float) -> bool:
    """Whether a loss made again is the run's."""
    if made is None or not math.isfinite(made) or not math.isfinite(run):
        return made is not None and math.isfinite(made) == math.isfinite(run)
    return abs(made - run) <= SAME_LOSS * abs(run)
