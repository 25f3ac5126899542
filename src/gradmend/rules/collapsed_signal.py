"""GRF104: every sample looks the same to the last layers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.request import Measurement, Request
from gradmend.records.trace import Trace
from gradmend.registry import Case, limit, rule


@dataclass(frozen=True)
class Limits:
    """When a signal has collapsed."""

    decades: float = limit(
        4.0,
        unit="decades",
        source="rms difference between samples falls ten-thousandfold, the limit of "
        "uncentred-activation",
    )


@rule(
    code="GRF104",
    limits=Limits,
    fires_on=[
        Case.of("mlp", depth=100, activation="sigmoid"),
        Case.of("mlp", depth=24, activation="relu"),
    ],
    silent_on=[
        Case.of("mlp", depth=3),
        Case.of("transformer"),
        Case.of("residual_mlp"),
        Case.of("cnn", depth=6),
    ],
)
def collapsed_signal(trace: Trace, limits: Limits) -> Iterator[Finding | Request]:
    """Forward signal in which the differences between samples are lost.

    What it finds:
        Models whose last linear map answers nearly the same to every sample, while the first
        still tells them apart. A symptom: it ranks below every cause that explains it.

    Why it matters:
        A layer that answers the same to every input can learn a constant and nothing else, even
        under a gradient of healthy size.

    How it is measured:
        Rms over samples, per unit, of the outputs of the first and the last linear map. Where
        the gradient has more ways than one, also after a few training steps: branches that begin
        nearly closed (LayerScale) open within them.

    Silent when:
        The signal keeps its size, or comes back within a few steps; there is one sample only.

    References:
        Schoenholz et al. 2017 (correlation length xi_c); Glorot and Bengio 2010; Touvron et al.
        2021 (LayerScale, class attention).
    """
    lost = trace.signal_lost
    if lost is None or not lost >= limits.decades:  # NaN convicts nobody
        return
    if not trace.is_chain and trace.run.step == 0:
        later = trace.answer(Measurement.FEW_STEPS)
        if later is None:
            yield Request(
                code="GRF104",
                name="collapsed-signal",
                measurement=Measurement.FEW_STEPS,
                why=f"whether the {lost:.1f} decades by which samples grow alike come back",
            )
            return
        left = later.trace.signal_lost
        if left is not None and left < limits.decades:
            return
    yield Finding(
        code="GRF104",
        name="collapsed-signal",
        severity=Severity.ERROR,
        modules=(trace.weights[-1].module,),
        source=trace.weights[-1].source,
        summary=(
            f"differences between samples shrink by {lost:.1f} decades from first to last layer"
        ),
        evidence=(
            Evidence(
                quantity="signal lost across samples",
                observed=lost,
                limit=limits.decades,
                unit="decades",
            ),
        ),
        weight=lost,
        exculpation="a signal that survives",
        symptom=True,
    )
