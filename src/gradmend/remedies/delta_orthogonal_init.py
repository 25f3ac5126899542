"""Draw convolutions that begin as an orthogonal map at their centre."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.drawing import (
    Target,
    activation_of,
    blame,
    causes,
    draw,
    is_odd,
    own_layers,
    refusal,
    refused,
    target_of,
)
from gradmend.theory.layer_gain import head_of
from gradmend.theory.mirroring import steps_by_one

PLAIN = 20
"""Convolutions in a row from which it is worth it. With ten tanh layers dense orthogonal kernels
reached losses of 0.03 to 0.04 in 120 steps and delta kernels 0.87 to 0.94 (our runs, two seeds):
they have their spatial part still to learn. With thirty, delta kernels in all but the first
reached 0.90 of digits in 200 steps, in the first, too, 0.88 (one seed)."""


@remedy(
    treats=["init-gain-too-small", "init-gain-too-large", "depth-without-skip"],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def delta_orthogonal_init(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Set kernels to zero but for an orthogonal centre tap, at the critical gain.

    What it does:
        Every convolution that neither strides nor changes its channels gets a kernel that is zero
        but for its centre, and an orthogonal matrix there; others, and linear layers, orthogonal
        weights: all channels of a delta kernel over one channel are copies of its pixels.
        The gain is the critical one for the activation and the depth. Where the learning rate is
        far too high for the depth, it is lowered with it.

    Why it should work:
        A dense random kernel keeps the mean energy and damps most spatial frequencies; a delta
        kernel keeps each of them, so that deep stacks stay isometric. It begins as a network of
        1 x 1 convolutions and learns its spatial part.

    What it predicts:
        The whole model's gradient and the signal change by less than three decades: a pool behind
        the stack averages away what delta kernels have not mixed.

    When it refuses:
        The model is no plain chain of at least twenty convolutions (norms and skips keep what this
        is for); the activations are not odd (rectifiers: looks-linear-init); kernels
        of even size have no centre, and most change their channels; one layer alone is to blame.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        Xiao et al. 2018 (10,000-layer tanh convolutional networks).
    """
    guilty = causes(findings)
    found, acts = blame(guilty, trace), activation_of(trace)
    layers = own_layers(trace)
    kernels = [op for op in layers if op.weights is not None and op.weights.kind == "convolution"]
    fed = [acts[op.id].activation for op in kernels if op.id in acts]
    reason = refused(findings, found, "delta-orthogonal-init")
    norms = any(op.cause == "normalisation" for op in trace.operations)
    if not reason and (len(kernels) < PLAIN or norms or not trace.is_chain):
        reason = f"no plain chain of {PLAIN} convolutions without norm or skip"
    if not reason and not all(facts is not None and is_odd(facts) for facts in fed):
        reason = "made for odd activations: looks-linear-init draws kernels for rectifiers"
    delta = [op for op in kernels if _keeps(op) and steps_by_one(trace, op)]
    if not reason and 2 * len(delta) < len(kernels):
        reason = "most convolutions stride, change their channels or have no centre"
    if reason:
        yield refusal("delta-orthogonal-init", findings, reason)
        return
    depth = max(1, trace.chain_depth)
    heads = {op.id: head_of(trace, op, acts.get(op.id), depth) for op in layers[-1:]}
    dense = [op for op in layers if op not in delta and (op.id in acts or heads.get(op.id))]
    edits = [
        draw(
            [
                (
                    op,
                    heads.get(op.id) or target_of(trace, op, acts.get(op.id), depth) or Target(1.0),
                )
                for op in group
            ],
            scheme,
        )
        for group, scheme in ((delta, "delta_orthogonal"), (dense, "orthogonal"))
        if group
    ]
    yield from with_rate(
        Prescription(
            edits=tuple(edits),
            predictions=(Prediction.gradient_kept(3), Prediction.signal_kept(3)),
            changes=(Change.INITIALISATION,),
            reason=f"delta-orthogonal kernels in {len(delta)} convolution(s)",
        ),
        trace,
    )


def _keeps(op: Operation) -> bool:
    facts = op.weights
    if facts is None or not facts.module_is_plain or any(size % 2 == 0 for size in facts.shape[2:]):
        return False
    return facts.shape[0] == facts.shape[1] and facts.unit_spread is not None
