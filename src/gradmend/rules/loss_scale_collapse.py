"""NUM222: a loss scaler that leaves out step after step."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a scaler no longer searches but falls."""

    skipped: float = limit(
        0.5,
        unit="share",
        source="of the recent steps left out; a scale that fits costs one in 2,000 "
        "(GradScaler's growth interval)",
    )
    halvings: float = limit(
        20.0,
        unit="halvings",
        source="of the largest scale: from 65,536 down to 1/16, far below where float16 gradients "
        "fit; the search at the start takes less than ten",
    )


@rule(
    code="NUM222",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("scaled", overflows=True)],
    silent_on=[Case.of("scaled"), Case.of("half", loss_scale=64.0), Case.of("perceptron")],
)
def loss_scale_collapse(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradient scaler that finds infinities at any scale and never steps.

    What it finds:
        Runs whose scaler leaves out at least half of the recent steps, after its scale has been
        halved twenty times.

    Why it matters:
        A step that is left out changes nothing: the loss stands still, with no error. The scale
        falls until gradients underflow, and the cause, a NaN or an overflow in the network
        itself, has nothing to do with the scale.

    How it is measured:
        Skipped steps in the recent window and the scale against its largest.

    Silent when:
        The scaler searches at the beginning, or backs off now and then.

    References:
        Micikevicius et al. 2018; pytorch/pytorch#40497, #55585; Lightning#21339.
    """
    table = history["step"]
    skipped = windows.recent(table, "skipped")
    for column in range(len(table.columns)):
        known = skipped[:, column][~np.isnan(skipped[:, column])]
        _, scales = table.series("loss_scale", column)
        scales = scales[(scales > 0.0) & np.isfinite(scales)]
        if len(known) < windows.FEWEST or not len(scales):
            continue
        share = float(np.mean(known))
        halvings = float(np.log2(scales.max()) - np.log2(scales[-1]))
        if share < limits.skipped or halvings < limits.halvings:
            continue
        yield Finding(
            code="NUM222",
            name="loss-scale-collapse",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"the gradient scaler left out {share:.0%} of the recent steps and its scale fell"
                f" from {scales.max():g} to {scales[-1]:.2g}: the gradient is not finite at any"
                " scale, so the NaN or infinity comes from the network"
            ),
            evidence=(
                Evidence(
                    quantity="steps left out",
                    observed=share,
                    limit=limits.skipped,
                    unit="share",
                    step=history.step,
                ),
            ),
            weight=50.0,
            explains=(
                "loss-plateau",
                "learning-rate-too-low",
                "gradient-underflow",
                "updates-lost-to-rounding",
                "stalled-layers",
            ),
            exculpation="steps that are taken",
        )
        return
