"""OPT222: steps too small to get anywhere."""

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
    """When a rate is too low."""

    ratio: float = limit(
        -6.0,
        unit="decades",
        source="log10 of update over weight: 1e-3 is usual (CS231n); at 1e-6 a weight needs a "
        "million steps in one direction to change by its own size",
    )
    steps: float = limit(48.0, unit="steps", source="a warm-up may begin lower than this for fewer")
    small: float = limit(
        -4.0,
        unit="decades",
        source="log10 of update over weight, a tenth of the usual: above it the steps are not to "
        "blame",
    )
    reach: float = limit(
        0.01,
        unit="1",
        source="of the loss: what all steps together can have lowered it by at most, as |gradient| "
        "times |step| bounds the fall to first order (Cauchy-Schwarz)",
    )
    steep: float = limit(
        0.01,
        unit="1",
        source="|gradient| |weights| over the loss: relative changes of the weights change the "
        "loss by as much; what has vanished lies far below, and no rate helps it",
    )
    decayed: float = limit(
        1e-4,
        unit="1",
        source="rate over the largest so far; schedules end at 1e-1 to 1e-3 of it, or at zero with "
        "the run's end",
    )
    behind: float = limit(
        0.5,
        unit="share",
        source="of the run's steps behind that point, as in learning-rate-zero",
    )


@rule(
    code="OPT222",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("step_size", rate=1e-7)],
    silent_on=[
        Case.of("step_size"),
        Case.of("step_size", rate=0.0),
        Case.of("converged"),
        Case.of("schedule", kind="linear"),
        Case.of("schedule", kind="warm-up"),
        Case.of("sigmoid_stack", depth=12),
    ],
)
def learning_rate_too_low(history: History, limits: Limits) -> Iterator[Finding]:
    """Steps so small that all of them together cannot lower the loss.

    What it finds:
        Optimizers under which no weight matrix changes by more than 1e-6 of its size at a step, or
        by 1e-4 where all steps together can have lowered the loss by a hundredth at most, although
        they have gradients and the learning rate is above zero. Schedules that have taken the rate
        to less than 1e-4 of its largest before half of the run.

    Why it matters:
        The run would need millions of steps for what others take a thousand for; in low precision
        the updates round to nothing.

    How it is measured:
        The largest update over weight of all matrices of the optimizer, over the recent window;
        the norms of gradient and update, whose product times the steps bounds the fall of the
        loss; the course of the rate.

    Silent when:
        The loss has fallen; the rate is warming up or at the end of its schedule; any matrix
        moves; the rate is exactly zero, or no gradient arrives, which are other findings.

    References:
        CS231n neural-networks-3 (ratio of updates to weights).
    """
    table, steps = history["update"], history["step"]
    if not len(table):
        return
    yield from _decayed(history, limits)
    if windows.learned(history) is not False:
        return
    size = windows.lasting(table, "log10_ratio", 0.75)
    norms = windows.lasting(steps, "log10_norm")
    for column in range(len(steps.columns)):
        at = windows.of_optimizer(table.columns, windows.matrices(table.columns), column)
        known = size[at][np.isfinite(size[at])]
        numbers, rates = steps.series("learning_rate", column)
        if (
            not len(known)
            or len(rates) < limits.steps
            or not float(rates[-1]) > 0.0
            or np.isneginf(norms[column])
            or windows.rate_is_passing(history, column)
            or not (known.max() <= limits.ratio or _out_of_reach(history, column, known, limits))
        ):
            continue
        yield Finding(
            code="OPT222",
            name="learning-rate-too-low",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                "no step changes any weight matrix by more than"
                f" {windows.times(known.max()):.1e} of its size, at a learning rate of"
                f" {float(rates[-1]):g} for {len(numbers)} measured steps; 1e-3 is usual"
            ),
            evidence=(
                Evidence(
                    quantity="log10 update over weight",
                    observed=float(known.max()),
                    limit=limits.ratio,
                    unit="decades",
                    step=history.step,
                ),
            ),
            weight=-3.0 - float(known.max()),
            explains=("loss-plateau", "updates-lost-to-rounding"),
            exculpation="a loss that falls, or larger updates",
        )


def _decayed(history: History, limits: Limits) -> Iterator[Finding]:
    """A schedule that is over long before the run is."""
    steps = history["step"]
    for column, optimizer in enumerate(steps.columns):
        numbers, rates = steps.series("learning_rate", column)
        if len(rates) < limits.steps or not rates.max() > 0.0:
            continue
        above = np.flatnonzero(rates >= limits.decayed * rates.max())
        last = int(numbers[above[-1]])
        if above[-1] + 1 == len(rates) or not float(rates[-1]) > 0.0:
            continue
        share = float(numbers[-1] - last) / float(numbers[-1] - numbers[0] + 1)
        if share <= limits.behind:
            continue
        yield Finding(
            code="OPT222",
            name="learning-rate-too-low",
            severity=Severity.WARNING,
            modules=(),
            summary=(
                f"the schedule took the learning rate of {optimizer.name} from"
                f" {float(rates.max()):g} to {float(rates[-1]):.2g} and below"
                f" {float(limits.decayed * rates.max()):.2g} by step {last + 1} of"
                f" {int(numbers[-1]) + 1}: is scheduler.step() called once per batch, and meant to"
                " be once per epoch?"
            ),
            evidence=(
                Evidence(
                    quantity="share of the run behind the end of its schedule",
                    observed=share,
                    limit=limits.behind,
                    unit="share",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=("loss-plateau", "updates-lost-to-rounding", "stalled-layers"),
            exculpation="a rate above a ten-thousandth of its largest for half of the run",
        )
        return


def _out_of_reach(history: History, column: int, sizes: Floats, limits: Limits) -> bool:
    """Whether gradient and step cannot, in all steps together, lower the loss to speak of."""
    steps, updates = history["step"], history["update"]
    gradient, update = steps["log10_norm"][:, column], steps["log10_update_norm"][:, column]
    both = gradient + update
    both = both[np.isfinite(both)]
    courses = {course.column: course for course in windows.loss_course(history)}
    if len(both) < windows.FEWEST or column not in courses or sizes.max() > limits.small:
        return False
    level = courses[column].level
    reach = float(np.mean(10.0 ** np.minimum(both, 30.0))) * (history.step + 1) / level
    at = windows.of_optimizer(updates.columns, windows.matrices(updates.columns), column)
    weights = updates.last("log10_weight")[at]
    entries = np.array([updates.columns[i].size for i in at], dtype=float)
    known = np.isfinite(weights)
    norm = float(np.sqrt(np.sum(entries[known] * 10.0 ** (2.0 * weights[known]))))
    typical = gradient[np.isfinite(gradient)]
    steep = 10.0 ** min(float(np.median(typical)), 30.0) * norm / level if len(typical) else 0.0
    return reach <= limits.reach and steep >= limits.steep
