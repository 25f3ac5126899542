"""Draw orthogonal weights where nothing but linear maps is to blame."""

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
    causes,
    draw,
    own_layers,
    refusal,
    refused,
)
from gradmend.theory.drawing import blame as blame_of


@remedy(
    treats=[
        "gain-unlike-theory",
        "vanishing-gradient",
        "exploding-gradient",
        "collapsed-signal",
    ],
    changes=[Change.INITIALISATION],
)
def orthogonal_init(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Draw linear maps orthogonal, each at gain one, where no activation is to blame.

    What it does:
        Stacks of linear maps (factorised layers, deep linear networks, linear autoencoders) get
        orthogonal weights at gain one. Where single maps pass the gradient on quite otherwise
        than their size says (all weights equal, rank one), those alone, at the gain they have.

    Why it should work:
        An orthogonal matrix keeps every length: a product of them has singular values of one at
        any depth, where a product of Gaussian matrices of the same size has few left.

    What it predicts:
        The whole model's gradient changes by less than two decades.

    When it refuses:
        The layers feed activations (critical-init draws orthogonal at their gain); there is
        attention; the cause has a name and a remedy of its own.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        Saxe, McClelland, Ganguli 2014.
    """
    guilty = causes(findings)
    layers, acts = own_layers(trace), activation_of(trace)
    found = blame_of(guilty, trace)
    reason = refused(findings, found, "redraw-layer")  # also where few are to blame
    odd = {m for f in guilty if f.name == "gain-unlike-theory" for m in f.modules}
    rows = []
    for op in layers:
        assert op.weights is not None
        own = op.weights.sigma_w
        if op.module in odd:
            rows.append((op, Target(own if 0.3 <= own <= 3.0 else 1.0)))
        elif not odd and op.id not in acts:
            rows.append((op, Target(1.0)))
    fed = sum(op.id in acts for op in layers)
    if not reason and not odd and (2 * fed > len(layers) or attends_anywhere(trace)):
        reason = "most layers feed an activation or attention: critical-init knows their gain"
    if not reason and not rows:
        reason = "no linear map of its own can be drawn anew"
    if reason:
        yield refusal("orthogonal-init", findings, reason)
        return
    yield Prescription(
        edits=(draw(rows, "orthogonal"),),
        predictions=(Prediction.gradient_kept(2),),
        changes=(Change.INITIALISATION,),
        reason=f"orthogonal weights in {len(rows)} linear map(s)",
    )
