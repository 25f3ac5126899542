"""Standardise every unit over the batch, in front of the activation."""

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
def insert_batch_norm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Normalise what the activation reads, unit by unit, over the batch.

    What it does:
        nn.BatchNorm1d, 2d or 3d behind each guilty layer, in front of its activation. Where few
        layers are guilty, only behind these. Biases of the layers stay; the norm takes their
        effect away.

    Why it should work:
        It removes both what all samples share and what scale the weights have, at every step: so
        it heals the offset of a sigmoid as well as its slope.

    What it predicts:
        The whole model's gradient changes by less than three decades, and the signal across
        samples by less than two.

    When it refuses:
        Batches of fewer than 16 samples; recurrent networks, attention and positions of
        sequences (layer norm is for these); a model in evaluation mode; layers that are shared or
        not torch's own. And where it would be the next cause: with ReLU each norm multiplies the
        gradient by sqrt(pi / (pi - 1)) = 1.21, so no more than twenty in a row without a skip.
        Where the finding follows from another cause, or a layer's weights are so small (gain below
        1e-3) that the norm's eps outweighs what it puts out: redraw-layer.

    What it costs:
        Two parameters and two running statistics for each unit, and about as much time again in
        small networks. Behaves otherwise in evaluation mode. New parameters join the optimizer;
        they want no weight decay. Trained models compute something else.

    References:
        Ioffe and Szegedy 2015; Yang et al. 2019 (its explosion); Wu and He 2018 (small batches).
        A plain net of 100 sigmoid layers: 9 % without, 83 % with it (reference measurements).
    """
    yield insertion("BatchNorm", findings, trace)
