"""Standardise groups of channels within each sample."""

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
def insert_group_norm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Normalise groups of channels of each sample, where batches are too small for batch norm.

    What it does:
        nn.GroupNorm behind each guilty convolution, in front of its activation, with up to 32
        groups of at least four channels. Where few layers are guilty, only behind these.

    Why it should work:
        The scale of the weights no longer matters, and the statistics are each sample's own, so
        the size of the batch does not matter either.

    What it predicts:
        The whole model's gradient changes by less than three decades, and the signal across
        samples by less than two.

    When it refuses:
        Batches of 16 samples and more, where batch norm is tried; networks without convolutions;
        activations whose mean drowns the signal (a sigmoid's), which it does not remove, or which
        would make the gradient grow or vanish over the depth. Findings that follow from another
        cause; weights so small that the norm's eps outweighs what they put out.

    What it costs:
        Two parameters for each channel, which join the optimizer and want no weight decay.

    References:
        Wu and He 2018 (Group normalization).
    """
    yield insertion("GroupNorm", findings, trace)
