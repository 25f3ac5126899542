"""Train a sigmoid net in coordinates centred on the sigmoid's point of symmetry."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.depth_rate import with_rate
from gradmend.theory.layer_gain import head_gain
from gradmend.theory.reference_gain import reference_gain
from gradmend.theory.sigmoids import neighbours, times_called


@remedy(
    treats=["uncentred-activation", "attenuating-activation"],
    changes=[Change.INITIALISATION, Change.OPTIMIZER],
)
def centre_coordinates(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Train the same sigmoid net in centred coordinates, folded back on export.

    What it does:
        Every nn.Sigmoid between two linear layers computes s(x) = 2 sigma(2 x) - 1 while
        training, and the layers start orthogonal at the critical gain for it. ``.export()``
        folds the factors and the offset into the layers: what comes out is the plain
        Linear + Sigmoid network, the same function to rounding. Where the learning rate is far too
        high for the depth, it is lowered with it.

    Why it should work:
        sigma(z) = (1 + tanh(z/2)) / 2, so the two nets are one family of functions in different
        coordinates. In the plain ones every activation sits near 1/2, and each step of the
        weights is also a step of a common bias, which adds up over depth; in centred ones it is
        not. Critical initialisation alone heals the gradient; this heals the optimiser's view.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two.

    When it refuses:
        Sigmoids that are functional, shared, or not between two plain linear layers with bias;
        the fold would not be exact there.

    What it costs:
        Nothing after export. Trained weights are lost: for models before training.

    References:
        The identity is folklore; LeCun, Bottou, Orr, Mueller 1998 (section 4.4) recommend the
        symmetric sigmoid. Derivation: gradmend.theory.coordinates.
    """
    sigmoids = [
        op for op in trace.activations if op.activation and op.activation.function == "sigmoid"
    ]
    if not sigmoids:
        yield Refusal(
            remedy="centre-coordinates",
            finding=findings[0].name if findings else "",
            reason="there is no sigmoid: only it has these coordinates",
        )
        return
    depth = max(1, trace.chain_depth)
    critical = reference_gain("centred_sigmoid", depth)
    assert critical is not None
    uses = times_called(trace)
    feeds, readers, reason = [], [], ""
    for op in sigmoids:
        feed, read_by = neighbours(trace, op, uses)
        if feed is None:
            reason = f"{op.module or 'a sigmoid'} is not alone between plain linear layers"
            break
        feeds.append(feed)
        readers.append(read_by)
    if reason:
        yield Refusal(
            remedy="centre-coordinates",
            finding=findings[0].name if findings else "",
            reason=reason,
        )
        return
    layers = list(dict.fromkeys([*(f.id for f in feeds), *(r.id for row in readers for r in row)]))
    operations = [trace.operations[number] for number in sorted(layers)]
    fed = {feed.id for feed in feeds}
    head = head_gain("centred_sigmoid", depth) or 1.0
    gains = [critical.sigma_w if op.id in fed else head for op in operations]
    facts = [op.weights for op in operations if op.weights is not None]
    yield from with_rate(
        Prescription(
            edits=(
                Edit(
                    kind="centre_sigmoids",
                    targets=tuple(op.module for op in sigmoids),
                    args={
                        "feeds": [op.module for op in feeds],
                        "readers": [[op.module for op in row] for row in readers],
                    },
                ),
                Edit.initialise([(f.parameter, f.bias) for f in facts], gains),
            ),
            predictions=(
                Prediction.gradient_kept(2),
                Prediction.signal_kept(2),
            ),
            changes=(Change.INITIALISATION,),
            reason=f"{len(sigmoids)} sigmoids trained in centred coordinates",
        ),
        trace,
    )
