"""Check what a remedy promised against a second look."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable

from gradmend.records.prescription import Prediction
from gradmend.records.trace import Trace
from gradmend.records.verdict import Checked
from gradmend.theory.drawing import activation_of, gain_ratio, own_layers
from gradmend.theory.identity_paths import residual_branches
from gradmend.theory.projections import logits_rms
from gradmend.theory.recurrent_layers import decades_through_time


def _first_layer_input_rms(trace: Trace) -> float | None:
    """Rms of what the first linear map reads, from the first operation in front of it."""
    first = trace.weights[0] if trace.weights else None
    if first is None:
        return None
    if first.upstream:
        signal = trace.operations[first.upstream[0]].signal
        return signal.mean_square**0.5 if signal else None
    return next((i.stats.rms for i in trace.inputs if i.floating), None)


def _layers_apart(trace: Trace) -> float | None:
    """Layers whose weight gain, over what it should be, is tenfold apart from the median's."""
    acts = activation_of(trace)
    ratios = [gain_ratio(op, acts.get(op.id)) for op in own_layers(trace)]
    if not ratios:
        return None
    usual = statistics.median(ratios)
    return float(sum(not abs(ratio - usual) <= 1.0 for ratio in ratios))


def _alike_layers(trace: Trace) -> float | None:
    """Layers whose units have all the same weights, zeros included."""
    known = [op.weights.unit_spread for op in trace.weights if op.weights is not None]
    # As one step sees it: an output of zeros is a choice, and so is the last of a branch.
    return float(sum(spread is not None and 0.0 < spread <= 1e-6 for spread in known))


def _dead_share(trace: Trace) -> float | None:
    """The largest share of units that are off on every sample."""
    shares = [op.activation.dead_share for op in trace.activations if op.activation is not None]
    return max(shares, default=None)


def _stream_growth(trace: Trace) -> float | None:
    """Decades by which the residual stream grows from its first sum to its last."""
    sizes = [
        0.5 * math.log10(branch.sum.signal.mean_square)
        for branch in residual_branches(trace)
        if branch.sum.signal is not None and branch.sum.signal.mean_square > 0.0
    ]
    return sizes[-1] - sizes[0] if len(sizes) > 1 else None


MEASURES: dict[str, Callable[[Trace], float | None]] = {
    "decades_through_time": decades_through_time,
    "total_decades": lambda trace: trace.total_decades,
    "signal_lost": lambda trace: trace.signal_lost,
    "first_layer_input_rms": _first_layer_input_rms,
    "loss": lambda trace: trace.run.loss,
    "layers_apart": _layers_apart,
    "alike_layers": _alike_layers,
    "dead_share": _dead_share,
    "stream_growth": _stream_growth,
    "attention_logits_rms": logits_rms,
}
"""The quantities a prediction may speak of."""


def check_predictions(predictions: tuple[Prediction, ...], trace: Trace) -> tuple[Checked, ...]:
    """Measure each promise on a look at the edited model; what cannot be measured has not held."""
    found = []
    for prediction in dict.fromkeys(predictions):
        measure = MEASURES.get(prediction.quantity)
        observed = measure(trace) if measure else None
        held = observed is not None and prediction.low <= observed <= prediction.high
        found.append(Checked(prediction=prediction, observed=observed, held=held))
    return tuple(found)
