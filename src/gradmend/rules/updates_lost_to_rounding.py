"""NUM223: updates smaller than the weights' last digit."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.formats import UnknownNumberFormat, number_format


@dataclass(frozen=True)
class Limits:
    """When rounding eats the updates."""

    lost: float = limit(
        0.5,
        unit="share",
        source="of a matrix's weights unchanged although gradient and rate are not zero: half of "
        "each step is thrown away",
    )
    error_lost: float = limit(
        0.9,
        unit="share",
        source="next to nothing is learned; also the limit while the loss falls, since gradients "
        "shrink as a run converges",
    )


@rule(
    code="NUM223",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("coarse", rate=1e-5)],
    silent_on=[
        Case.of("coarse"),
        Case.of("coarse", rate=1e-5, dtype="float32"),
        Case.of("rare_embedding"),
        Case.of("step_size", rate=1e-9),
    ],
)
def updates_lost_to_rounding(history: History, limits: Limits) -> Iterator[Finding]:
    """Low-precision weights whose updates are rounded away.

    What it finds:
        Weights in bfloat16 or float16 of which at least half are bitwise the same after the
        step, although they have a gradient and the rate is not zero.

    Why it matters:
        bfloat16 has three digits: a weight of 1 needs an update of 0.004 to move at all, and what
        is lost at one step is lost at all, not saved up. The same run in float32 trains.

    How it is measured:
        Weights unchanged where the gradient is not zero, as a share, over the recent window.

    Silent when:
        Weights are float32 or wider, as master weights are; the rate is at the end of its
        schedule; entries without a gradient; fewer than nine in ten while the loss falls.

    References:
        Zamirai et al. 2020 (revisiting bfloat16 training: stochastic rounding, Kahan summation);
        Micikevicius et al. 2018, section 3.1.
    """
    table = history["update"]
    if not len(table):
        return
    lost = windows.lasting(table, "lost_share", 0.25)
    stuck = windows.learned(history) is False
    least = limits.lost if stuck else limits.error_lost
    at = windows.matrices(table.columns)
    low = np.array([i for i in at if _coarse(table.columns[i].dtype)], dtype=np.int64)
    guilty = [
        int(i)
        for i in low
        if lost[i] >= least
        and not windows.rate_is_passing(history, int(table.columns[i].facts.get("optimizer") or 0))
    ]
    if not guilty:
        return
    worst = max(guilty, key=lambda i: float(lost[i]))
    first, share = table.columns[guilty[0]], float(lost[worst])
    epsilon = number_format(first.dtype).epsilon
    grave = share >= limits.error_lost and stuck
    yield Finding(
        code="NUM223",
        name="updates-lost-to-rounding",
        severity=Severity.ERROR if grave else Severity.WARNING,
        modules=tuple(dict.fromkeys(table.columns[i].module for i in guilty)),
        source=first.source,
        summary=(
            f"{share:.0%} of the weights of {table.columns[worst].name} stay the same at a step"
            f" although they have a gradient: in {first.dtype} an update below"
            f" {epsilon / 2:.1g} of a weight rounds to nothing"
        ),
        evidence=(
            Evidence(
                quantity="share of updates lost",
                observed=share,
                limit=least,
                unit="share",
                module=table.columns[worst].module,
                step=history.step,
            ),
        ),
        weight=4.0 + 4.0 * share,
        explains=("stalled-layers", "loss-plateau", "learning-rate-too-low"),
        exculpation="float32 weights, or updates that reach the last digit",
    )


def _coarse(dtype: str) -> bool:
    try:
        return number_format(dtype).bits <= 16
    except UnknownNumberFormat:
        return False
