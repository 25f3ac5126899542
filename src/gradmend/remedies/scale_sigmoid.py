"""Let sigmoids compute 4 (sigma - 1/2), where their surroundings forbid centred coordinates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.places import own_layer, places, times_used
from gradmend.theory.reference_gain import reference_gain
from gradmend.theory.sigmoids import foldable_readers, neighbours, times_called


@remedy(
    treats=["uncentred-activation", "attenuating-activation"],
    changes=[Change.INITIALISATION, Change.ACTIVATION],
)
def scale_sigmoid(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Scale and centre the guilty sigmoids: 4 (sigma(x) - 1/2) = 2 tanh(x / 2).

    What it does:
        Every guilty nn.Sigmoid computes 4 (sigma(x) - 1/2), with slope one and mean zero at the
        origin, and the layers in front of them start orthogonal at the critical gain for it.
        Where only linear layers with a bias read it, ``.export()`` folds the map into these.

    Why it should work:
        Both faults of the sigmoid, a slope of at most 1/4 and a mean of 1/2, are taken away
        where they arise, whatever stands in front: a convolution, a norm, several inputs.

    What it predicts:
        The whole model's gradient changes by less than two decades.

    When it refuses:
        All sigmoids stand alone between linear layers, where centred coordinates do the same
        and fold away wholly; they are functional; sigmoids that gate others are left alone.

    What it costs:
        Nothing at run time. Behind convolutions it cannot be folded: their padding is a zero of
        other coordinates. Trained weights are lost: for models before training.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (section 4.4); Xu, Huang, Li 2016 (Revise saturated
        activation functions) use 4 sigma - 2. 100 layers: 9 % plain, 89 % so (reference
        measurements).
    """
    blamed = {module for finding in findings for module in finding.modules}
    gates = {op.id for op in trace.gates}
    guilty = [
        op
        for op in trace.activations
        if op.activation
        and op.activation.function == "sigmoid"
        and op.module in blamed
        and op.id not in gates
        and op.cause != "recurrence"
    ]
    uses = times_called(trace)
    reason = ""
    if not guilty:
        reason = "there is no sigmoid: only it has these coordinates"
    elif any(not op.activation.replaceable for op in guilty if op.activation):
        reason = "a sigmoid is called as a function: change it in the source"
    elif any(uses[op.module] > 1 for op in guilty):
        reason = "a sigmoid module is called several times"
    elif all(neighbours(trace, op, uses)[0] is not None for op in guilty):
        reason = "centred coordinates fit every one of them, and fold away wholly"
    if reason:
        yield Refusal(
            remedy="scale-sigmoid", finding=findings[0].name if findings else "", reason=reason
        )
        return
    critical = reference_gain("centred_sigmoid", max(1, trace.chain_depth))
    assert critical is not None
    acts, counted = {op.id for op in guilty}, times_used(trace)
    layers = [
        place.weights
        for place in places(trace)
        if place.act.id in acts
        and not place.normed
        and place.weights.trainable
        and own_layer(trace, place, counted)
    ]
    edit = Edit(
        kind="scale_sigmoids",
        targets=tuple(op.module for op in guilty),
        args={"readers": [[r.module for r in foldable_readers(trace, op, uses)] for op in guilty]},
    )
    promise = Prescription(
        edits=(edit,),
        predictions=(Prediction.gradient_kept(2),),
        changes=(Change.ACTIVATION,),
        reason=f"{len(guilty)} sigmoids become 4 (sigma - 1/2)",
    )
    if layers:
        draw = Edit.initialise(
            [(w.parameter, w.bias) for w in layers], [critical.sigma_w] * len(layers)
        )
        promise = replace(
            promise,
            edits=(edit, draw),
            changes=(Change.INITIALISATION, Change.ACTIVATION),
        )
    yield promise
