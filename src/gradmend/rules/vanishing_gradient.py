"""GRF102: the symptom, for when no cause was found."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Floats, History, Table
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.guessing import is_near_a_guess


@dataclass(frozen=True)
class Limits:
    """When a gradient has vanished."""

    decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train, seven (6.0) do not: microsoft/CNTK#476",
    )
    epsilons: float = limit(
        1.0,
        unit="1",
        source="Adam divides by |g| + eps: below eps the step shrinks with the gradient again",
    )
    faded: float = limit(
        3.0,
        unit="decades",
        source="fallen since the first steps, beside the last layer's, while a loss stays near a"
        " guess: Adam divides by a mean over 1 / (1 - 0.999) steps, so that its steps are as many"
        " times smaller in the meantime as the gradient is",
    )
    share: float = limit(
        0.5, unit="share", source="of the weight matrices whose gradient has fallen: our choice"
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["gradient"]
    if not len(table):
        return
    exact = windows.lasting(table, "state") == 1
    upper = _per_used_entry(table, 0.75, exact)
    lower = _per_used_entry(table, 0.25, exact)
    for (optimizer, _), at in windows.by_group(
        table.columns, windows.matrices(table.columns)
    ).items():
        layers, decades = windows.lost_prefix(upper[at], lower[at], limits.decades)
        enough = _made_up_for(history, optimizer, limits)
        lost = [int(i) for i in at[:layers] if exact[i] or upper[i] <= enough]
        if not any(upper[i] <= enough for i in lost):
            yield from _faded(history, at, upper, limits)
            continue
        zero = sum(bool(exact[i]) for i in lost)
        first = table.columns[lost[0]]
        yield Finding(
            code="GRF102",
            name="vanishing-gradient",
            severity=Severity.ERROR,
            modules=tuple(dict.fromkeys(table.columns[i].module for i in lost)),
            source=first.source,
            summary=(
                f"the gradient of the first {len(lost)} weight matrices of {len(at)}"
                f" stays {decades:.1f} decades below that of the later ones"
                + (f"; in {zero} it is exactly zero" if zero else "")
            ),
            evidence=(
                Evidence(
                    quantity="decades lost",
                    observed=decades,
                    limit=limits.decades,
                    unit="decades",
                    module=first.module,
                    step=history.step,
                ),
            ),
            weight=decades,
            explains=("stalled-layers", "loss-plateau"),
            exculpation="fewer decades, or an optimizer that makes up for them",
            symptom=True,
        )


def _faded(
    history: History, at: windows.Indices, upper: Floats, limits: Limits
) -> Iterator[Finding]:
    """A gradient that was there at first and has gone since, from layers in the middle as well.

    An optimizer that divides by the size of the gradients so far makes up for what is small from
    the first step on, and not for what has become small.
    """
    table = history["gradient"]
    if len(at) < 2 or not is_near_a_guess(history):
        return
    fallen = windows.early(table, "log10_rms")[at] - upper[at]
    beyond = fallen - fallen[-1]
    faded = at[beyond >= limits.faded]  # NaN is not
    if len(faded) < limits.share * len(at):
        return
    most = float(np.nanmax(beyond))
    first = table.columns[faded[0]]
    yield Finding(
        code="GRF102",
        name="vanishing-gradient",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(table.columns[i].module for i in faded)),
        source=first.source,
        summary=(
            f"the gradient of {len(faded)} of {len(at)} weight matrices has fallen by up to"
            f" {most:.1f} decades since the first steps, that of the last one has not; the loss"
            " is near that of a guess"
        ),
        evidence=(
            Evidence(
                quantity="decades fallen since the first steps",
                observed=most,
                limit=limits.faded,
                unit="decades",
                module=first.module,
                step=history.step,
            ),
        ),
        weight=most,
        explains=("stalled-layers", "loss-plateau"),
        exculpation="a loss that falls below three quarters of a guess's",
        symptom=True,
    )


def _per_used_entry(table: Table, share: float, exact: windows.Bools) -> Floats:
    """Log10 rms over the entries that are not zero: rows of an embedding are used rarely.

    Layers whose gradient is exactly zero have none.
    """
    used = 1.0 - np.fmin(np.nan_to_num(windows.lasting(table, "zero_share")), 1.0 - 1e-12)
    sizes = windows.lasting(table, "log10_rms", share) - 0.5 * np.log10(used)
    return np.where(exact | ~np.isfinite(sizes), np.nan, sizes)


def _made_up_for(history: History, optimizer: int | None, limits: Limits) -> float:
    """Log10 of the gradient above which the optimizer still makes a step of the usual size."""
    columns = history["step"].columns
    if optimizer is None or optimizer >= len(columns):
        return np.inf
    column = columns[optimizer]
    if column.kind not in windows.SCALE_FREE:
        return np.inf
    eps = column.facts.get("eps")
    if not isinstance(eps, float) or eps <= 0.0:
        return -np.inf
    return float(np.log10(eps * limits.epsilons))


def _begins_at_zero(trace: Trace) -> bool:
    """Whether weights of zero stop the gradient at the first step, as a zero head does."""
    return trace.run.step == 0 and any(
        op.weights is not None and op.weights.mean_square == 0.0 for op in trace.weights
    )


@rule(
    code="GRF102",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=4, activation="relu", bad_layer=1, bad_bias=-30.0),
    ],
    silent_on=[
        Case.of("mlp", depth=3),
        Case.of("transformer"),
        Case.of("residual_mlp"),
        Case.of("recurrent"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("sigmoid_stack", depth=12),
        Case.of("post_norm_transformer"),
    ],
    live_silent_on=[
        Case.of("sigmoid_stack", depth=3),
        Case.of("post_norm_transformer", norm_first=True),
        Case.of("rare_embedding"),
        Case.of("low_rank_adapter"),
    ],
)
def vanishing_gradient(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Gradient that is lost between the outputs and the inputs.

    What it finds:
        Models whose gradient at the inputs is more than 5.5 decades smaller than at the outputs,
        or exactly zero. A symptom: it ranks below every cause that explains it.

    Why it matters:
        The layers near the input do not learn, and those behind them learn on noise.

    How it is measured:
        The ledger's total, relative to the model's own outputs, so that loss scale and reduction
        do not matter. Over a run: the gradients of the weight matrices over the recent window, a
        high rank of all the first ones against a low rank of the largest later one; and, while the
        loss stays near that of a guess, how far most of them have fallen since the first steps.

    Silent when:
        The loss is smaller than that; what exactly zero means is said apart; weights that begin
        at zero, as a head may, let it pass after the first steps. Over a run also
        while an optimizer that divides by the gradient's size (Adam) makes up for it: until the
        gradient is below its eps.

    References:
        Hochreiter 1991; Bengio, Simard, Frasconi 1994.
    """
    ledger = trace.ledger
    if ledger is None:
        return
    if ledger.blocked_by is not None and ledger.total_decades is None:
        if _begins_at_zero(trace):
            answer = trace.answer(Measurement.FEW_STEPS)
            if answer is None:
                yield Request(
                    code="GRF102",
                    name="vanishing-gradient",
                    measurement=Measurement.FEW_STEPS,
                    why=f"whether a gradient passes {ledger.blocked_by} once weights of zero move",
                )
                return
            if answer.trace.total_decades is not None:
                return
        yield Finding(
            code="GRF102",
            name="vanishing-gradient",
            severity=Severity.ERROR,
            modules=(ledger.blocked_by,),
            source=next(
                (o.source for o in trace.operations if o.module == ledger.blocked_by), None
            ),
            summary=f"the gradient becomes exactly zero in {ledger.blocked_by}",
            exculpation="any gradient at all",
            symptom=True,
        )
    elif ledger.total_decades is not None and ledger.total_decades <= -limits.decades:
        largest = min(ledger.by_cause.items(), key=lambda item: item[1], default=("other", 0.0))
        yield Finding(
            code="GRF102",
            name="vanishing-gradient",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"the gradient loses {-ledger.total_decades:.1f} decades on its way back, most of"
                f" them to {largest[0]}"
            ),
            evidence=(
                Evidence(
                    quantity="decades lost",
                    observed=-ledger.total_decades,
                    limit=limits.decades,
                    unit="decades",
                ),
            ),
            weight=-ledger.total_decades,
            exculpation="fewer decades",
            symptom=True,
        )
