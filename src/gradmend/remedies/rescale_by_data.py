"""Set every layer's scale and offset from one batch of data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION],
)
def rescale_by_data(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Rescale every layer on a batch: each unit centred, each layer at unit rms.

    What it does:
        Draws orthogonal weights and, in one forward pass on a batch, divides every layer's
        weights by the rms of its centred pre-activation and moves every unit's bias by its mean.

    Why it should work:
        Whatever the activation and whatever stands between two layers, the pre-activations then
        are where its slope is, unit by unit. Per unit, not over the whole layer: a layer-wide
        standard deviation is satisfied by constant offsets while the signal dies.

    What it predicts:
        The signal across samples keeps its size within one decade.

    When it refuses:
        A layer without bias or used several times, or no layer that is plain and trainable.

    What it costs:
        Nothing at run time; one forward pass once. Needs data when applied. Trained weights are
        lost.

    References:
        Mishkin and Matas 2016 (LSUV), with a mean per unit; Kraehenbuehl et al. 2016.
    """
    layers = [
        op
        for op in trace.weights
        if op.weights and op.weights.trainable and op.weights.module_is_plain and op.share > 0
    ]
    uses = Counter(op.module for op in trace.weights)
    fit = [op for op in layers if op.weights and op.weights.bias and uses[op.module] == 1]
    if not fit or len(fit) < len(layers):
        yield Refusal(
            remedy="rescale-by-data",
            finding=findings[0].name if findings else "",
            reason="needs plain trainable layers with a bias, each used once",
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="rescale_by_data",
                targets=tuple(op.module for op in fit),
                args={"std": 1.0, "orthogonal": True, "seed": 0},
            ),
        ),
        predictions=(Prediction.signal_kept(1),),
        changes=(Change.INITIALISATION,),
        reason=f"{len(fit)} layers scaled and centred on a batch",
    )
