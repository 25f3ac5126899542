"""Standardise each sample over its units."""

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
def insert_layer_norm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Normalise each sample over its units, where batch norm does not fit.

    What it does:
        nn.LayerNorm behind each guilty linear layer, in front of its activation. Where few layers
        are guilty, only behind these.

    Why it should work:
        The scale of the weights no longer matters, sample by sample and position by position. With
        ReLU it keeps the gradient's size, where batch norm makes it grow.

    What it predicts:
        The whole model's gradient changes by less than three decades, and the signal across
        samples by less than two.

    When it refuses:
        Where batch norm fits; behind convolutions (group norm). For sigmoids in a row: it scales,
        but what all units share stays, so it loses 0.41 decades of gradient at every layer (a
        hundred sigmoid layers with layer norms stay at chance). For more than 20 layers of ReLU in
        a row, behind which samples have grown alike. For findings that follow from another cause;
        for weights so small that the norm's eps outweighs what they put out.

    What it costs:
        Two parameters for each unit, which join the optimizer and want no weight decay.

    References:
        Ba, Kiros, Hinton 2016 (Layer normalization).
    """
    yield insertion("LayerNorm", findings, trace)
