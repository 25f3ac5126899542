"""OPT225: weight decay that wins."""

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
    """When weights have collapsed."""

    decades: float = limit(
        1.0,
        unit="decades",
        source="that a weight matrix has shrunk by since the run's beginning; healthy decay stays "
        "within a factor of three in our trainings",
    )
    matrices: float = limit(
        0.5, unit="share", source="of all weight matrices: one unused head may fade, and harms none"
    )
    begun: float = limit(
        0.3,
        unit="decades",
        source="shrunk by, half of the size, where decay does it at the pace below: our choice",
    )
    pace: float = limit(
        0.003,
        unit="decades a step",
        source="a tenth of the size is left in 330 steps; usual decay (SGD at 0.1 and 5e-4, AdamW "
        "at 1e-3 and 0.1) takes thousands",
    )
    decay: float = limit(
        0.5,
        unit="share",
        source="of the change that is decay, from which it outweighs the gradient; 0.9 and more "
        "in trainings that it stops, of SGD and Adam alike",
    )
    error_decades: float = limit(
        2.0, unit="decades", source="what is left of two layers is then 1e-4 of the signal"
    )


@rule(
    code="OPT225",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("decayed", decay=2.0)],
    silent_on=[
        Case.of("decayed", decay=1e-2),
        Case.of("unused_head"),
        Case.of("perceptron"),
    ],
)
def weight_collapse(history: History, limits: Limits) -> Iterator[Finding]:
    """Weights that shrink towards zero, whatever they have learned.

    What it finds:
        Runs in which half of the weight matrices or more are a tenth of what they were; or half of
        what they were, where weight decay outweighs the gradient and goes on at that pace.

    Why it matters:
        The layers' signal shrinks with them and the gradient of the layers below; in the end any
        input has the same output.

    How it is measured:
        The root mean square of each weight matrix, recent window against the run's beginning, and
        the share of its change that is weight decay.

    Silent when:
        Fewer matrices shrink; they were made smaller on purpose before the run; decay is slow.

    References:
        BVLC/caffe#1396 (weight decay of 0.5); Loshchilov and Hutter 2019 (decoupled decay).
    """
    table = history["update"]
    at = windows.matrices(table.columns)
    if not len(table) or not len(at):
        return
    begin = table.first("log10_weight")[at]  # no median: the first rows may span half the run
    now = windows.lasting(table, "log10_weight")[at]
    now = np.where(np.isneginf(now), -99.0, now)
    known = np.isfinite(begin) & np.isfinite(now)  # what began at zero cannot shrink
    lost = np.where(known, np.where(known, begin, 0.0) - np.where(known, now, 0.0), np.nan)
    share = windows.lasting(table, "decay_share")[at]
    fast = lost >= limits.pace * (history.step + 1)
    decaying = (lost >= limits.begun) & fast & (share >= limits.decay)
    collapsed = np.flatnonzero((lost >= limits.decades) | decaying)  # NaN is not
    if not len(collapsed) or len(collapsed) < limits.matrices * np.count_nonzero(~np.isnan(lost)):
        return
    median = float(min(np.median(lost[collapsed]), 99.0))
    worst = table.columns[int(at[collapsed[int(np.argmax(lost[collapsed]))]])]
    first = table.columns[int(at[collapsed[0]])]
    share = share[collapsed][np.isfinite(share[collapsed])]
    yield Finding(
        code="OPT225",
        name="weight-collapse",
        severity=Severity.ERROR if median >= limits.error_decades else Severity.WARNING,
        modules=tuple(dict.fromkeys(table.columns[int(at[i])].module for i in collapsed)),
        source=first.source,
        summary=(
            f"{len(collapsed)} of {len(at)} weight matrices have shrunk, the typical one to"
            f" {windows.times(-median):.1e} of its size"
            + (
                f"; weight decay is {min(float(np.median(share)), 9.99):.0%} of their change"
                if len(share)
                else ""
            )
        ),
        evidence=(
            Evidence(
                quantity="decades shrunk",
                observed=median,
                limit=limits.decades if median >= limits.decades else limits.begun,
                unit="decades",
                module=worst.module,
                step=history.step,
            ),
        ),
        weight=5.0 + median,
        explains=(
            "vanishing-gradient",
            "collapsed-signal",
            "loss-plateau",
            "stalled-layers",
            "learning-rate-too-low",
            "dead-relu",
        ),
        exculpation="weights within a decade of what they were",
    )
