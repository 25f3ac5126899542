"""DAT101: inputs far from unit scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.trace import Input, Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When inputs are out of scale."""

    rms: float = limit(
        10.0,
        unit="units of the input",
        source="AutoTrainer's omega_1 = 10 for mean |x| (Zhang et al. 2021); standardised data "
        "has 1",
    )
    smallest_rms: float = limit(
        0.01,
        unit="units of the input",
        source="a hundredth of unit scale; pixels in [0, 1] have 0.3 to 0.6",
    )


@rule(
    code="DAT101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=3, activation="relu", scale=60.0, shift=128.0),
        Case.of("mlp", depth=3, activation="relu", scale=1e-4),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="tanh"),
        Case.of("mlp", depth=3, activation="relu", scale=0.3, shift=0.5),
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("transformer"),
    ],
)
def unscaled_input(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Inputs whose scale is far from one, before any normalisation.

    What it finds:
        Floating-point inputs, or single features of them, with a root mean square above 10 or
        below 0.01, read by a layer that takes the scale as it comes.

    Why it matters:
        The first layer's pre-activations and its weights' gradient are proportional to the input:
        at 100 times the scale, tanh saturates, and the same learning rate is 10,000 times too
        large for that layer's curvature.

    How it is measured:
        Root mean square of the batch handed in; for [B, D] inputs also of the largest feature
        after centring.

    Silent when:
        The first module to read the input normalises it; inputs are integers.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp), section 4.3; keras-team/keras#510.
    """
    for item in trace.inputs:
        if not item.floating or not item.stats.count or _normalised(trace, item):
            continue
        rms = item.stats.rms
        largest = max(rms, item.feature_rms_max or 0.0)
        too_small = 0 < rms < limits.smallest_rms
        if not largest > limits.rms and not too_small:  # NaN convicts nobody
            continue
        observed, bound = (rms, limits.smallest_rms) if too_small else (largest, limits.rms)
        yield Finding(
            code="DAT101",
            name="unscaled-input",
            severity=Severity.WARNING,
            modules=(item.reader,) if item.reader is not None else (),
            source=next((o.source for o in trace.operations if o.module == item.reader), None),
            summary=(
                f"{item.name} {list(item.shape)} has mean {item.stats.mean:.3g} and standard"
                f" deviation {item.stats.std:.3g}; layers are initialised for 0 and 1"
            ),
            evidence=(
                Evidence(
                    quantity="rms of the input",
                    observed=observed,
                    limit=bound,
                    unit="units of the input",
                    module=item.reader,
                ),
            ),
            weight=abs(math.log10(observed)),
            explains=(
                "saturated-activation",
                "collapsed-signal",
                "vanishing-gradient",
                "exploding-gradient",
                "dead-relu",
            ),
            exculpation="a normalisation layer right behind the input",
        )


def _normalised(trace: Trace, item: Input) -> bool:
    """Whether the first operation on the input's way sets its scale anyway."""
    first = next((op for op in trace.operations if not op.upstream), None)
    return first is not None and item.reader == first.module and first.cause == "normalisation"
