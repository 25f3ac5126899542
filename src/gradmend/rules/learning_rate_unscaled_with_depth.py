"""OPT228: a rate that each layer could take, and all of them together cannot."""

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
    """When steps add up over depth."""

    layers: float = limit(
        16.0, unit="weight matrices", source="below it a rate too high is too high for one layer"
    )
    together: float = limit(
        1.0,
        unit="1",
        source="update over weight, times the matrices, at the first step: a step as large"
        " as the network. 60 orthogonal tanh layers under Adam learn at 0.08 and 0.4 (rates of 2e-4"
        " and 1e-3) and do not at 1.2 and 4 (3e-3 and 1e-2)",
    )
    fallen: float = limit(
        0.5,
        unit="1",
        source="last loss over the first: below it the run learns. Our choice: the last layer alone"
        " lowers a loss a little while the others are wrecked",
    )
    each: float = limit(
        0.1,
        unit="1",
        source="update over weight of the typical matrix: above it one layer alone cannot take it, "
        "as in learning-rate-too-high",
    )


@rule(
    code="OPT228",
    rehearsed=False,
    limits=Limits,
    fires_on=[
        Case.of("isometric", depth=60, rate=1e-2),
        Case.of("isometric", depth=80, rate=1e-2),
    ],
    silent_on=[
        Case.of("isometric", depth=60, rate=2e-4),
        Case.of("isometric", depth=4, rate=1e-2),
        Case.of("isometric", depth=60, rate=1.0),
        Case.of("step_size", rate=300.0),
    ],
)
def learning_rate_unscaled_with_depth(history: History, limits: Limits) -> Iterator[Finding]:
    """Learning rate that a shallow network takes, in a deep one.

    What it finds:
        Deep networks that were sound before the first step and do not learn, whose every layer
        moves by a moderate share of its size, while the shares add up over the layers to more than
        the network itself.

    Why it matters:
        A step changes the function by what it changes each layer by, layer after layer: for plain
        networks the rate that trains falls like one over the depth. Beyond it the first steps
        destroy an initialisation that was right, and what is seen afterwards looks vanished.

    How it is measured:
        Median update over weight of the matrices at the first measured step, times their number;
        the findings of the look before them.

    Silent when:
        The loss falls; the look before the first step found another cause; the network is shallow;
        one layer's own step is too large; there is attention, whose rates have limits of their own.

    References:
        Saxe, McClelland, Ganguli 2014 (rates and depth); Yang, Yu, Zhu, Hayou 2023 (Tensor Programs
        VI: depth-wise transfer).
    """
    courses, table = windows.loss_course(history), history["update"]
    at = windows.matrices(table.columns)
    if len(courses) != 1 or len(at) < limits.layers or _sick_before(history):
        return
    if not courses[0].last > limits.fallen * courses[0].first or len(history["attention"]):
        return
    ratios = table.first("log10_ratio")[at]  # later ones are small where the gradient is gone
    known = ratios[np.isfinite(ratios)]
    if not len(known):
        return
    each = windows.times(float(np.median(known)))
    together = each * len(at)
    if not together >= limits.together or not each < limits.each:
        return
    rates = history["step"].series("learning_rate", courses[0].column)[1]
    yield Finding(
        code="OPT228",
        name="learning-rate-unscaled-with-depth",
        severity=Severity.ERROR,
        modules=(),
        summary=(
            f"a step changes each of {len(at)} weight matrices by {each:.2g} of its size,"
            f" {together:.2g} times the network together, and nothing is learned: divide the"
            + (f" learning rate of {float(rates[0]):g}" if len(rates) else " learning rate")
            + f" by {together / 0.5:.2g}"
        ),
        evidence=(
            Evidence(
                quantity="update over weight, summed over depth",
                observed=together,
                limit=limits.together,
                step=history.step,
            ),
        ),
        weight=30.0,
        explains=(
            "learning-rate-too-high",
            "depth-without-skip",
            "vanishing-gradient",
            "exploding-gradient",
            "collapsed-signal",
            "saturated-activation",
            "dead-relu",
            "stalled-layers",
            "loss-plateau",
            "diverging-loss",
            "loss-spike",
            "signalless-labels",
            "uncentred-activation",
            "attenuating-activation",
        ),
        exculpation="a loss that falls, or another cause at the first look",
    )


def _sick_before(history: History) -> bool:
    """Whether the look before the first step found something that keeps it from training."""
    first = next(history.of_kind("look"), None)
    if first is None or first.step > 0:
        return first is not None  # what it was before is not known
    found = first.facts.get("findings") or ()
    return any(str(f.get("severity")) != Severity.NOTE.value for f in found)
