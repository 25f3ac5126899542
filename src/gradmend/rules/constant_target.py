"""DAT205: targets that are the same for every sample."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.loss_call import LossCall, Values
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets
from gradmend.theory.windows import plain

NAMED = frozenset({"cross_entropy", "nll_loss"})
BINARY = frozenset({"binary_cross_entropy", "binary_cross_entropy_with_logits"})
KNOWN = NAMED | BINARY | {"mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss"}
EXPLAINS = ("loss-plateau", "vanishing-gradient", "stalled-layers", "collapsed-signal")


@dataclass(frozen=True)
class Limits:
    """When targets are constant."""

    samples: float = limit(
        16.0,
        unit="samples",
        source="all of one class by chance once in 2^15 batches where two classes are alike in"
        " number; below one in 20 is no rare class any more",
    )
    batches: float = limit(
        3.0, unit="batches", source="of a run, in a row: all that are told at the beginning"
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    if len(history["step"].columns) > 1 or history.run.rehearsal:
        return  # adversaries are handed all ones, and all zeros, by design
    by_function = targets.heard(history)
    if sum(name.split(".")[0] in KNOWN for name in by_function) != 1:
        return
    name, calls = next((n, c) for n, c in by_function.items() if n.split(".")[0] in KNOWN)
    recent = [call for _, call in calls[-int(limits.batches) :]]
    if len(recent) < limits.batches or not all(_is_constant(call, limits) for call in recent):
        return
    numbers = {call.target.commonest for call in recent}
    by_design = name in NAMED and numbers == {0.0}  # contrast: the first of many is the right one
    if by_design or (name not in NAMED | BINARY and numbers <= {0.0, 1.0}):
        return  # a residual, a penalty: made to be so
    yield _finding(recent[-1], numbers, limits, calls[-1][0])


def _is_constant(call: LossCall, limits: Limits) -> bool:
    target = call.target
    return target.constant and bool(target.shape) and target.shape[0] >= limits.samples


def _finding(call: LossCall, numbers: set[float], limits: Limits, step: int = 0) -> Finding:
    target = call.target
    samples = target.shape[0]
    if len(numbers) > 1:
        said = (
            f"the {samples} samples of each batch share one target, another in each batch: the data"
            " come sorted; shuffle them"
        )
    else:
        said = (
            f"the targets of all {samples} samples are {_value(target)}: there is nothing to tell"
            " apart; look at how the labels are read"
        )
    return Finding(
        code="DAT205",
        name="constant-target",
        severity=Severity.WARNING,
        modules=(),
        summary=said,
        evidence=(
            Evidence(
                quantity="samples with the same target",
                observed=float(samples),
                limit=limits.samples,
                unit="samples",
                step=step,
            ),
        ),
        weight=50.0,
        explains=EXPLAINS,
        exculpation="targets that differ between samples",
    )


def _value(target: Values) -> str:
    return "the same" if target.outputs > 1 else plain(target.commonest)


@rule(
    code="DAT205",
    limits=Limits,
    fires_on=[
        Case.of("labelled", labels="constant"),
        Case.of("labelled", labels="constant", loss="bce"),
        Case.of("fed_regressor", scale=0.0, shift=2.0),
        Case.of("fed_regressor", scale=0.0, shift=2.0, loss="by_hand"),
    ],
    silent_on=[
        Case.of("labelled"),
        Case.of("labelled", labels="rare"),
        Case.of("labelled", labels="constant", batch=8),
        Case.of("fed_regressor"),
        Case.of("mlp", depth=3, activation="relu", scale=1e-4),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_classifier", labels="constant"),
        Case.of("fed_classifier", labels="sorted"),
        Case.of("fed_regression", scale=0.0, shift=2.0),
    ],
    live_silent_on=[
        Case.of("fed_classifier"),
        Case.of("fed_classifier", labels="rare"),
        Case.of("fed_classifier", labels="contrast"),
        Case.of("fed_regression", scale=0.0),
        Case.of("adversaries"),
    ],
)
def constant_target(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Targets that are the same for all samples of a batch.

    What it finds:
        Batches of 16 samples and more whose targets are all alike; over a run, three batches in a
        row. Where they differ from batch to batch, the data come sorted by class.

    Why it matters:
        A constant is learned by the last bias alone: the loss falls to nothing, the rest of the
        network gets no direction. With sorted data each batch undoes what the one before taught.

    How it is measured:
        The targets that the loss is handed; in a look, the batch's own.

    Silent when:
        The batch is small, so that a rare class may be missing; targets are zeros or ones that
        the loop itself makes (adversaries, penalties, residuals, contrast with the first of many).

    References:
        Labels read from the wrong column or folder; loaders without shuffle.
    """
    for call in trace.losses:
        if call.function in KNOWN | {""} and _is_constant(call, limits):
            yield _finding(call, {call.target.commonest}, limits)
            return
