"""ACT106: a softmax between layers, used as if it were an activation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Operation, Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a softmax between layers counts."""

    layer_decades: float = limit(
        0.5,
        unit="decades",
        source="lost by one softmax, from which it counts: over n even entries its derivative is "
        "1/n, so one over four loses 0.6",
    )
    share: float = limit(
        0.25,
        unit="share",
        source="of the decades lost, which the softmaxes must account for; as init-gain-too-small",
    )
    warning_decades: float = limit(
        3.0,
        unit="decades",
        source="of the whole gradient: AutoTrainer's 1e-3 (Zhang et al. 2021); unlike a stack of "
        "one activation, a softmax between layers has no healthy use to be spared",
    )
    error_decades: float = limit(
        5.5,
        unit="decades",
        source="six sigmoid layers (5.1 decades) train and seven (6.0) do not: microsoft/CNTK#476",
    )


@rule(
    code="ACT106",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=4, activation="softmax"),
        Case.of("mlp", depth=3, activation="softmax", width=32),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="sigmoid"),
        Case.of("mlp", depth=8, activation="sigmoid"),
        Case.of("transformer"),
    ],
)
def hidden_softmax(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Softmax between layers, where an activation should be.

    What it finds:
        Softmaxes whose output is what the next linear layer reads, in networks whose gradient is
        lost on its way back.

    Why it matters:
        n outputs that add up to one are 1/n each: the derivative p (1 - p) is about 1/n, so each
        such layer divides the gradient by its width, and the signal as well, and the units of a
        layer compete where they should work side by side.

    How it is measured:
        In the gradient ledger: decades booked to softmaxes that a layer with weights reads.

    Silent when:
        The softmax weighs other activations (attention, gates, mixtures), is the output, or the
        gradient arrives all the same.

    References:
        Bridle 1990 (softmax as an output); Goodfellow, Bengio, Courville 2016, section 6.2.2.3.
    """
    total = trace.total_decades
    if total is None or not total <= -limits.warning_decades:  # NaN convicts nobody
        return
    guilty = [op for op in trace.operations if _between_layers(trace, op, limits)]
    lost = -sum(op.decades for op in guilty)
    if not guilty or not lost >= limits.share * -total:
        return
    yield Finding(
        code="ACT106",
        name="hidden-softmax",
        severity=Severity.ERROR if -total >= limits.error_decades else Severity.WARNING,
        modules=tuple(dict.fromkeys(op.module for op in guilty)),
        source=guilty[0].source,
        summary=(
            f"{len(guilty)} softmax(es) between layers take {lost:.1f} of the {-total:.1f} decades"
            " that the gradient loses: a softmax is for outputs and attention; use an activation"
        ),
        evidence=(
            Evidence(
                quantity="decades lost in softmaxes between layers",
                observed=lost,
                limit=limits.share * -total,
                unit="decades",
                module=guilty[0].module,
            ),
        ),
        weight=20.0 + lost,
        explains=(
            "vanishing-gradient",
            "collapsed-signal",
            "depth-without-skip",
            "uncentred-activation",
            "stalled-layers",
            "loss-plateau",
        ),
        exculpation="a softmax that no layer reads, or a gradient that arrives",
    )


def _between_layers(trace: Trace, op: Operation, limits: Limits) -> bool:
    if op.name not in ("softmax", "_softmax") or not op.decades <= -limits.layer_decades:
        return False
    readers = [trace.operations[at] for at in trace.readers.get(op.id, ())]
    return bool(readers) and all(reader.weights is not None for reader in readers)
