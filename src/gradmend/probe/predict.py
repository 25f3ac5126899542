"""Theory beside measurement: what each operation's gain should be, from weights and phi alone."""

from __future__ import annotations

import math
from dataclasses import replace

from gradmend.records.trace import Operation, Trace
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.quadrature import gaussian_mean


def predict(trace: Trace) -> dict[int, float]:
    """Predict the backward gain of every operation that theory covers.

    Walks the operations forward, carrying q = E[z^2] by the mean-field recursion
    q' = sigma_w^2 E[phi(sqrt(q) u)^2] + sigma_b^2 (Poole et al. 2016), from the second moment
    of the inputs. Linear maps: log10 sqrt(sum w^2 / fan_out) for a gradient independent of the
    weights. Activations: log10 sqrt(E[phi'(sqrt(q) u)^2]) (Schoenholz et al. 2017). Behind an
    operation that theory does not cover (a norm, a join) the recursion takes the measured
    second moment and goes on.

    Returns:
        Predicted own gain in decades, by operation id.
    """
    moments: dict[int, float | None] = {}
    gains: dict[int, float] = {}
    cache: dict[tuple[str, float | None, float], tuple[float, float]] = {}
    first = next((i.stats.mean_square for i in trace.inputs if i.floating), None)
    for op in trace.operations:
        incoming = _incoming(op, moments, first)
        moment: float | None = None
        if op.weights is not None:
            w = op.weights
            inputs = math.prod(w.shape) / w.fan_out
            gains[op.id] = 0.5 * _log10(w.mean_square * inputs)
            if incoming is not None:
                moment = w.fan_in * w.mean_square * incoming + w.bias_mean_square
        elif op.activation is not None and op.activation.function in KNOWN:
            if incoming is not None:
                act = op.activation
                moment, slope = _moments(cache, act.function, act.negative_slope, incoming)
                gains[op.id] = 0.5 * _log10(slope)
        if moment is None and op.signal is not None:
            moment = op.signal.mean_square
        moments[op.id] = moment
    return gains


def _incoming(
    op: Operation, moments: dict[int, float | None], first: float | None
) -> float | None:
    if not op.upstream:
        return first
    return moments[op.upstream[0]] if len(op.upstream) == 1 else None


def _moments(
    cache: dict[tuple[str, float | None, float], tuple[float, float]],
    name: str,
    negative_slope: float | None,
    q: float,
) -> tuple[float, float]:
    """(E[phi(z)^2], E[phi'(z)^2]) at z ~ N(0, q), cached on q to four digits."""
    key = (name, negative_slope, float(f"{q:.4g}"))
    if key not in cache:
        phi = activation(name, negative_slope=negative_slope)
        cache[key] = (
            gaussian_mean(lambda z: phi.value(z) ** 2, q, smooth=phi.smooth),
            gaussian_mean(lambda z: phi.derivative(z) ** 2, q, smooth=phi.smooth),
        )
    return cache[key]


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def with_predictions(trace: Trace) -> Trace:
    """The trace with theory's gain written beside each operation's own."""
    gains = predict(trace)
    return replace(
        trace,
        operations=tuple(replace(op, predicted=gains.get(op.id)) for op in trace.operations),
    )
