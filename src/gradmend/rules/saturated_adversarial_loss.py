"""LOS225: a discriminator so sure that the generator has nothing to learn from."""

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
    """When an adversarial game is over."""

    loss: float = limit(
        0.02,
        unit="1",
        source="of the winner; ln 4 = 1.39 at balance, and ganhacks#36 calls a discriminator loss "
        "of zero the failure",
    )
    began: float = limit(
        0.2, unit="1", source="the winner's first loss: it was a loss of probabilities once"
    )
    vanished: float = limit(
        2.0,
        unit="decades",
        source="the loser's gradient norm against the largest of its own rolling medians",
    )
    losing: float = limit(
        0.5,
        unit="decades",
        source="the same where the loser's own loss has risen since it began: a gradient that fades"
        " as its loss gets worse is not one that has converged",
    )


@rule(
    code="LOS225",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("adversaries", saturating=True, separable=True)],
    silent_on=[
        Case.of("adversaries"),
        Case.of("adversaries", separable=True),
        Case.of("converged"),
    ],
)
def saturated_adversarial_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Two optimizers, one loss at zero, and the other's gradient gone.

    What it finds:
        Games of two optimizers in which one's loss is next to zero and the gradient of the other
        has fallen by two decades since it was largest, or to a third while its own loss has risen.

    Why it matters:
        log(1 - D(G(z))) is flat where D is sure: the generator gets no gradient just when it is
        worst. The layers are fine.

    How it is measured:
        The loss and the gradient's norm of each optimizer over the recent window.

    Silent when:
        There is one optimizer; the other's gradient stays, as with the non-saturating loss.

    References:
        Goodfellow et al. 2014, section 3 (maximise log D(G(z)) instead); Arjovsky and Bottou 2017;
        soumith/ganhacks#36.
    """
    table = history["step"]
    courses = {course.column: course for course in windows.loss_course(history)}
    if len(courses) < 2:
        return
    for loser in courses:
        quantity = "log10_raw_norm"
        _, norms = table.series(quantity, loser)
        if not np.isfinite(norms).any():
            quantity = "log10_norm"
            _, norms = table.series(quantity, loser)
        norms = norms[~np.isnan(norms)]
        if len(norms) < 2 * windows.FEWEST:
            continue
        lost = float(
            windows.rolling_median(norms).max()
            - np.quantile(norms[-windows.RECENT :], 0.75, method="lower")
        )
        winners = [
            other
            for other in courses.values()
            if other.column != loser
            and 0.0 <= other.last <= limits.loss
            and other.first >= limits.began
        ]
        worse = courses[loser].last > courses[loser].first + 3.0 * courses[loser].error
        enough = limits.losing if worse else limits.vanished
        if not winners or not lost >= enough:
            continue
        names = table.names[winners[0].column], table.names[loser]
        yield Finding(
            code="LOS225",
            name="saturated-adversarial-loss",
            severity=Severity.ERROR,
            modules=(),
            summary=(
                f"the loss under {names[0]} is {windows.plain(winners[0].last)} and the gradient"
                f" for {names[1]} fell by {min(lost, 99.0):.1f} decades: one side has won, and its"
                " loss tells the other nothing"
            ),
            evidence=(
                Evidence(
                    quantity="decades of gradient lost",
                    observed=min(lost, 99.0),
                    limit=enough,
                    unit="decades",
                    step=history.step,
                ),
            ),
            weight=min(lost, 12.0),
            explains=("vanishing-gradient", "stalled-layers", "learning-rate-too-low"),
            exculpation="a gradient like that of the beginning",
        )
        return
