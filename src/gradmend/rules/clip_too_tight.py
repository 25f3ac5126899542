"""OPT226: a clipping limit that every step runs into."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Floats, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When clipping is no longer a safeguard."""

    share: float = limit(
        0.95, unit="share", source="of the recent steps clipped; 100 % in wandb/senpai#978"
    )
    factor: float = limit(
        0.1,
        unit="1",
        source="median factor: a learning rate ten times smaller than the one written down "
        "(20 times in wandb/senpai#978)",
    )
    ratio: float = limit(
        -4.0,
        unit="decades",
        source="log10 of update over weight from which the rate makes up for it on purpose, as in "
        "AWD-LSTM's rate of 30 with a limit of 0.25; 1e-3 is usual",
    )


@rule(
    code="OPT226",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("clipped", limit=1e-3)],
    silent_on=[
        Case.of("clipped", limit=1.0),
        Case.of("clipped", limit=1e-3, rate=30.0),
        Case.of("clipped", limit=1e-3, optimizer="Adam"),
        Case.of("perceptron"),
    ],
)
def clip_too_tight(history: History, limits: Limits) -> Iterator[Finding]:
    """Gradient clipping that cuts nearly every step to a fraction.

    What it finds:
        Optimizers whose gradient is clipped at nearly all recent steps to less than a tenth, and
        whose updates are small for it.

    Why it matters:
        The effective learning rate is the written one times the factor, and differs from step to
        step with the gradient's norm: the size of the gradient no longer tells the optimizer
        anything.

    How it is measured:
        The factor of each recent step, the update over weight that is left, and the norms before
        clipping, from which a limit that clips one step in ten can be read off. Where values are
        clipped and not the norm, the factor is that of the typical weight matrix.

    Silent when:
        The factor is nearer to one; updates are of the usual size all the same; the optimizer
        divides by the gradient's size (Adam), to which a constant factor means nothing.

    References:
        Pascanu, Mikolov, Bengio 2013; wandb/senpai#978; facebookresearch/detr#198.
    """
    table = history["step"]
    factors = windows.recent(table, "clip_factor", 64)
    if not len(table):
        return
    ratios = windows.lasting(history["update"], "log10_ratio")
    columns = history["update"].columns
    for column, optimizer in enumerate(table.columns):
        known = factors[:, column][np.isfinite(factors[:, column])]
        if not len(known) and np.isfinite(table.last("clip_limit")[column]):
            known = _by_value(history, column)
        if len(known) < windows.FEWEST or optimizer.kind in windows.SCALE_FREE:
            continue
        clipped, factor = float(np.mean(known < 0.999)), float(np.median(known))
        if clipped < limits.share or factor > limits.factor:
            continue
        at = windows.of_optimizer(columns, windows.matrices(columns), column)
        moving = ratios[at][np.isfinite(ratios[at])]
        if len(moving) and float(np.median(moving)) >= limits.ratio:
            continue
        raw = windows.recent(table, "log10_raw_norm", 64)[:, column]
        raw = raw[np.isfinite(raw)]
        rare = (
            f"; {windows.times(np.quantile(raw, 0.9)):.2g} would clip one in ten"
            if len(raw)
            else ""
        )
        clip_to = table.last("clip_limit")[column]
        at_limit = f" at {windows.plain(float(clip_to))}" if np.isfinite(clip_to) else ""
        yield Finding(
            code="OPT226",
            name="clip-too-tight",
            severity=Severity.WARNING if len(moving) else Severity.NOTE,
            modules=(),
            summary=(
                f"{clipped:.0%} of the recent steps are clipped{at_limit}, to {factor:.2g} of their"
                f" gradient: the learning rate is in effect {1 / max(factor, 1e-300):.2g} times"
                f" smaller{rare}"
            ),
            evidence=(
                Evidence(
                    quantity="median clip factor",
                    observed=factor,
                    limit=limits.factor,
                    step=history.step,
                ),
            ),
            weight=-float(np.log10(max(factor, 1e-300))),
            explains=("learning-rate-too-low", "loss-plateau", "stalled-layers"),
            exculpation="a factor above a tenth at most steps",
        )


def _by_value(history: History, column: int) -> Floats:
    """What is left of the typical weight matrix's gradient at each row, [rows]."""
    table = history["gradient"]
    at = windows.of_optimizer(table.columns, windows.matrices(table.columns), column)
    left = (table["log10_rms"] - table["log10_raw"])[:, at]
    typical = windows.rank(left.T, 0.5)
    typical = typical[np.isfinite(typical)][-64:]
    factors: Floats = 10.0 ** np.minimum(typical, 0.0)
    return factors
