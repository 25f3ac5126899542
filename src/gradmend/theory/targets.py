"""Targets and outputs at the loss: queries that rules over looks and runs share."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from gradmend.records.history import Event, History
from gradmend.records.loss_call import REGRESSIONS, LossCall
from gradmend.records.trace import Operation, Trace
from gradmend.theory.wiring import LossTail, loss_tails

DIFFERENCES = frozenset({"sub", "rsub"})


def heard(history: History) -> dict[str, list[tuple[int, LossCall]]]:
    """Loss calls by function, each with its step, in order; those told for a jump left out."""
    found: dict[str, list[tuple[int, LossCall]]] = {}
    for event in history.of_kind("loss-call"):
        if not event.facts.get("why"):
            found.setdefault(event.where, []).append((event.step, LossCall.of(event.facts)))
    return found


def firsts(history: History) -> list[LossCall]:
    """The first call of each loss function."""
    return [calls[0][1] for calls in heard(history).values()]


def losses_of_step(history: History) -> int:
    """Loss calls that one step makes, as far as they were told."""
    return len(heard(history))


def regressions(calls: Iterable[LossCall]) -> list[LossCall]:
    """Those that compare an output with a target of numbers."""
    return [call for call in calls if call.function in REGRESSIONS]


def tail_of(trace: Trace) -> tuple[Operation, ...]:
    """Operations behind the last linear map, in forward order."""
    if not trace.weights:
        return trace.operations
    last = max(op.id for op in trace.weights)
    return tuple(op for op in trace.operations if op.id > last)


OF_A_CLASSIFIER = frozenset(
    {"log_softmax", "cross_entropy", "nll_loss", "nll_loss2_d", "nll_loss_nd"}
    | {"binary_cross_entropy_with_logits"}
)
"""Operations with which a classifier's loss begins, wherever it is computed."""


def before_the_loss(trace: Trace) -> tuple[Operation, ...]:
    """Operations of the model between its last linear map and a classifier's loss.

    Models that return their loss, as language models do, have it inside.
    """
    found: list[Operation] = []
    for op in tail_of(trace):
        if not op.inside or op.name in OF_A_CLASSIFIER:
            break
        found.append(op)
    return tuple(found)


def regression_by_hand(trace: Trace) -> bool:
    """Whether the loss is written by hand and begins with a difference."""
    names = {op.name for op in tail_of(trace)}
    return bool(names & DIFFERENCES) and not names & {"log_softmax", "softmax", "exp"}


def regressions_of(trace: Trace) -> list[LossCall]:
    """A look's regressions: heard ones, and the batch's targets of one written by hand."""
    found = regressions(trace.losses)
    if not found and regression_by_hand(trace):
        found = [
            call for call in trace.losses if not call.function and "float" in call.target.dtype
        ]
    return found


def output_module(trace: Trace) -> tuple[str, ...]:
    """Path of the last linear map before the loss."""
    return (trace.weights[-1].module,) if trace.weights else ()


def output_modules(history: History) -> tuple[str, ...]:
    """Path of the last module that put something out."""
    columns = history["output"].columns
    if not columns:
        return ()
    last = max(columns, key=lambda column: column.order)
    return (last.module,) if last.module else last_linear(history)


def last_linear(history: History) -> tuple[str, ...]:
    """Path of the last module that holds a weight matrix."""
    known = [
        column
        for column in history["gradient"].columns
        if len(column.shape) > 1 and column.facts.get("registered", True)
    ]
    if not known:
        return ()
    last = max(known, key=lambda column: column.order)
    return (last.module,) if last.module else ()


def output_rms(history: History) -> float:
    """Root mean square of the last output when it was first measured; NaN if not."""
    table = history["output"]
    if not table.columns:
        return math.nan
    at = int(np.argmax([column.order for column in table.columns]))
    first = float(table.first("log10_rms")[at])
    return 10.0**first if math.isfinite(first) else math.nan


def broke(history: History) -> bool:
    """Whether NaN or infinity was met."""
    return any(True for _ in history.of_kind("non-finite"))


def first_broken(history: History) -> Event | None:
    """Where NaN or infinity was first met."""
    return next(history.of_kind("non-finite"), None)


def squared_by_hand(history: History) -> bool:
    """Whether a loss is a mean of squared differences, written by hand."""
    for tail in loss_tails(history):
        ops = [tail.operations[at].op for at in tail.by_hand]
        if ops and ops[0] in ("mean",) and "pow" in ops and DIFFERENCES & set(ops):
            return True
    return False


def divided(tail: LossTail) -> bool:
    """Whether the last thing that was done to a loss is a division or a multiplication."""
    return tail.root is not None and tail.operations[tail.root].op in ("div", "mul")
