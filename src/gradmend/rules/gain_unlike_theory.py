"""GRF105: a layer that passes the gradient on otherwise than its weights' statistics say."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a difference between measurement and theory is news."""

    note_decades: float = limit(
        1.0,
        unit="decades",
        source="finite width moves one layer's gain by log10(e) sqrt(5 / 2n) at most (Hanin 2018):"
        " 0.12 decades at 64 units, 0.31 at ten classes; one decade is three times that",
    )
    warning_decades: float = limit(
        3.0,
        unit="decades",
        source="a thousandfold in one layer: AutoTrainer calls that vanishing (Zhang et al. 2021)",
    )


@rule(
    code="GRF105",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=2, activation="tanh", init="constant"),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="tanh"),
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=24, activation="relu", init="normal", gain=1.414),
        Case.of("cnn", depth=6),
        Case.of("transformer"),
    ],
)
def gain_unlike_theory(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Layer whose measured gain differs by decades from what its weights' statistics predict.

    What it finds:
        Linear maps through which the gradient grows or shrinks quite otherwise than it would
        through independent weights of the same size: weights all equal, of rank one, or trained
        into a direction that the gradient avoids. A symptom: it ranks below every cause.

    Why it matters:
        Initialisation, clipping and learning rates are chosen by the size of weights. Where size
        says nothing about the gain, those choices are wrong by the difference.

    How it is measured:
        The ledger's own gain of each linear map against log10 sqrt(sum w^2 / fan_out), the gain
        of a gradient independent of the weights.

    Silent when:
        They agree within a decade; most of the gradient goes another way; or the gain is
        exactly zero, which other rules tell.

    References:
        Schoenholz et al. 2017 (gradients independent of weights); Hanin 2018 (finite width).
    """
    far = []
    for op in trace.weights:
        if op.own_decades is None or op.predicted is None or op.share < 0.5:
            continue
        difference = op.own_decades - op.predicted
        if math.isfinite(difference) and abs(difference) >= limits.note_decades:
            far.append((abs(difference), op))
    if not far:
        return
    worst, op = max(far, key=lambda pair: pair[0])
    assert op.own_decades is not None and op.predicted is not None
    serious = worst >= limits.warning_decades
    yield Finding(
        code="GRF105",
        name="gain-unlike-theory",
        severity=Severity.WARNING if serious else Severity.NOTE,
        modules=tuple(dict.fromkeys(o.module for _, o in far)),
        source=op.source,
        summary=(
            f"{op.module or 'a linear map'} changes the gradient by {op.own_decades:+.1f} decades;"
            f" independent weights of its size would by {op.predicted:+.1f}"
        ),
        evidence=(
            Evidence(
                quantity="measured less predicted gain",
                observed=op.own_decades - op.predicted,
                limit=limits.warning_decades if serious else limits.note_decades,
                unit="decades",
                module=op.module,
            ),
        ),
        confidence=0.5,
        weight=worst,
        explains=("vanishing-gradient", "exploding-gradient"),
        exculpation="a gain within a decade of theory",
        symptom=True,
    )
