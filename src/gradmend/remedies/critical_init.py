"""Draw the weights anew at the edge where gradients neither vanish nor explode."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.drawing import (
    activation_of,
    blame,
    causes,
    draw,
    own_layers,
    refusal,
    refused,
    stands_apart,
    target_of,
)
from gradmend.theory.layer_gain import head_of


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def critical_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw weights anew, orthogonal, at the critical gain for the activation and the depth.

    What it does:
        For every linear or convolutional layer that feeds an activation: orthogonal weights with
        the depth-aware critical gain sigma_w, and biases that remove the mean of what the layer
        reads (b = -E[phi] W 1) where that activation's output is not centred. For an activation
        that theory does not know, the gain is one over the slope that was measured. The output
        layer is drawn only to centre what it reads, to bring the small signal of a deep tanh net to
        size (a gain of at most three), or where its own gain is far from usual. Where
        the learning rate is far too high for the depth of a plain chain, it is lowered with it.

    Why it should work:
        chi = sigma_w^2 E[phi'^2] = 1 keeps the squared gradient from layer to layer; slightly
        more than 1 (depth * (chi - 1) = 1) also keeps the signal. Orthogonal weights treat all
        directions alike, not only on average. For the sigmoid both halves are needed: gain 4 for
        the slope, the centred bias for the mean. For GELU, SiLU, Mish and softplus, whose q would
        drift away from where chi is one, the first layer brings the inputs to that q and centred
        biases keep it there.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two; by less than three with convolutions, which lose at the rim.

    When it refuses:
        One layer alone is to blame (redraw-layer keeps the others); no layer feeds an activation
        whose gain is known; the weights are frozen, shared or composed of several parameters.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        Saxe, McClelland, Ganguli 2014; Pennington, Schoenholz, Ganguli 2017; He et al. 2015.
        Depth-aware gain: gradmend.theory.critical.
    """
    found, acts = blame(causes(findings), trace), activation_of(trace)
    reason = refused(findings, found, "critical-init")
    depth = max(1, trace.chain_depth)
    rows = []
    for op in own_layers(trace):
        act = acts.get(op.id)
        target = target_of(trace, op, act, depth)
        head = head_of(trace, op, act, depth)
        if head is not None:
            rows.append((op, head))
        elif target is not None and (act is not None or target.centre or stands_apart(op, act)):
            rows.append((op, target))
    if not reason and not any(op.id in acts for op, _ in rows):
        reason = "no trainable layer of its own feeds an activation that theory knows"
    if reason:
        yield refusal("critical-init", findings, reason)
        return
    # The zeros around a picture are no signal: each convolution loses a little at the rim.
    within = 3.0 if any(op.weights and op.weights.kind == "convolution" for op, _ in rows) else 2.0
    yield from with_rate(
        Prescription(
            edits=(draw(rows, "orthogonal"),),
            predictions=(Prediction.gradient_kept(within), Prediction.signal_kept(within)),
            changes=(Change.INITIALISATION,),
            reason=f"orthogonal weights at the critical gain in {len(rows)} layer(s)",
        ),
        trace,
    )
