"""Set every layer's scale and offset from one batch of data."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import blame, causes, made_up_for, own_layers, refusal, refused


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
        "collapsed-signal",
        "vanishing-gradient",
        "exploding-gradient",
    ],
    changes=[Change.INITIALISATION],
)
def rescale_by_data(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Rescale layers on a batch: each unit centred, each layer at unit rms.

    What it does:
        Draws orthogonal weights and, in one forward pass on a batch, divides every layer's
        weights by the rms of its centred pre-activation and moves every unit's bias by its mean.
        Where one layer stands out, only that one is scaled, its directions are kept, and the rms
        is that of the layers before it. Layers without bias are scaled and not centred.

    Why it should work:
        Whatever the activation and whatever stands between two layers, the pre-activations then
        are where its slope is, unit by unit. Per unit, not over the whole layer: a layer-wide
        standard deviation is satisfied by constant offsets while the signal dies.

    What it predicts:
        The signal across samples keeps its size within one decade; two without biases. Nothing
        where one layer of many is scaled: the others decide.

    When it refuses:
        A layer that is used several times, or none that is plain and trainable; the finding
        follows from another cause.

    What it costs:
        Nothing at run time; one forward pass once. Needs data when applied. Trained weights are
        lost where they are drawn.

    References:
        Mishkin and Matas 2016 (LSUV), with a mean per unit; Kraehenbuehl et al. 2016.
    """
    found = blame(causes(findings), trace)
    plain = [op for op in own_layers(trace) if _is_plain(op)]
    every = [op for op in trace.weights if _of_module(op)]
    few = [op for op in found.few if _is_plain(op)]
    reason = refused(findings, found, "redraw-layer")
    if not reason and not few and (not plain or len(plain) < len(every)):
        reason = "needs plain trainable layers, each used once"
    if not reason and not few and 2 * len(plain) < len(trace.activations):
        reason = "most layers are no plain modules: composed weights, or bare parameters"
    if not reason and not few and found.few:
        reason = "the guilty layer is no plain module"
    if not reason and made_up_for(trace, found.few):
        reason = "another layer makes up for it, and their product is right: balance-layers"
    if reason:
        yield refusal("rescale-by-data", findings, reason)
        return
    if few:
        usual = _usual_size(trace, few)
        yield Prescription(
            edits=(_edit(few, usual, draw=False),),
            changes=(Change.INITIALISATION,),
            reason=f"{few[0].module} scaled to an rms of {usual:.2g} on a batch",
        )
    if few and not found.widely:
        return
    biased = all(op.weights is not None and op.weights.bias for op in plain)
    yield Prescription(
        edits=(_edit(plain, 1.0, draw=biased),),
        predictions=(Prediction.signal_kept(1 if biased else 2),),
        changes=(Change.INITIALISATION,),
        reason=f"{len(plain)} layers scaled{' and centred' if biased else ''} on a batch",
    )


def _edit(layers: list[Operation], std: float, *, draw: bool) -> Edit:
    return Edit(
        kind="rescale_by_data",
        targets=tuple(op.module for op in layers),
        args={"std": std, "orthogonal": draw, "seed": 0},
    )


def _of_module(op: Operation) -> bool:
    """Whether it is a trainable layer's own weight, however often that is used."""
    facts = op.weights
    return facts is not None and facts.trainable and facts.parameter == f"{op.module}.weight"


def _is_plain(op: Operation) -> bool:
    return op.weights is not None and op.weights.module_is_plain and bool(op.module)


def _usual_size(trace: Trace, few: list[Operation]) -> float:
    """Rms across samples of what healthy layers in front put out; one where there are none."""
    first = min(op.id for op in few)
    sizes = [
        math.sqrt(op.signal.spread_square)
        for op in trace.weights
        if op.id < first and op.signal is not None and op.signal.spread_square > 0
    ]
    return min(max(statistics.median(sizes), 0.3), 3.0) if sizes else 1.0
