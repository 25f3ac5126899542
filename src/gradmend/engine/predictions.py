"""Check what a remedy promised against a second look."""

from __future__ import annotations

from collections.abc import Callable

from gradmend.records.prescription import Prediction
from gradmend.records.trace import Trace
from gradmend.records.verdict import Checked
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


MEASURES: dict[str, Callable[[Trace], float | None]] = {
    "decades_through_time": decades_through_time,
    "total_decades": lambda trace: trace.total_decades,
    "signal_lost": lambda trace: trace.signal_lost,
    "first_layer_input_rms": _first_layer_input_rms,
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
