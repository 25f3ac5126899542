"""DAT203: a batch that is unlike the others, in the step that stands out."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.windows import plain, times


@dataclass(frozen=True)
class Limits:
    """When a batch is to blame for a jump."""

    deviations: float = limit(
        30.0,
        unit="standard deviations",
        source="largest distance from the usual mean, in deviations of the usual batches: a normal"
        " sample has 5 at most, and no cut-off for heavy tails is known; our choice",
    )
    factor: float = limit(
        5.0, unit="1", source="the same over the usual batches' own: heavy tails have it always"
    )
    shock: float = limit(
        0.7,
        unit="decades",
        source="gradient or loss of that step over their medians: a factor of 5; our choice",
    )


@dataclass(frozen=True)
class _Numbers:
    """What is known of one tensor of a batch."""

    mean: float
    std: float
    largest: float


@rule(
    code="DAT203",
    limits=Limits,
    rehearsed=False,
    fires_on=[
        Case.of("fed_regression", outlier="input"),
        Case.of("fed_regression", outlier="target"),
        Case.of("fed_regression", outlier="sample"),
    ],
    silent_on=[
        Case.of("fed_regression"),
        Case.of("fed_regression", outlier="mild"),
        Case.of("fed_regression", outlier="rate"),
        Case.of("fed_regression", outlier="heavy_tails"),
        Case.of("noisy_rewards"),
    ],
)
def outlier_batch(history: History, limits: Limits) -> Iterator[Finding]:
    """Step that stood out because its batch holds numbers unlike those of all others.

    What it finds:
        A step whose gradient or loss was five times the usual, and whose inputs or targets lie
        thirty standard deviations from those of the other batches.

    Why it matters:
        One sample of a corrupt file throws the weights as far as hundreds of good batches; a
        smaller rate or clipping hides it and leaves it in the data.

    How it is measured:
        The step's batch, looked at when its gradient or loss jumps, against the batches told of
        at the beginning of the run.

    Silent when:
        The batch is like the others, so that the weights or the rate are to blame; the data have
        heavy tails anyway; nothing jumped.

    References:
        facebookresearch/metaseq#521; Chowdhery et al. 2022 (PaLM), where batches were harmless from
        another state: which is why the batch itself is looked at.
    """
    worst: tuple[float, Event, float, str] | None = None
    jumps = list(_jumps(history))
    for where, name, event, usual in jumps:
        away = _away(_numbers(event, name), usual)
        told = [*usual, *(_numbers(e, n) for w, n, e, _ in jumps if w == where)]
        # The same sample of a next epoch is as far away; other distances are the data's own tails.
        others = [d for each in told if abs((d := _away(each, usual)) - away) > 0.01 * abs(away)]
        ordinary = max(others, default=0.0)
        if not away >= max(limits.deviations, limits.factor * ordinary):
            continue
        shock = _shock(history, event.step)
        if shock >= limits.shock and (worst is None or away > worst[0]):
            worst = (away, event, shock, f"{where} {list(_shape(event, name))}")
    if worst is None:
        return
    away, event, shock, what = worst
    yield Finding(
        code="DAT203",
        name="outlier-batch",
        severity=Severity.WARNING,
        modules=(),
        summary=(
            f"at step {event.step} the {what} lies {plain(away)} standard deviations from the other"
            f" batches, and the gradient or loss was {plain(times(shock))} times the usual: look at"
            " that batch's samples"
        ),
        evidence=(
            Evidence(
                quantity="distance from the other batches",
                observed=away,
                limit=limits.deviations,
                unit="standard deviations",
                step=event.step,
            ),
        ),
        weight=50.0 + shock,
        explains=(
            "loss-spike",
            "update-norm-spike",
            "diverging-loss",
            "learning-rate-too-high",
            "exploding-gradient",
            "dead-relu",
            "saturated-activation",
            "loss-plateau",
            "non-finite-value",
            "stalled-layers",
            "vanishing-gradient",
        ),
        exculpation="a batch like the others",
    )


def _jumps(history: History) -> Iterator[tuple[str, str, Event, list[_Numbers]]]:
    """Each tensor of a batch that was told for a jump, with the usual ones of its name."""
    usual: dict[tuple[str, str], list[_Numbers]] = {}
    jumped: list[tuple[tuple[str, str], Event]] = []
    for event in history.of_kind("input", "loss-call"):
        name = "" if event.kind == "input" else "target"
        key = (event.kind, event.where)
        if event.facts.get("why"):
            jumped.append((key, event))
        elif math.isfinite((found := _numbers(event, name)).mean):
            usual.setdefault(key, []).append(found)
    for key, event in jumped:
        if len(usual.get(key, ())) >= 2:
            name = "" if event.kind == "input" else "target"
            words = f"input {event.where}" if not name else f"target of {event.where}"
            yield words, name, event, usual[key]


def _shape(event: Event, name: str) -> tuple[int, ...]:
    """Shape of the tensor that an event tells of."""
    facts = event.facts.get(name) or {} if name else event.facts
    return tuple(facts.get("shape") or ())


def _numbers(event: Event, name: str) -> _Numbers:
    facts = event.facts.get(name) or {} if name else event.facts
    if name and "float" not in str(facts.get("dtype", "")):
        return _Numbers(math.nan, math.nan, math.nan)
    ends = [facts.get(key) for key in ("smallest", "largest")]
    sizes = [abs(float(end)) for end in ends if end is not None]
    return _Numbers(
        mean=_float(facts.get("mean")),
        std=_float(facts.get("std")),
        largest=max(sizes, default=math.nan),
    )


def _float(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan


def _away(now: _Numbers, usual: list[_Numbers]) -> float:
    """Largest distance from the usual mean, in usual deviations."""
    mean = float(np.median([each.mean for each in usual]))
    std = float(np.median([each.std for each in usual]))
    if not std > 0:
        return math.nan
    return (max(now.largest, abs(now.mean)) - abs(mean)) / std


def _shock(history: History, step: int) -> float:
    """Gradient or loss at a step over the median before it, in decades."""
    table = history["step"]
    largest = 0.0
    for column in range(len(table.columns)):
        for quantity in ("log10_raw_norm", "log10_norm", "loss"):
            steps, values = table.series(quantity, column)
            if quantity == "loss":
                values = np.where(values > 0, values, np.nan)
                values = np.log10(values)
            steps, values = steps[np.isfinite(values)], values[np.isfinite(values)]
            before, then = values[steps < step][-windows.RECENT :], values[steps == step]
            if len(before) >= windows.FEWEST and len(then):
                largest = max(largest, float(then[0] - np.median(before)))
    return largest
