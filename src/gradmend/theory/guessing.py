"""What a guess costs: the loss of equal odds or of the targets' mean, beside a run's own losses."""

from __future__ import annotations

import math

import numpy as np

from gradmend.records.history import History
from gradmend.records.loss_call import REGRESSIONS, LossCall
from gradmend.records.trace import Trace
from gradmend.theory.targets import firsts, heard, regressions_of
from gradmend.theory.windows import ENOUGH, FEWEST, loss_course, spread
from gradmend.theory.wiring import loss_tails

_CLASSIFIES = {"cross_entropy", "nll_loss", "log_softmax"}
LEFT = 0.9
"""Of the loss of a guess, below which a run has learned something (our choice)."""


def loss_over_guess(trace: Trace, logits: float) -> float:
    """The first loss over that of a guess, where the outputs are far too large; else 0.

    Args:
        trace: One look.
        logits: Standard deviation of logits, or rms of outputs over that of their targets, from
            which they are; a summed loss is large without it.
    """
    names = {op.name for op in trace.operations[-4:]}
    last = trace.weights[-1] if trace.weights else None
    if trace.run.loss is None or last is None or last.weights is None or last.signal is None:
        return 0.0
    guess: float | None = None
    calls = [call for call in trace.losses if call.function]
    if names & _CLASSIFIES and last.weights.fan_out > 1:
        if last.signal.mean_square - last.signal.mean**2 >= logits**2:
            guess = math.log(last.weights.fan_out)
    elif len(calls) == 1:
        guess = _if_wide(calls[0], logits)
    elif not calls and len(by_hand := regressions_of(trace)) == 1:
        spread, rms = by_hand[0].target.std, by_hand[0].target.rms
        if last.signal.mean_square >= (logits * rms) ** 2:
            guess = spread**2
    over = trace.run.loss / guess if guess else 0.0
    return over if math.isfinite(over) else 0.0


def loss_of_a_guess(history: History) -> float | None:
    """ln(classes) where a run's loss is a cross entropy."""
    for tail in loss_tails(history):
        for operation in tail.operations:
            shape = operation.shape
            if operation.op in ("log_softmax", "_log_softmax") and shape and shape[-1] > 1:
                return math.log(shape[-1])
    return None


def loss_beside_wide_outputs(history: History, logits: float) -> float | None:
    """What a guess costs by a run's only loss function, where its first outputs are too large.

    Args:
        history: The run.
        logits: As in :func:`loss_over_guess`.
    """
    calls = firsts(history)
    return _if_wide(calls[0], logits) if len(calls) == 1 else None


def stays_at_a_guess(history: History) -> bool:
    """Whether a loss that fell, or did not, ends where that of a guess is.

    A regression falls at first as its outputs find the targets' mean, and has learned nothing.
    """
    calls, courses = heard(history), loss_course(history)
    if len(calls) != 1 or len(courses) != 1 or len(courses[0].values) < ENOUGH:
        return False
    guesses = [_if_wide(call, 0.0) for _, call in next(iter(calls.values()))]
    known = [guess for guess in guesses if guess is not None]
    return bool(known) and courses[0].last >= LEFT * min(known)


UNLEARNED = 0.75
"""Of the loss of a guess, above which one that has not moved has learned nothing: what a guess
costs is known from one batch only (our choice)."""
HEADS = 5.0
"""Times the loss of a guess that a loss may have, for what is added to a loss and cannot be heard:
terms written by hand, several heads of one function (our choice)."""


def is_worse_than_a_guess(history: History) -> bool:
    """Whether a run ends with a loss far above a guess's: what fell so far has not learned."""
    share = _share_of_a_guess(history)
    return share is not None and share > HEADS


def is_near_a_guess(history: History) -> bool:
    """Whether a run that has been long enough ends with little less than a guess's loss."""
    share = _share_of_a_guess(history)
    if share is None or not share >= UNLEARNED:
        return False
    return len(loss_course(history)[0].values) >= ENOUGH


def _share_of_a_guess(history: History) -> float | None:
    """A run's last losses over that of a guess; ``None`` where its one function is no mean."""
    calls, courses = heard(history), loss_course(history)
    if len(calls) != 1 or len(courses) != 1:
        return None
    guesses = [_if_wide(call, 0.0) for _, call in next(iter(calls.values()))]
    known = [guess for guess in guesses if guess is not None]
    return courses[0].last / max(known) if known and len(known) == len(guesses) else None


STILL = 0.05
"""Fall of the loss over its first losses, below which a rehearsal has not moved it (our choice)."""


def stuck_at_a_guess(trace: Trace) -> bool:
    """Whether the run's own optimizer was rehearsed, and its loss stayed where a guess has it.

    Not one that fell to that of a guess: a regression begins by finding the targets' mean.
    """
    rehearsed, guess = trace.rehearsed, loss_of_guessing(trace)
    if rehearsed is None or not rehearsed.own_optimizer or guess is None:
        return False
    losses = rehearsed.losses
    if len(losses) < ENOUGH or (trace.optimizer is not None and trace.optimizer.scheduled):
        return False
    early, late = np.array(losses[:FEWEST]), np.array(losses[-len(losses) // 2 :])
    begin, end = float(np.median(early)), float(np.median(late))
    # A median's standard error is 1.25 times a mean's.
    noise = 1.25 * math.hypot(*(spread(part) / math.sqrt(len(part)) for part in (early, late)))
    return end >= UNLEARNED * guess and begin - end <= max(STILL * begin, 2.0 * noise)  # NaN is not


TRAINED = 0.5
"""Of the loss of a guess, below which a model knows its task before the first step (our choice: a
drawn network's first loss is at or above a guess, whatever the task)."""


def loss_of_guessing(trace: Trace) -> float | None:
    """What a guess costs by the look's only loss function; ``None`` where that is not known."""
    guesses = [_if_wide(call, 0.0) for call in trace.losses]
    return guesses[0] if len(guesses) == 1 and guesses[0] else None


def below_a_guess(trace: Trace) -> bool:
    """Whether a look's loss is far below what a guess costs: the model has been trained."""
    guess, loss = loss_of_guessing(trace), trace.run.loss
    return guess is not None and loss is not None and loss < TRAINED * guess


def _if_wide(call: LossCall, logits: float) -> float | None:
    """What a guess costs by a loss function, where the outputs are as large; else ``None``."""
    outputs, target = call.prediction, call.target
    if outputs is None or call.reduction != "mean" or call.weighted:
        return None
    if call.function == "cross_entropy":
        classes = outputs.shape[1] if len(outputs.shape) > 1 else 0
        return math.log(classes) if classes > 1 and outputs.std >= logits else None
    if call.function == "binary_cross_entropy_with_logits":
        return math.log(2.0) if outputs.std >= logits else None
    if call.function not in REGRESSIONS or not outputs.rms >= logits * target.rms:
        return None
    # The mean distance of normal numbers from their middle is 0.8 deviations.
    guess = target.std**2 if call.function == "mse_loss" else 0.8 * target.std
    return guess if guess > 0.0 else None


def first_loss(history: History) -> float | None:
    """The first measured one of the only optimizer."""
    table = history["step"]
    if len(table.columns) != 1:
        return None
    losses = table.series("loss", 0)[1]
    return float(losses[0]) if len(losses) and math.isfinite(losses[0]) else None


def last_loss(history: History) -> float:
    """The median of the last ones of the only optimizer."""
    losses = history["step"].series("loss", 0)[1]
    return float(np.median(losses[-FEWEST:])) if len(losses) else math.nan
