"""Train a deep plain net in coordinates around the straight side of its activations."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.drawing import blame, causes, refusal, refused
from gradmend.theory.layer_gain import input_square
from gradmend.theory.sigmoids import neighbours, times_called
from gradmend.theory.straightness import straight_from

PLAIN = 30
"""Hidden layers in a row from which it is tried (our choice; with 100 the runs below)."""
REACH, FARTHEST = 3.0, 6.0
"""Deviations of the signal that lie on the straight side at the start: three with 100 layers and
three more for ten times as many, up to six. ReLU, width 32, digits, 240 to 300 steps of 512
samples, unseen losses: 0.39, 0.36 and 0.41 at 2, 3 and 6 with 100 layers; 0.47, 0.43 and 0.48 at
4, 6 and 10 with 1,000. Mirrored pairs (looks-linear-init): 0.74 with 100, 1.32 with 1,000; where
first and last layer have a rate of their own, 0.35 both ways, pairs in a third of the steps, after
which they over-fit (one seed each, our runs)."""


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "depth-without-skip",
        "uncentred-activation",
        "attenuating-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def centre_activations(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Train the same net with each activation centred on its straight side, folded on export.

    What it does:
        Every activation phi between two linear layers computes (phi(x + c) - phi(c)) / phi'(c)
        while training, with c so far up that three deviations of a signal of size one (100 layers)
        to six (1,000 and more) are on its straight side: c is 3 to 6 for ReLU, leaky ReLU, ELU and
        SELU; GELU and hardswish take 3 more, softplus 5, SiLU 6. The layers start orthogonal at a
        gain of one. ``.export()`` folds c into the biases: what comes out is the plain network,
        the same function to rounding. Where the learning rate is far too high for the depth, it is
        lowered with it.

    Why it should work:
        Around c the activation is the identity but for samples that lie far out: so all units
        of a layer tell samples apart, at any depth (in mirrored pairs half of them do), and
        each layer bends as soon as its bias has moved to where it is of use. The biases of the
        plain network would do the same, but its activations have a mean of c, and each step
        of the weights would be a step of a common bias, which adds up over depth.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two.

    When it refuses:
        Fewer than thirty hidden layers in a row; skips, norms, or anything else between
        plain linear layers with biases (the fold would not be exact there); activations without
        a straight side (sigmoid, tanh, ReLU6), functional or shared ones.

    What it costs:
        Nothing after export. Trained weights are lost: for models before training.

    References:
        Saxe, McClelland, Ganguli 2014 (deep linear networks of orthogonal weights); LeCun, Bottou,
        Orr, Mueller 1998, section 4.4 (activations of mean zero).
    """
    acts = list(trace.activations)
    shifts = [straight_from(op.activation.function) for op in acts if op.activation]
    uses = times_called(trace)
    feeds: list[Operation] = []
    readers: list[list[Operation]] = []
    guilty, reason = causes(findings), ""
    if not guilty:
        reason = refused(findings, blame(guilty, trace), "centre-activations")
    elif len(acts) < PLAIN:
        reason = f"{len(acts)} hidden layers: fewer than {PLAIN} do without"
    elif not trace.is_chain or any(op.cause == "normalisation" for op in trace.operations):
        reason = "skips or norms keep the signal: nothing needs to be straight"
    elif any(shift is None for shift in shifts):
        reason = "an activation has no straight side"
    for op in acts if not reason else ():
        feed, read_by = neighbours(trace, op, uses)
        if feed is None:
            reason = f"{op.module or 'an activation'} is not alone between plain linear layers"
            break
        feeds.append(feed)
        readers.append(read_by)
    if reason:
        yield refusal("centre-activations", findings, reason)
        return
    read = {op.id: op for row in readers for op in row}
    layers = sorted({**{op.id: op for op in feeds}, **read}.items())
    facts = [op.weights for _, op in layers if op.weights is not None]
    gains = [(input_square(trace, op) or 1.0) ** -0.5 for _, op in layers]
    yield from with_rate(
        Prescription(
            edits=(
                Edit(
                    kind="shift_activations",
                    targets=tuple(op.module for op in acts),
                    args={
                        "feeds": [op.module for op in feeds],
                        "readers": [[op.module for op in row] for row in readers],
                        "shifts": [(shift or 0.0) + reach(len(acts)) for shift in shifts],
                    },
                ),
                Edit.initialise([(f.parameter, f.bias) for f in facts], gains),
            ),
            predictions=(Prediction.gradient_kept(2), Prediction.signal_kept(2)),
            changes=(Change.INITIALISATION,),
            reason=f"{len(acts)} activations trained around their straight side",
        ),
        trace,
    )


def reach(depth: int) -> float:
    """Deviations of the signal that are to lie on the straight side at the start.

    Args:
        depth: Activations in a row.
    """
    return min(FARTHEST, REACH * max(0.5, math.log10(depth) - 1.0))
