"""DAT201: inputs that are the same in every sample."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import plain
from gradmend.theory.wiring import lasting_events


@dataclass(frozen=True)
class Limits:
    """When an input is constant."""

    share: float = limit(
        0.999,
        unit="share of features",
        source="all but a thousandth: blank borders of images are constant too, the rest is not",
    )


@rule(
    code="DAT201",
    limits=Limits,
    fires_on=[
        Case.of("inputs", kind="zero"),
        Case.of("inputs", kind="same_sample"),
    ],
    silent_on=[
        Case.of("inputs"),
        Case.of("inputs", kind="one_sample"),
        Case.of("inputs", kind="blank_borders"),
        Case.of("inputs", kind="small"),
    ],
)
def constant_input(history: History, limits: Limits) -> Iterator[Finding]:
    """Inputs that are zero, or the same for every sample of the batch.

    What it finds:
        Floating-point inputs of which no feature, or one in a thousand, differs between the
        samples; or all of whose numbers are equal.

    Why it matters:
        The network can learn a constant and nothing else. Where the input is zero the first
        weight's gradient is exactly zero, and its bias learns: it looks like a dead layer.

    How it is measured:
        The batch that the model is fed, as recorded.

    Silent when:
        The batch has one sample; only a part is constant (borders); another input varies, or is of
        integers.

    References:
        Zero-filled or wrongly normalised data; checks of one batch before training.
    """
    newest = lasting_events(history, "input", lambda event: _is_constant(event, limits.share))
    if not newest or any(event is None for event in newest.values()):
        return  # another input may carry what this one lacks
    event = next(event for event in newest.values() if event is not None)
    share, std = _number(event, "constant_share"), _number(event, "std")
    shape = tuple(event.facts["shape"])
    yield Finding(
        code="DAT201",
        name="constant-input",
        severity=Severity.ERROR,
        modules=(),
        summary=(
            f"the {shape[0]} samples of the input {list(shape)} are all the same: mean"
            f" {plain(_number(event, 'mean'))}, {min(1.0, max(share, 0.0)):.1%} of the features"
            " constant; look at what the loader makes of the data"
        ),
        evidence=(
            Evidence(
                quantity="share of constant features",
                observed=1.0 if std == 0.0 else share,
                limit=limits.share,
                unit="share of features",
                step=event.step,
            ),
        ),
        weight=100.0,
        explains=(
            "loss-plateau",
            "vanishing-gradient",
            "stalled-layers",
            "collapsed-signal",
            "dead-relu",  # a unit that one sample leaves off is off for all
        ),
        exculpation="samples that differ",
    )


def _is_constant(event: Event, limit: float) -> bool:
    shape = tuple(event.facts.get("shape") or ())
    if "float" not in str(event.facts.get("dtype", "")) or len(shape) < 2 or shape[0] < 2:
        return False
    return _number(event, "std") == 0.0 or _number(event, "constant_share") >= limit


def _number(event: Event, name: str) -> float:
    value = event.facts.get(name)
    return math.nan if value is None else float(value)
