"""Draw convolutions that begin as an orthogonal map at their centre."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
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

PLAIN = 20
"""Convolutions in a row from which it is worth it. With ten tanh layers dense orthogonal kernels
reached losses of 0.03 to 0.04 in 120 steps and delta kernels 0.87 to 0.94 (our runs, two seeds):
they have their spatial part still to learn."""


@remedy(
    treats=["init-gain-too-small", "init-gain-too-large", "depth-without-skip"],
    changes=[Change.INITIALISATION],
)
def delta_orthogonal_init(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Set kernels to zero but for an orthogonal centre tap, at the critical gain.

    What it does:
        Every convolution that does not lose channels gets a kernel that is zero but for its
        centre, and an orthogonal matrix there; others, and linear layers, orthogonal weights.
        The gain is the critical one for the activation and the depth.

    Why it should work:
        A dense random kernel keeps the mean energy and damps most spatial frequencies; a delta
        kernel keeps each of them, so that deep stacks stay isometric. It begins as a network of
        1 x 1 convolutions and learns its spatial part.

    What it predicts:
        The whole model's gradient and the signal change by less than three decades: a pool behind
        the stack averages away what delta kernels have not mixed.

    When it refuses:
        The model is no plain chain of at least twenty convolutions (norms and skips keep what this
        is for); the activations are not odd: rectifiers cannot be isometric at any draw; kernels
        of even size have no centre, and most lose channels; one layer alone is to blame.

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
        reason = "made for odd activations: rectifiers are not isometric at any draw"
    delta = [op for op in kernels if _keeps(op)]
    if not reason and 2 * len(delta) < len(kernels):
        reason = "most convolutions lose channels or have kernels without a centre"
    if reason:
        yield refusal("delta-orthogonal-init", findings, reason)
        return
    depth = max(1, trace.chain_depth)
    dense = [op for op in layers if op not in delta and op.id in acts]
    edits = [
        draw([(op, target_of(trace, op, acts.get(op.id), depth) or Target(1.0)) for op in group],
             scheme)
        for group, scheme in ((delta, "delta_orthogonal"), (dense, "orthogonal"))
        if group
    ]  # fmt: skip
    yield Prescription(
        edits=tuple(edits),
        predictions=(Prediction.gradient_kept(3), Prediction.signal_kept(3)),
        changes=(Change.INITIALISATION,),
        reason=f"delta-orthogonal kernels in {len(delta)} convolution(s)",
    )


def _keeps(op: Operation) -> bool:
    facts = op.weights
    if facts is None or not facts.module_is_plain or any(size % 2 == 0 for size in facts.shape[2:]):
        return False
    return facts.shape[0] >= facts.shape[1] and facts.unit_spread is not None
