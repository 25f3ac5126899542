"""ACT201: dropout that leaves next to nothing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import standing


@dataclass(frozen=True)
class Limits:
    """When dropout is excessive."""

    p: float = limit(
        0.9,
        unit="probability",
        source="0.2 to 0.5 are usual (Srivastava et al. 2014); 0.9 is what a keep-probability of "
        "0.9 becomes when it is handed over as p",
    )
    error_p: float = limit(
        0.99, unit="probability", source="one unit in a hundred is left, scaled a hundredfold"
    )


@rule(
    code="ACT201",
    limits=Limits,
    fires_on=[Case.of("modes", p=0.95), Case.of("modes", p=0.99)],
    silent_on=[
        Case.of("modes", p=0.5),
        Case.of("modes", p=0.8),
        Case.of("modes", p=0.95, fault="eval"),
    ],
)
def excessive_dropout(history: History, limits: Limits) -> Iterator[Finding]:
    """Dropout with a probability near one.

    What it finds:
        Dropout modules in training mode with p >= 0.9.

    Why it matters:
        What is left is multiplied by 1 / (1 - p): the noise has p / (1 - p) times the signal's
        power, 9 at p = 0.9 and 99 at 0.99, and most gradients are exactly zero.

    How it is measured:
        The module's own p, or the argument of a call of ``torch.nn.functional.dropout``.

    Silent when:
        p is below 0.9, or the module is in evaluation mode.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014.
    """
    guilty = [
        (event, float(event.facts["p"]))
        for event in standing(history, "module-state").values()
        if event.facts.get("training") and event.facts.get("p") is not None
        if float(event.facts["p"]) >= limits.p
    ]
    if not guilty:
        return
    worst, p = max(guilty, key=lambda item: item[1])
    yield Finding(
        code="ACT201",
        name="excessive-dropout",
        severity=Severity.ERROR if p >= limits.error_p else Severity.WARNING,
        modules=tuple(dict.fromkeys(filter(None, (_module(event) for event, _ in guilty)))),
        summary=(
            f"{worst.where or 'the model'} drops {p:.0%} of its units and scales the rest"
            f" {_scale(p)}: p is the probability of dropping, not of keeping"
        ),
        evidence=(
            Evidence(
                quantity="dropout probability",
                observed=p,
                limit=limits.p,
                unit="probability",
                module=_module(worst),
                step=history.step,
            ),
        ),
        weight=100.0,
        explains=("loss-plateau", "vanishing-gradient", "stalled-layers", "oscillating-loss"),
        exculpation="a smaller p",
    )


def _module(event: Event) -> str:
    """The module that drops; of a call of a function, the one that calls it."""
    return event.where.rpartition(":")[0] if event.facts.get("function") else event.where


def _scale(p: float) -> str:
    return f"by {1 / (1 - p):.0f}" if p < 1 else "without end"
