"""LOS209: a loss summed over the batch, with a rate meant for a mean."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import FEWEST, RECENT, SCALE_FREE, plain
from gradmend.theory.wiring import loss_tails, optimizer_column


@dataclass(frozen=True)
class Limits:
    """When a summed loss is a trouble."""

    factor: float = limit(
        10.0,
        unit="1",
        source="recent loss over the first one: a decade, which no noise of a batch makes",
    )


@rule(
    code="LOS209",
    limits=Limits,
    fires_on=[Case.of("regression", loss="summed", rate=0.3)],
    silent_on=[
        Case.of("regression", loss="summed", rate=1e-4),
        Case.of("regression", loss="summed_over_batch"),
        Case.of("regression", rate=3.0),
        Case.of("regression"),
    ],
)
def summed_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that is a sum over samples, in a run that diverges.

    What it finds:
        A loss whose last operation is a sum, nothing dividing it, that has grown tenfold or is no
        longer finite, with an optimizer whose step grows with the gradient.

    Why it matters:
        The gradient grows with the batch: a rate found with 64 samples is eight times too large
        with 512.

    How it is measured:
        The last operation of the loss, on its autograd graph, and the reduction that a loss
        function was told; the loss now against its beginning.

    Silent when:
        The run does not diverge: sums are common, with a rate to match. The optimizer's step does
        not depend on the gradient's scale (Adam).

    References:
        jax-ml/jax#3113; ray-project/ray#2506.
    """
    table = history["step"]
    for tail in loss_tails(history):
        at = optimizer_column(history, tail.where)
        if tail.root is None or at < 0 or table.columns[at].kind in SCALE_FREE:
            continue
        if not _is_sum(history, tail.operations[tail.root].op):
            continue
        loss = table["loss"][:, at]
        loss = np.abs(loss[np.isfinite(loss)])
        if len(table) < 2 * FEWEST or not len(loss):
            continue
        batch = float(table.last("batch_size")[at])
        first, now = float(loss[:FEWEST].min()), float(np.median(loss[-RECENT:]))
        if (history["gradient"].last("state") == 3).any():
            now = math.inf
        grown = now / first if first > 0 else math.nan
        if not grown >= limits.factor:
            continue
        of = f" over {batch:.0f} samples" if not math.isnan(batch) else ""
        yield Finding(
            code="LOS209",
            name="summed-loss",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                f"the loss is a sum{of} and has grown from {plain(first)} to {plain(now)}: take the"
                " mean, or divide the rate by the size of the batch"
            ),
            evidence=(
                Evidence(
                    quantity="recent loss over the first one",
                    observed=grown,
                    limit=limits.factor,
                    step=history.step,
                ),
            ),
            weight=math.log10(batch) if batch > 0 else 1.0,
            explains=(
                "diverging-loss",
                "exploding-gradient",
                "loss-spike",
                "learning-rate-too-high",
                "non-finite-value",
                "update-norm-spike",
                "oscillating-loss",
                "dead-relu",
                "saturated-activation",
            ),
            exculpation="a mean over the batch",
        )
        return


def _is_sum(history: History, operation: str) -> bool:
    """Whether a loss ends in a sum, its own or that of a loss function."""
    if operation == "sum":
        return True
    newest = max(history.of_kind("loss-call"), key=lambda event: event.step, default=None)
    if newest is None or newest.facts.get("reduction") != "sum":
        return False
    function = str(newest.facts.get("function", ""))
    return operation == function or (function == "cross_entropy" and operation[:3] == "nll")
