"""Mend the one layer that is to blame, and leave all others as they are."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import (
    Target,
    activation_of,
    blame,
    causes,
    draw,
    healthy_gain,
    made_up_for,
    refusal,
    refused,
    stands_apart,
    target_of,
)

SOUND = 0.1
"""Spread of the units' weights over their size, below which they are too much alike to be kept;
a random draw has 1 (our choice)."""


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "saturated-activation",
        "dead-relu",
        "gain-unlike-theory",
        "vanishing-gradient",
        "exploding-gradient",
        "collapsed-signal",
    ],
    changes=[Change.INITIALISATION],
)
def redraw_layer(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Bring the one guilty layer to the gain of its healthy neighbours, or draw it anew.

    What it does:
        Where a single layer stands out (or up to a fifth of them), scales its weights, with the
        bias, to the gain that layers like it have, and keeps their directions. As a second
        choice, and where the directions are worth nothing, draws it anew at that gain with a bias
        of zero. Where no other layer is like it, the critical gain of its activation is taken.

    Why it should work:
        The other layers carry the signal well: with this one at their gain the model is what its
        author meant it to be, and nothing else is touched.

    What it predicts:
        No layer's gain stands apart from the others' any more.

    When it refuses:
        No layer stands out: then all are to be drawn (he-init, xavier-init, critical-init); it
        is frozen, shared or tied; another layer makes up for it (balance-layers); the finding
        follows from another cause.

    What it costs:
        Nothing at run time. Scaled, the layer keeps what it has learned in its directions.

    References:
        He et al. 2015; Glorot and Bengio 2010 (the gains); our own runs for the choice.
    """
    found, acts = blame(causes(findings), trace), activation_of(trace)
    reason = refused(findings, found, "redraw-layer")
    depth = max(1, trace.chain_depth)
    rows: list[tuple[Operation, Target]] = []
    for op in found.few:
        gain = healthy_gain(trace, op, found.few)
        act = acts.get(op.id)
        target = Target(gain) if gain is not None else target_of(trace, op, act, depth)
        if target is not None:
            rows.append((op, target))
    if not reason and made_up_for(trace, found.few):
        reason = "another layer makes up for it, and their product is right: balance-layers"
    if not reason and not rows:
        reason = "no single layer stands out"
    if reason:
        yield refusal("redraw-layer", findings, reason)
        return
    which = ", ".join(op.module or "the model" for op, _ in rows[:3])
    more = f" and {len(rows) - 3} more" if len(rows) > 3 else ""
    promise = Prediction(
        quantity="layers_apart",
        low=-0.5,
        high=0.5,
        unit="layers",
        sentence="no layer's weight gain stands tenfold apart from the others'",
    )
    scaled = [row for row in rows if _sound(row[0]) and stands_apart(row[0], acts.get(row[0].id))]
    if len(scaled) == len(rows):
        facts = [op.weights for op, _ in rows if op.weights is not None]
        yield Prescription(
            edits=(
                Edit(
                    kind="scale_to_gain",
                    targets=tuple(f.parameter for f in facts),
                    args={
                        "biases": [f.bias for f in facts],
                        "gains": [target.gain for _, target in rows],
                    },
                ),
            ),
            predictions=(promise,),
            changes=(Change.INITIALISATION,),
            reason=f"{which}{more} scaled to the gain of its neighbours",
        )
    yield Prescription(
        edits=(draw(rows, "normal"),),
        predictions=(promise,),
        changes=(Change.INITIALISATION,),
        reason=f"{which}{more} drawn anew at the gain of its neighbours",
    )


def _sound(op: Operation) -> bool:
    """Whether a layer's directions are worth keeping."""
    facts = op.weights
    if facts is None or not facts.mean_square > 0.0 or facts.fan_out < 2:
        return False
    known = [s for s in (facts.unit_spread, facts.reader_spread) if s is not None]
    return all(spread > SOUND for spread in known)
