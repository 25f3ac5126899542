"""Move biases so that units work around zero, and leave every weight as it is."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    activation_of,
    blame,
    causes,
    own_layers,
    refusal,
    refused,
    stands_apart,
)

SHIFTED = 0.8
"""Share of a pre-activation's energy that all samples have in common, from which the offset and
not the weights puts a layer where it is: a mean of two standard deviations."""


@remedy(
    treats=["uncentred-activation", "saturated-activation", "dead-relu"],
    changes=[Change.INITIALISATION],
)
def centre_bias(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Subtract from each unit's bias the mean of its pre-activation on a batch.

    What it does:
        In one forward pass, b -= mean(z) for every unit of the guilty layers; of all layers where
        an activation's own mean fills the signal. No weight is touched.

    Why it should work:
        A unit whose mean lies far out is on its flat for every sample, whatever its weights. With
        the mean gone it works where its slope is.

    What it predicts:
        The signal across samples keeps its size within four decades.

    When it refuses:
        The offset is not what puts the layers there (their spread is as large: rescale-by-data,
        redraw-layer); the weights are too small or too large besides (critical-init sets both);
        the guilty layers have no bias, or are frozen, shared or tied.

    What it costs:
        One forward pass once. Needs data when applied.

    References:
        LeCun, Bottou, Orr, Mueller 1998, section 4.4 (mean zero); Lu et al. 2019 (dying ReLU).
    """
    guilty = causes(findings)
    found, acts = blame(guilty, trace), activation_of(trace)
    reason = refused(findings, found, "redraw-layer")
    everywhere = any(f.name == "uncentred-activation" for f in guilty)
    names = {module for finding in guilty for module in finding.modules}
    rows = []
    for op in own_layers(trace):
        act = acts.get(op.id)
        named = op.module in names or (act is not None and act.module in names)
        if not op.module or op.weights is None or not op.weights.module_is_plain:
            continue
        if everywhere or (named and _is_shifted(op)):
            rows.append(op)
    if not reason and not rows:
        reason = "the offset of what the layers put out is not what is wrong with them"
    if not reason and everywhere and 2 * len(rows) < len(trace.activations):
        reason = "most layers are frozen, shared or no plain modules"
    if not reason and any(stands_apart(op, acts.get(op.id)) for op in rows if op.id in acts):
        reason = "their weights are far from the right size besides"
    if not reason and not all(op.weights and op.weights.bias for op in rows):
        reason = "a layer without bias cannot be centred"
    if reason:
        yield refusal("centre-bias", findings, reason)
        return
    yield Prescription(
        edits=(
            Edit(
                kind="rescale_by_data",
                targets=tuple(op.module for op in rows),
                args={"orthogonal": False, "scale": False},
            ),
        ),
        predictions=(Prediction.signal_kept(4),),
        changes=(Change.INITIALISATION,),
        reason=f"biases of {len(rows)} layer(s) centred on a batch",
    )


def _is_shifted(op: Operation) -> bool:
    return op.signal is not None and op.signal.offset_share > SHIFTED
