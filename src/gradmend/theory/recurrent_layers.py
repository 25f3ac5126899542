"""The recurrent layers of a look: what they are, how long their sequences, what time does."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.layout import ModuleFacts
from gradmend.records.prescription import Edit, Prediction
from gradmend.records.trace import Trace
from gradmend.theory.gates import MANY_STEPS, memory_rate
from gradmend.theory.repeated import repeated_modules

PLAIN = ("RNN", "RNNCell")
GATED = ("LSTM", "GRU", "LSTMCell", "GRUCell", "HiddenLSTM")

FASTER = 1.5
"""Times a rate must grow to be another; our choice."""
LOST = -4.0
"""Decades over a sequence: as in the rule gradient-lost-through-time."""
KEPT = 2.0
"""Decades over a sequence that a repaired layer may lose. Chrono gates were measured at -1.0 to
-1.2, all others above (60 to 200 steps, width 32; our measurement)."""
GAINED = 3.0
"""Decades that it may gain: where the rule gradient-grown-through-time begins. New LSTMs were
measured at 1.1 over 60 and 2.0 over 200 steps, and in a stack of two at 2.1 and 3.1."""


@dataclass(frozen=True, slots=True)
class RecurrentLayer:
    """A recurrent layer or cell that ran, over sequences longer than one step."""

    facts: ModuleFacts
    steps: int
    span: float = math.nan
    """log10 |dL/dh| at the first step less that at the last, the worst of its layers and
    directions; NaN where not known."""
    gain: float = math.nan
    """log10 of the gradient's growth per step on its way back; the largest."""
    radius: float = math.nan
    """Spectral radius of the recurrent weights where that is."""
    trainable: bool = True
    """Whether every own parameter is trained, and nobody else's."""

    @property
    def path(self) -> str:
        """In the model."""
        return self.facts.path

    @property
    def rectified(self) -> bool:
        """Whether it is a plain layer of ReLU."""
        return self.facts.kind in PLAIN and self.facts.settings.get("nonlinearity") == "relu"

    @property
    def units(self) -> int:
        """Of its state; 0 where not known."""
        size = self.facts.settings.get("hidden_size")
        return size if isinstance(size, int) and size > 0 else 0

    @property
    def has_biases(self) -> bool:
        """Whether gates could be opened by them."""
        return any(".bias_" in f".{name}" for name in self.facts.parameters)


def recurrent_layers(trace: Trace) -> tuple[RecurrentLayer, ...]:
    """Recurrent layers and cells of torch's own, in the order of the model's modules."""
    found = []
    trained = {p.name for p in trace.parameters if p.trainable}
    for facts in trace.modules:
        if facts.kind not in (*PLAIN, *GATED) or not (facts.standard or facts.kind == "HiddenLSTM"):
            continue
        records = [r for r in trace.recurrences if r.name == facts.path]
        steps = max((r.steps for r in records), default=_length(facts))
        if steps < 2:
            continue
        spans = [r.log10_span for r in records if not math.isnan(r.log10_span)]
        gains = [(r.log10_gain, r.spectral_radius) for r in records if math.isfinite(r.log10_gain)]
        gain, radius = max(gains, default=(math.nan, math.nan))
        found.append(
            RecurrentLayer(
                facts=facts,
                steps=steps,
                span=min(spans, default=math.nan),
                gain=gain,
                radius=radius,
                trainable=facts.uses == 1 and set(facts.parameters) <= trained,
            )
        )
    return tuple(found)


def blamed(findings: Iterable[Finding], trace: Trace) -> tuple[RecurrentLayer, ...]:
    """Those that findings name; of findings that name none, those that lose their gradient."""
    layers, named = recurrent_layers(trace), {m for f in findings for m in f.modules}
    found = tuple(layer for layer in layers if layer.path in named)
    return found or tuple(layer for layer in layers if layer.span <= LOST)


def blamed_loops(findings: Iterable[Finding], trace: Trace) -> tuple[tuple[ModuleFacts, int], ...]:
    """Square linear layers that findings name and a loop calls, with the number of calls.

    They are a recurrence written by hand: what they make of a state is its next one.
    """
    named = {module for finding in findings for module in finding.modules}
    trained = {p.name for p in trace.parameters if p.trainable}
    found = []
    for repeated in repeated_modules(trace):
        facts = trace.module_at.get(repeated.module)
        if facts is None or repeated.module not in named or facts.kind != "Linear":
            continue
        square = facts.settings.get("in_features") == facts.settings.get("out_features")
        if facts.standard and square and facts.uses == 1 and set(facts.parameters) <= trained:
            found.append((facts, len(repeated.log10_grad)))
    return tuple(found)


def decades_through_time(trace: Trace) -> float | None:
    """What time does to the gradient: of all recurrent layers and loops, the most.

    Returns:
        log10 |dL/dh| at the first step less that at the last, of the layer where it is farthest
        from zero; ``None`` where nothing recurs.
    """
    spans = [r.log10_span for r in trace.recurrences if not math.isnan(r.log10_span)]
    spans += [found.span for found in repeated_modules(trace, 0.0)]
    return max(spans, key=abs, default=None)


def rate_for_memory(trace: Trace, layers: Iterable[RecurrentLayer]) -> tuple[Edit, float] | None:
    """A learning rate at which open gates are learned to be used in a trial's length.

    Returns:
        The edit and the rate it leads to; ``None`` where sequences are short, steps have the
        gradient's size, or the rate is about as large already.
    """
    known = [layer for layer in layers if layer.units]
    rate = trace.optimizer.learning_rate if trace.optimizer is not None else None
    if trace.optimizer is None or not trace.optimizer.adaptive or not rate or not known:
        return None
    wanted = min(memory_rate(layer.units) for layer in known)
    if max(layer.steps for layer in known) < MANY_STEPS or wanted < FASTER * rate:
        return None
    return Edit(kind="scale_learning_rate", args={"factor": wanted / rate}), wanted


def reaches_the_first_step(trace: Trace, treated: Iterable[str]) -> Prediction:
    """What a repair of the gradient through time promises of all layers.

    Args:
        trace: The look before it.
        treated: Paths of the layers it changes; others stay as they are.
    """
    paths = set(treated)
    others = [x.span for x in recurrent_layers(trace) if x.path not in paths]
    worst = min((s for s in others if math.isfinite(s)), default=0.0)
    return Prediction(
        quantity="decades_through_time",
        low=min(-KEPT, worst - KEPT),
        high=GAINED + max((s for s in others if math.isfinite(s)), default=0.0),
        unit="decades",
        sentence=(
            f"on its way back to the first time step the gradient loses less than {KEPT:g} decades"
            f" and gains less than {GAINED:g}"
        ),
    )


def _length(facts: ModuleFacts) -> int:
    """Time steps of the tensor that a layer was called with, where that is known."""
    shape = facts.takes
    if shape is None or len(shape) < 2 or facts.kind.endswith("Cell"):
        return 0
    return shape[1] if len(shape) == 3 and facts.settings.get("batch_first") else shape[0]
