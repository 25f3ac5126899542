"""REC222: a recurrence that multiplies its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.guessing import first_loss, loss_beside_wide_outputs
from gradmend.theory.repeated import repeated_modules


@dataclass(frozen=True)
class Limits:
    """When a recurrence explodes."""

    span: float = limit(
        3.0,
        unit="decades",
        source="of the gradient's size from the last time step to the first; healthy layers of our "
        "trainings stay below 1",
    )
    broken_span: float = limit(
        2.0,
        unit="decades",
        source="the same before the first step, in a run that came to NaN or began far above a "
        "guess: midway between that and healthy layers",
    )
    loss_over_chance: float = limit(
        3.0, unit="1", source="first loss over that of a guess, as in init-gain-too-large"
    )
    outputs: float = limit(
        5.0, unit="1", source="size of the first outputs, as in init-gain-too-large"
    )
    error_span: float = limit(
        6.0,
        unit="decades",
        source="beyond what a clipped step can hold apart: float32 has 7 digits",
    )


_EXPLAINS = (
    "exploding-gradient",
    "init-gain-too-large",
    "residual-growth",
    "loss-plateau",
    "loss-spike",
    "diverging-loss",
    "update-norm-spike",
    "clip-too-tight",
    "non-finite-value",
    "learning-rate-too-high",
)


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    table = history["recurrence"]
    if not len(table):
        return
    span = windows.lasting(table, "log10_span", 0.25, fewest=windows.FEW)
    span = np.where(np.isposinf(span), 99.0, span)
    least = limits.span
    if _began_too_large(history, limits):
        span, least = table.first("log10_span"), limits.broken_span
    guilty = np.flatnonzero(span >= least)
    if not len(guilty):
        return
    worst = int(guilty[np.argmax(span[guilty])])
    column, decades = table.columns[worst], float(span[worst])
    radius, gain = (
        table.first(name)[worst]
        if least < limits.span
        else windows.lasting(table, name, fewest=windows.FEW)[worst]
        for name in ("spectral_radius", "log10_gain")
    )
    yield Finding(
        code="REC222",
        name="gradient-grown-through-time",
        severity=(
            Severity.ERROR
            if decades >= limits.error_span or least < limits.span
            else Severity.WARNING
        ),
        modules=tuple(dict.fromkeys(table.columns[i].module for i in guilty)),
        source=column.source,
        summary=(
            f"the gradient of {column.module or column.name} grows by {decades:.1f} decades from"
            " the last time step to the first"
            + (f", {windows.times(gain):.2g} times per step" if np.isfinite(gain) else "")
            + (
                f"; the spectral radius of its recurrent weights is {radius:.2g}"
                if np.isfinite(radius)
                else ""
            )
        ),
        evidence=(
            Evidence(
                quantity="decades over the sequence",
                observed=decades,
                limit=least,
                unit="decades",
                module=column.module,
                step=history.step,
            ),
        ),
        weight=min(decades, 12.0),
        explains=_EXPLAINS,
        exculpation="less growth",
    )


def _began_too_large(history: History, limits: Limits) -> bool:
    """Whether the run came to NaN, or its first loss was far above that of a guess."""
    if any(True for _ in history.of_kind("non-finite")):
        return True
    first, guess = first_loss(history), loss_beside_wide_outputs(history, limits.outputs)
    return first is not None and guess is not None and first >= limits.loss_over_chance * guess


@rule(
    code="REC222",
    limits=Limits,
    fires_on=[Case.of("unrolled", gain=3.0, activation="relu")],
    silent_on=[
        Case.of("unrolled"),
        Case.of("unrolled", gain=0.2),
        Case.of("recurrent"),
        Case.of("shared"),
    ],
    live=_live,
    live_fires_on=[Case.of("long_memory", cell="relu", gain=3.0)],
    live_silent_on=[
        Case.of("long_memory", cell="lstm"),
        Case.of("long_memory", cell="tanh", gain=1.0),
        Case.of("long_memory", cell="tanh", gain=0.3),
    ],
)
def gradient_grown_through_time(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Recurrent layers whose gradient grows on its way back through time.

    What it finds:
        Recurrent layers in which dL/dh is three decades larger at the first time step than at the
        last, lastingly; or two before the first step, in a run that came to NaN or that began far
        above a guess.

    Why it matters:
        The step is decided by the first time steps alone; clipping keeps it finite and throws
        away everything else, and without it one sequence is enough for NaN.

    How it is measured:
        The size of dL/dh_t by time step, a low rank over the recent window. In one look at modules
        that a loop calls again and again.

    Silent when:
        It grows less; single sequences make it spike.

    References:
        Pascanu, Mikolov, Bengio 2013; pytorch/pytorch#2623.
    """
    for found in repeated_modules(trace):
        if not found.span >= limits.span:
            continue
        yield Finding(
            code="REC222",
            name="gradient-grown-through-time",
            severity=Severity.ERROR if found.span >= limits.error_span else Severity.WARNING,
            modules=(found.module,),
            source=found.source,
            summary=(
                f"the gradient of {found.module or 'the model'} grows"
                f" {windows.times(found.per_call):.2g} times at each of its"
                f" {len(found.log10_grad)} calls back, {found.span:.1f} decades in all"
            ),
            evidence=(
                Evidence(
                    quantity="decades over the calls",
                    observed=found.span,
                    limit=limits.span,
                    unit="decades",
                    module=found.module,
                ),
            ),
            weight=min(found.span, 12.0),
            explains=_EXPLAINS,
            exculpation="less growth",
        )
