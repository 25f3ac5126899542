"""OPT227: an eps that the numbers it is added to cannot bear."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.formats import UnknownNumberFormat, number_format


@dataclass(frozen=True)
class Limits:
    """When eps is too small or too large."""

    smallest: float = limit(
        0.5,
        unit="1",
        source="of the format's smallest number: below half of it eps rounds to zero",
    )
    share: float = limit(
        0.75, unit="share", source="of the optimizer's weight matrices with a gradient below eps"
    )
    below: float = limit(
        1.0,
        unit="decades",
        source="of the gradient below eps: a step is then a tenth of what the rate says",
    )


@rule(
    code="OPT227",
    rehearsed=False,
    limits=Limits,
    fires_on=[
        Case.of("half", eps=1e-8),
        Case.of("tiny_loss", scale=1e-9),
    ],
    silent_on=[
        Case.of("half", eps=1e-4),
        Case.of("tiny_loss", scale=1e-3),
        Case.of("converged"),
        Case.of("perceptron", optimizer="Adam"),
    ],
)
def unsuited_epsilon(history: History, limits: Limits) -> Iterator[Finding]:
    """Adam's eps that rounds to zero in half precision, or that is larger than the gradients.

    What it finds:
        Adam and its kin over float16 parameters with an eps that float16 rounds to zero; and
        optimizers most of whose gradients are a tenth of eps or less while nothing is learned.

    Why it matters:
        A step divides by sqrt(v) + eps. Where eps is zero and so is v, 0 / 0 makes the weight NaN
        at the first step. Where eps is the larger one, the step shrinks with the gradient, and
        Adam is plain momentum with a tiny rate.

    How it is measured:
        eps against the smallest number of the parameters' format; log10 rms of the gradients
        against eps over the recent window.

    Silent when:
        The state is kept in float32; the loss has fallen, as in a run that has converged.

    References:
        Kingma and Ba 2015; google-deepmind/optax#1754; pytorch/pytorch#40497; glide-finetune#5.
    """
    table = history["gradient"]
    matrices = windows.matrices(table.columns)
    sizes = windows.lasting(table, "log10_rms", 0.75)
    for place, optimizer in enumerate(history["step"].columns):
        eps = optimizer.facts.get("eps")
        if optimizer.kind not in windows.SCALE_FREE or not isinstance(eps, float) or eps <= 0.0:
            continue
        coarse = [
            c
            for c in table.columns
            if c.facts.get("optimizer", 0) == place and _zero(eps, c, limits)
        ]
        at = windows.of_optimizer(table.columns, matrices, place)
        known = sizes[at][np.isfinite(sizes[at])]
        small = known <= np.log10(eps) - limits.below
        if coarse:
            broken = any(True for _ in history.of_kind("non-finite"))
            yield _finding(
                history,
                Severity.ERROR if broken else Severity.WARNING,
                coarse[0],
                f"{optimizer.name}'s eps of {eps:g} is zero in {coarse[0].dtype}: no gradient"
                f" makes 0 / 0 of {windows.count_of(len(coarse), 'parameter')}; 1e-4 would do",
                eps,
                limits.smallest * number_format(coarse[0].dtype).min_subnormal,
            )
        elif len(known) and np.mean(small) >= limits.share and windows.learned(history) is False:
            typical = windows.times(np.median(known))
            yield _finding(
                history,
                Severity.WARNING,
                None,
                f"the gradients, {typical:.1e} at the median, are far below {optimizer.name}'s eps"
                f" of {eps:g}: its steps are {typical / eps:.1g} of what the learning rate says",
                typical,
                eps / 10.0**limits.below,
            )


def _zero(eps: float, column: Column, limits: Limits) -> bool:
    try:
        smallest = number_format(column.dtype).min_subnormal
    except UnknownNumberFormat:  # quantised, complex, whole numbers
        return False
    return bool(column.facts.get("trainable", True)) and eps < limits.smallest * smallest


def _finding(
    history: History,
    severity: Severity,
    column: Column | None,
    summary: str,
    observed: float,
    limit: float,
) -> Finding:
    return Finding(
        code="OPT227",
        name="unsuited-epsilon",
        severity=severity,
        modules=(column.module,) if column is not None else (),
        source=column.source if column is not None else None,
        summary=summary,
        evidence=(
            Evidence(
                quantity="eps" if column is not None else "gradient",
                observed=observed,
                limit=limit,
                step=history.step,
            ),
        ),
        weight=1001.0 if column is not None else 5.0,
        explains=("non-finite-value", "loss-plateau", "learning-rate-too-low", "stalled-layers"),
        exculpation="an eps between the smallest number of the format and the gradients",
    )
