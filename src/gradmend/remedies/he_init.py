"""Draw the weights of a rectifier net at He's scale."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    RECTIFIERS,
    blame,
    causes,
    draw,
    refusal,
    refused,
    rows_by_activation,
)
from gradmend.theory.initialisation import he_gain


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "saturated-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION],
)
def he_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw the weights before rectifiers with variance 2 / ((1 + a^2) fan_in), a the leak.

    What it does:
        Every layer that feeds ReLU, LeakyReLU or PReLU gets normal weights at He's gain
        sqrt(2 / (1 + a^2)), a being the slope that was measured, and biases of zero. A
        layer of outputs is drawn too (gain one) where its own is far from usual.

    Why it should work:
        A rectifier passes half of the energy, (1 + a^2) / 2, in either direction; a doubled
        variance pays for it exactly, at any scale of the signal.

    What it predicts:
        The whole model's gradient changes by less than three decades: a normal draw at
        finite width wanders by some tenths of a decade in ten layers.

    When it refuses:
        Activations that are no rectifiers (critical-init knows theirs); one layer alone is
        to blame (redraw-layer keeps the others); the guilty layers are frozen, shared or
        tied.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        He, Zhang, Ren, Sun 2015, eq. 15.
    """
    guilty = causes(findings)
    found = blame(guilty, trace)
    rows, other = rows_by_activation(
        trace,
        lambda facts: (
            he_gain(facts.negative_slope or 0.0) if facts.function in RECTIFIERS else None
        ),
    )
    reason = refused(findings, found, "he-init")
    if not reason and (other or not rows):
        reason = (
            f"made for rectifiers, and a layer feeds {other}"
            if other
            else "no layer of its own feeds a rectifier"
        )
    if reason:
        yield refusal("he-init", findings, reason)
        return
    yield Prescription(
        edits=(draw(rows, "normal"),),
        predictions=(Prediction.gradient_kept(3),),
        changes=(Change.INITIALISATION,),
        reason=f"He's scale in {len(rows)} layer(s)",
    )
