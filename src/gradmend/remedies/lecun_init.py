"""Draw the weights of a SELU net at LeCun's scale."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    blame,
    causes,
    draw,
    refusal,
    refused,
    rows_by_activation,
)


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "saturated-activation",
    ],
    changes=[Change.INITIALISATION],
)
def lecun_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw weights with variance 1 / fan_in, which SELU is made for.

    What it does:
        Every layer that feeds SELU gets normal weights of variance 1 / fan_in and biases of
        zero.

    Why it should work:
        SELU's two constants are solved so that mean zero and variance one are a stable
        fixed point under exactly these weights.

    What it predicts:
        The whole model's gradient changes by less than two decades.

    When it refuses:
        Any other activation (SELU's constants alone have this fixed point); one layer alone
        is to blame; the guilty layers are frozen, shared or tied.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        LeCun, Bottou, Orr, Mueller 1998, section 4.6; Klambauer et al. 2017.
    """
    guilty = causes(findings)
    found = blame(guilty, trace)
    rows, other = rows_by_activation(trace, lambda facts: 1.0 if facts.function == "selu" else None)
    reason = refused(findings, found, "lecun-init")
    if not reason and (other or not rows):
        reason = (
            f"made for SELU, and a layer feeds {other}"
            if other
            else "no layer of its own feeds SELU"
        )
    if reason:
        yield refusal("lecun-init", findings, reason)
        return
    yield Prescription(
        edits=(draw(rows, "normal"),),
        predictions=(Prediction.gradient_kept(2),),
        changes=(Change.INITIALISATION,),
        reason=f"LeCun's scale in {len(rows)} layer(s)",
    )
