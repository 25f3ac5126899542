"""Theory beside measurement: what each operation's gain should be, from weights and phi alone."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cache

from gradmend.records.trace import Operation, Trace
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.meanfield import mean_square_slope, output_mean, output_mean_square


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
    moments: dict[int, _Moments | None] = {}
    gains: dict[int, float] = {}
    first = next((i.stats for i in trace.inputs if i.floating and i.stats.count), None)
    fed = _Moments(square=first.mean_square, mean=0.0) if first else None
    for op in trace.operations:
        incoming = _incoming(op, moments, fed)
        outgoing: _Moments | None = None
        if op.weights is not None:
            w = op.weights
            inputs = math.prod(w.shape) / w.fan_out
            gains[op.id] = 0.5 * _log10(w.mean_square * inputs)
            if incoming is not None:
                # A bias b = r - a W 1 removes a from the mean of what the weights read.
                left = incoming.mean - w.bias_centring
                square = incoming.square - incoming.mean**2 + left**2
                q = w.fan_in * w.mean_square * square + w.bias_residual_square
                outgoing = _Moments(square=q, mean=0.0) if math.isfinite(q) else None
        elif op.activation is not None and op.activation.function in KNOWN and incoming:
            act = op.activation
            q = float(f"{incoming.square:.4g}")  # quadrature is cached on four digits
            value, slope, mean = _through(act.function, act.negative_slope, q)
            gains[op.id] = 0.5 * _log10(slope)
            outgoing = _Moments(square=value, mean=mean)
        if outgoing is None and op.signal is not None:
            outgoing = _Moments(square=op.signal.mean_square, mean=op.signal.mean)
        known = outgoing is not None and math.isfinite(outgoing.square)
        moments[op.id] = outgoing if known else None
    return gains


@dataclass(frozen=True, slots=True)
class _Moments:
    """What theory carries from one operation to the next."""

    square: float
    """E[x^2] over units and samples."""
    mean: float
    """E[x] over units and samples: what a common bias can remove."""


def _incoming(
    op: Operation, moments: dict[int, _Moments | None], fed: _Moments | None
) -> _Moments | None:
    if not op.upstream:
        return fed
    return moments[op.upstream[0]] if len(op.upstream) == 1 else None


@cache
def _through(name: str, negative_slope: float | None, q: float) -> tuple[float, float, float]:
    """(E[phi^2], E[phi'^2], E[phi]) at z ~ N(0, q)."""
    phi = activation(name, negative_slope=negative_slope)
    return output_mean_square(phi, q), mean_square_slope(phi, q), output_mean(phi, q)


def _log10(value: float) -> float:
    return math.log10(value) if value > 0 else -math.inf


def with_predictions(trace: Trace) -> Trace:
    """The trace with theory's gain written beside each operation's own."""
    gains = predict(trace)
    return replace(
        trace,
        operations=tuple(replace(op, predicted=gains.get(op.id)) for op in trace.operations),
    )
