"""Draw the weights of a tanh-like net at Glorot's scale."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    Target,
    activation_of,
    attends_anywhere,
    blame,
    causes,
    draw,
    glorot,
    is_odd,
    own_layers,
    refusal,
    refused,
    stands_apart,
)

SHALLOW = 20
"""Layers in a row up to which a Gaussian or uniform draw will do: 100 tanh layers at Xavier's gain
reach 9-22 %, orthogonal ones 87-89 % (reference measurements, section 4.1)."""


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "saturated-activation",
    ],
    changes=[Change.INITIALISATION],
)
def xavier_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw weights with variance 2 / (fan_in + fan_out), for odd activations and attention.

    What it does:
        Layers that feed tanh, softsign and other odd activations of slope one get uniform
        weights of Glorot's variance and biases of zero. Layers that feed none (outputs,
        projections of attention, query, key and value each by itself) are drawn so too
        where theirs is far from usual.

    Why it should work:
        At small signals such an activation is the identity, so that the variance keeps its
        size forward with 1 / fan_in and backward with 1 / fan_out; Glorot's is between the
        two.

    What it predicts:
        The whole model's gradient changes by less than three decades.

    When it refuses:
        Rectifiers, sigmoids and others with another slope or mean, but inside attention
        blocks, where it is the usual draw; plain stacks of more than 20 layers, over which
        a random square matrix loses the small directions (critical-init is orthogonal); one
        layer alone is to blame.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        Glorot and Bengio 2010, eq. 12 and 16; Vaswani et al. 2017 and torch.nn.Transformer
        for attention.
    """
    guilty = causes(findings)
    found = blame(guilty, trace)
    acts = activation_of(trace)
    rows, other = [], ""
    attends = attends_anywhere(trace)
    for op in own_layers(trace):
        act = acts.get(op.id)
        facts = act.activation if act is not None else None
        if facts is None or attends:
            if stands_apart(op, act):
                rows.append((op, Target(glorot(op))))
        elif is_odd(facts):
            rows.append((op, Target(glorot(op))))
        else:
            other = other or facts.function
    reason = refused(findings, found, "xavier-init")
    if not reason and (other or not rows):
        reason = (
            f"made for odd activations of slope one, and a layer feeds {other}"
            if other
            else "no layer of its own needs it"
        )
    if not reason and trace.is_chain and trace.chain_depth > SHALLOW:
        reason = f"over {trace.chain_depth} layers in a row random directions get lost"
    if reason:
        yield refusal("xavier-init", findings, reason)
        return
    yield Prescription(
        edits=(draw(rows, "uniform"),),
        predictions=(Prediction.gradient_kept(3),),
        changes=(Change.INITIALISATION,),
        reason=f"Glorot's scale in {len(rows)} layer(s)",
    )
