"""Scale each sample to unit rms over its units."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.norm_choice import insertion


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
    ],
    changes=[Change.NORMALISATION],
)
def insert_rms_norm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Scale each sample to unit rms over its units, in networks without biases.

    What it does:
        nn.RMSNorm behind each guilty linear layer, in front of its activation. Where few layers
        are guilty, only behind these.

    Why it should work:
        As a layer norm, without its centring: in networks whose layers have no biases, or that
        have RMS norms already, a layer norm would bring in offsets that were left out on purpose.

    What it predicts:
        The whole model's gradient changes by less than three decades, and the signal across
        samples by less than two.

    When it refuses:
        Layers with biases (layer norm); where batch norm fits; behind convolutions; where the
        gradient would vanish or grow over the depth all the same, as with sigmoids; for findings
        that follow from another cause; for weights so small that its eps outweighs what they put
        out.

    What it costs:
        One parameter for each unit, which joins the optimizer and wants no weight decay.

    References:
        Zhang and Sennrich 2019 (Root mean square layer normalization).
    """
    yield insertion("RMSNorm", findings, trace)
