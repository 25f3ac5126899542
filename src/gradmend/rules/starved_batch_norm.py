"""NRM202: batch norms that see one or two values per channel."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import standing


@dataclass(frozen=True)
class Limits:
    """When a batch norm starves."""

    values: float = limit(
        2.0,
        unit="values per channel",
        source="two values normalise to +1 and -1 whatever they are, so the derivative is zero",
    )


@rule(
    code="NRM202",
    limits=Limits,
    fires_on=[Case.of("modes", batch=2)],
    silent_on=[
        Case.of("modes"),
        Case.of("modes", batch=4),
        Case.of("modes", batch=2, last_batch_only=True),
        Case.of("modes", batch=2, fault="frozen_norms"),
    ],
)
def starved_batch_norm(history: History, limits: Limits) -> Iterator[Finding]:
    """Batch norm over so few values that nothing of the signal is left.

    What it finds:
        Batch norms in training mode with at most two values per channel, step after step.

    Why it matters:
        (x - mean) / std of two values is +1 and -1 whatever they are: the output does not depend
        on how far they lie apart, and the gradient of everything before it is zero but for eps.

    How it is measured:
        Elements per channel of the norm's input: batch times positions.

    Silent when:
        Three and more values; evaluation mode; a single small batch at the end of an epoch.

    References:
        Ioffe and Szegedy 2015, section 3; Wu and He 2018 (group norm), figure 1;
        pytorch/pytorch#4741.
    """
    found = [
        (event, float(event.facts["values_per_channel"]))
        for event in standing(history, "module-state").values()
        if event.facts.get("training") and event.facts.get("values_per_channel")
    ]
    guilty = [(event, values) for event, values in found if values <= limits.values]
    if not guilty:
        return
    fewest = min(values for _, values in guilty)
    yield Finding(
        code="NRM202",
        name="starved-batch-norm",
        severity=Severity.ERROR,
        modules=tuple(event.where for event, _ in guilty),
        summary=(
            f"{len(guilty)} batch norm(s), {guilty[0][0].where} first, see {fewest:.0f} value(s)"
            " per channel: all that is left is a sign; use a larger batch, or group norm"
        ),
        evidence=(
            Evidence(
                quantity="values per channel",
                observed=fewest,
                limit=limits.values,
                unit="values per channel",
                module=guilty[0][0].where,
                step=history.step,
            ),
        ),
        weight=100.0,
        explains=("vanishing-gradient", "stalled-layers", "loss-plateau", "exploding-gradient"),
        exculpation="three values per channel and more",
    )
