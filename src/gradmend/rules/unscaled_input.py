"""DAT101: inputs far from unit scale."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, Event, History
from gradmend.records.trace import Input, Operation, Trace
from gradmend.registry import Case, limit, rule
from gradmend.theory import targets, windows
from gradmend.theory.windows import plain

EXPLAINS = (
    "saturated-activation",
    "collapsed-signal",
    "vanishing-gradient",
    "exploding-gradient",
    "dead-relu",
    "attenuating-activation",
    "forget-gate-closed",
    "gradient-lost-through-time",
    "saturated-attention",
    "learning-rate-too-high",
    "learning-rate-too-low",
    "diverging-loss",
    "oscillating-loss",
    "non-finite-value",
    "loss-plateau",
    "loss-spike",
    "stalled-layers",
    "update-norm-spike",
    "clip-too-tight",
    "init-gain-too-large",
)


@dataclass(frozen=True)
class Limits:
    """When inputs are out of scale."""

    rms: float = limit(
        10.0,
        unit="units of the input",
        source="AutoTrainer's omega_1 = 10 for mean |x| (Zhang et al. 2021); standardised data "
        "has 1",
    )
    smallest_rms: float = limit(
        0.01,
        unit="units of the input",
        source="a hundredth of unit scale; pixels in [0, 1] have 0.3 to 0.6",
    )
    passed_on: float = limit(
        0.1,
        unit="1",
        source="rms of the first layer's output over the input's: torch's own initialisation gives"
        " 0.58, so that below a tenth something has scaled the input before the layer reads it",
    )


def _live(history: History, limits: Limits) -> Iterator[Finding]:
    """A run is told where it has not learned: what trains all the same is nobody's trouble."""
    if history.run.rehearsal:
        return  # the look at the same batch has said it
    broken = targets.first_broken(history)
    grown, flat = _grown(history), _saturates(history)
    if broken is None and not grown and not flat and windows.learned(history) is not False:
        return
    first = _first_layer(history)
    if first is None:
        return
    column, size = first
    for event in history.of_kind("input"):
        if event.facts.get("why") or "float" not in str(event.facts.get("dtype", "")):
            continue
        rms = _rms(event)
        if not rms > limits.rms or not size >= limits.passed_on * rms:
            continue
        went = "the loss has not fallen"
        if broken is not None:
            went = f"NaN or infinity came at step {broken.step}"
        elif grown:
            went = "the loss has grown"
        elif flat:
            went = "the activation behind the first one is flat nearly everywhere"
        yield Finding(
            code="DAT101",
            name="unscaled-input",
            severity=Severity.WARNING,
            modules=(column.module,) if column.module else (),
            source=column.source,
            summary=(
                f"the input {list(event.facts.get('shape') or ())} has mean"
                f" {plain(float(event.facts['mean']))} and standard deviation"
                f" {plain(float(event.facts['std']))}; layers are initialised for 0 and 1, and"
                f" {went}"
            ),
            evidence=(
                Evidence(
                    quantity="rms of the input",
                    observed=rms,
                    limit=limits.rms,
                    unit="units of the input",
                    module=column.module or None,
                    step=event.step,
                ),
            ),
            weight=1001.5 if broken is not None or grown else math.log10(rms),
            explains=EXPLAINS,
            exculpation="a normalisation layer behind the input, or a run that learns",
        )
        return


def _rms(event: Event) -> float:
    mean, std = event.facts.get("mean"), event.facts.get("std")
    if not isinstance(mean, int | float) or not isinstance(std, int | float):
        return math.nan
    return math.hypot(mean, std)


def _grown(history: History) -> bool:
    courses = windows.loss_course(history)
    return len(courses) == 1 and courses[0].last > 5.0 * abs(courses[0].first)


def _saturates(history: History) -> bool:
    """Whether the first squashing activation is flat at most of its entries, for long."""
    table = history["output"]
    ordered = sorted(range(len(table.columns)), key=lambda at: table.columns[at].order)
    kinds = [table.columns[at].kind.lower() for at in ordered]
    if len(ordered) < 2 or kinds[1] not in ("sigmoid", "tanh", "hardsigmoid", "hardtanh"):
        return False
    known = table.series("flat_share", ordered[1])[1]
    return len(known) >= 3 and float(np.median(known[-3:])) > 0.75


def _first_layer(history: History) -> tuple[Column, float] | None:
    """The first module of the run and its output's rms at the start.

    ``None`` where it is a norm, or a norm is what reads it.
    """
    table = history["output"]
    ordered = sorted(range(len(table.columns)), key=lambda at: table.columns[at].order)
    if not ordered or any("Norm" in table.columns[at].kind for at in ordered[:2]):
        return None
    size = float(table.first("log10_rms")[ordered[0]])
    return (table.columns[ordered[0]], windows.times(size)) if np.isfinite(size) else None


@rule(
    code="DAT101",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=3, activation="tanh", scale=100.0),
        Case.of("mlp", depth=3, activation="relu", scale=60.0, shift=128.0),
        Case.of("mlp", depth=3, activation="relu", scale=1e-4),
        Case.of("pixels", norm=False),
        Case.of("table", odd=1),
    ],
    silent_on=[
        Case.of("mlp", depth=3, activation="tanh"),
        Case.of("mlp", depth=3, activation="relu", scale=0.3, shift=0.5),
        Case.of("mlp", depth=8, activation="tanh", init="normal", gain=12.0),
        Case.of("transformer"),
        Case.of("pixels"),
        Case.of("pixels", norm=False, inside="divided"),
        Case.of("pixels", norm=False, inside="standardised"),
        Case.of("table"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_regression", inputs=60.0),
        Case.of("fed_regression", inputs=60.0, offset=2.0),
        Case.of("fed_classifier", inputs=300.0, activation="sigmoid", rate=1.0),
    ],
    live_silent_on=[
        Case.of("fed_regression"),
        Case.of("fed_regression", inputs=60.0, norm=True),
        Case.of("fed_regression", inputs=30.0, optimizer="Adam", rate=1e-3),
        Case.of("fed_regression", rate=10.0),
        Case.of("fed_regression", scale=1e5, shift=2e5),
    ],
)
def unscaled_input(trace: Trace, limits: Limits) -> Iterator[Finding]:
    """Inputs whose scale is far from one, before any normalisation.

    What it finds:
        Floating-point inputs, or single features of them, with a root mean square above 10 or
        below 0.01, read by a layer that takes the scale as it comes. In a run, those above 10
        where the loss does not fall.

    Why it matters:
        The first layer's pre-activations and its weights' gradient are proportional to the input:
        at 100 times the scale, tanh saturates, and the same learning rate is 10,000 times too
        large for that layer's curvature.

    How it is measured:
        Root mean square of the batch handed in; for [B, D] inputs also of the largest feature
        after centring; and what the first layer makes of it.

    Silent when:
        The model scales the input itself, or a normalisation reads it or the first layer's
        output; inputs are integers; a run learns all the same.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp), section 4.3; keras-team/keras#510.
    """
    for item in trace.inputs:
        if not item.floating or not item.stats.count:
            continue
        rms = item.stats.rms
        largest = max(rms, item.feature_rms_max or 0.0)
        too_small = 0 < rms < limits.smallest_rms
        if not largest > limits.rms and not too_small:  # NaN convicts nobody
            continue
        if _normalised(trace, item) or _scaled_inside(trace, limits):
            continue
        observed, bound = (rms, limits.smallest_rms) if too_small else (largest, limits.rms)
        yield Finding(
            code="DAT101",
            name="unscaled-input",
            severity=Severity.WARNING,
            modules=_reader(trace, item),
            source=next((o.source for o in trace.operations if o.module == item.reader), None),
            summary=_said(item, largest if not too_small else rms),
            evidence=(
                Evidence(
                    quantity="rms of the input",
                    observed=observed,
                    limit=bound,
                    unit="units of the input",
                    module=item.reader,
                ),
            ),
            weight=abs(math.log10(observed)),
            explains=EXPLAINS,
            exculpation="a normalisation layer right behind the input",
        )


def _said(item: Input, largest: float) -> str:
    smallest = item.feature_rms_min
    said = (
        f"{item.name} {list(item.shape)} has mean {item.stats.mean:.3g} and standard"
        f" deviation {item.stats.std:.3g}; layers are initialised for 0 and 1"
    )
    if smallest and item.feature_rms_max and item.feature_rms_max > 100.0 * smallest:
        said += (
            f": one feature has a deviation of {plain(item.feature_rms_max)}, another of"
            f" {plain(smallest)}; standardise each"
        )
    return said


def _first(trace: Trace) -> Operation | None:
    """The first linear map; the input reaches it as it came, or by operations before it.

    A recurrent layer's maps count as that layer's, not as linear maps of the model.
    """
    first = trace.weights[0] if trace.weights else None
    cell = next((op for op in trace.operations if op.cause == "recurrence"), None)
    return cell if cell is not None and (first is None or cell.id < first.id) else first


def _reader(trace: Trace, item: Input) -> tuple[str, ...]:
    """The layer that takes the scale as it comes; the module that reads the input otherwise."""
    first = _first(trace)
    if first is not None and len(trace.inputs) == 1 and first.module:
        return (first.module,)
    return (item.reader,) if item.reader is not None else ()


def _normalised(trace: Trace, item: Input) -> bool:
    """Whether a normalisation reads the input, or all that the first linear map makes of it."""
    first = next((op for op in trace.operations if not op.upstream), None)
    if first is None:
        return False
    if item.reader == first.module and first.cause == "normalisation":
        return True
    layer = _first(trace)
    readers = trace.readers.get(layer.id, ()) if layer is not None else ()
    norms = [trace.operations[at].cause == "normalisation" for at in readers]
    return len(trace.inputs) == 1 and bool(norms) and all(norms)


def _scaled_inside(trace: Trace, limits: Limits) -> bool:
    """Whether the first linear map reads something of unit scale that the model made of it."""
    layer = _first(trace)
    if layer is None or not layer.upstream or len(trace.inputs) > 1:
        return False
    signals = [trace.operations[at].signal for at in layer.upstream]
    sizes = [math.sqrt(s.mean_square) for s in signals if s is not None]
    return len(sizes) == len(signals) and all(
        limits.smallest_rms <= size <= limits.rms for size in sizes
    )
