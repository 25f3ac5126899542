"""Even out the sizes of layers in a row without changing what the model computes."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import activation_of, causes, own_layers, refusal
from gradmend.theory.initialisation import he_gain

UNEVEN = 1.0
"""Decades between the largest and smallest gain of a row, from which it is worth it: the weights'
gradients then differ by as much, and no one rate suits both (our choice)."""

PRODUCT = 0.5
"""Decades by which all layers of a row together may be off: more, and it is the function of an
untrained model that is wrong, and not how it is shared out (our choice)."""

HOMOGENEOUS = frozenset({"relu", "leaky_relu", "prelu"})


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "vanishing-gradient",
        "exploding-gradient",
        "stalled-layers",
    ],
    changes=[Change.INITIALISATION],
)
def balance_layers(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Rescale layers around ReLUs so that all have the same gain, and the model its function.

    What it does:
        Along every row of layers parted by ReLU, LeakyReLU or PReLU, multiplies each layer by a
        power of two, all of a row together by one, and the biases by what came before them.

    Why it should work:
        phi(s z) = s phi(z) for s > 0: a factor may be moved from one layer to the next. The
        gradient of a layer's weights is inverse to their own size, so that a large and a small
        layer in a row learn at rates that differ by the square of it; evened out, one rate suits
        both.

    What it predicts:
        The gains along the rows lie within half a decade, if nothing else stands between them.

    When it refuses:
        No row of two layers that only such activations, pooling or dropout part; their gains are
        even already; or the model is not trained yet and it is their product that is wrong
        (redraw-layer, he-init).

    What it costs:
        Nothing. The function is the same to the last bit; a trained model stays trained. The
        optimizer's memory of earlier gradients no longer fits and fades in its own time.

    References:
        Neyshabur, Salakhutdinov, Srebro 2015 (Path-SGD: rescaling invariance); Stock et al. 2019
        (equi-normalisation of networks); Du, Hu, Lee 2018 (balancedness).
    """
    guilty = causes(findings)
    trained = trace.run.step > 0 or (trace.optimizer is not None and trace.optimizer.steps_taken)
    uneven = [row for row in _rows(trace) if _spread(row) >= UNEVEN]
    rows = [row for row in uneven if trained or abs(_product(row)) <= PRODUCT]
    if not rows or not guilty:
        reason = "no row of layers around ReLUs has uneven gains"
        if uneven:
            reason = "the product of the gains is wrong, which the function would keep"
        if not guilty:
            reason = "the finding follows from another cause"
        yield refusal("balance-layers", findings, reason)
        return
    edits = []
    for row in rows:
        facts = [op.weights for op, _ in row if op.weights is not None]
        edits.append(
            Edit(
                kind="balance_layers",
                targets=tuple(f.parameter for f in facts),
                args={
                    "biases": [f.bias for f in facts],
                    "references": [reference for _, reference in row],
                },
            )
        )
    yield Prescription(
        edits=tuple(edits),
        predictions=(
            Prediction(
                quantity="layers_apart",
                low=-0.5,
                high=0.5,
                unit="layers",
                sentence="no layer's weight gain stands tenfold apart from the others'",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"{sum(len(row) for row in rows)} layers evened out, the function kept",
        keeps_function=True,
    )


Row = list[tuple[Operation, float]]


def _rows(trace: Trace) -> list[Row]:
    """Layers in a row with the gain that each should have, each read by the next alone."""
    own = {op.id: op for op in own_layers(trace) if op.weights and op.weights.module_is_plain}
    acts = activation_of(trace)
    rows: list[Row] = []
    taken: set[int] = set()
    for first in own.values():
        if first.id in taken:
            continue
        row: Row = []
        op: Operation | None = first
        while op is not None:
            taken.add(op.id)
            act = acts.get(op.id)
            facts = act.activation if act is not None else None
            row.append((op, he_gain(facts.negative_slope or 0.0) if facts else 1.0))
            op = _next(trace, op, act, own) if facts and facts.function in HOMOGENEOUS else None
        if len(row) > 1:
            rows.append(row)
    return rows


def _next(
    trace: Trace, op: Operation, act: Operation | None, own: dict[int, Operation]
) -> Operation | None:
    """The one layer that reads an activation, where nothing else does."""
    at = act
    if not _leads_to(trace, op, act):
        return None
    while at is not None:
        readers = trace.readers.get(at.id, ())
        if len(readers) != 1:
            return None
        at = trace.operations[readers[0]]
        if at.id in own:
            return own[at.id] if len(at.upstream) == 1 else None
        if at.cause not in ("pooling", "dropout") or len(at.upstream) != 1:
            return None
    return None


def _leads_to(trace: Trace, op: Operation, act: Operation | None) -> bool:
    """Whether a layer's output goes to the activation alone, also on its way through pooling."""
    while act is not None and trace.readers.get(op.id, ()) != (act.id,):
        readers = trace.readers.get(op.id, ())
        if len(readers) != 1:
            return False
        op = trace.operations[readers[0]]
        if op.cause not in ("pooling", "dropout"):
            return False
    return act is not None


def _spread(row: Row) -> float:
    """Decades between the largest and the smallest gain of a row."""
    sizes = [op.weights.sigma_w / reference for op, reference in row if op.weights is not None]
    if not all(0.0 < size < math.inf for size in sizes):
        return 0.0
    return math.log10(max(sizes) / min(sizes))


def _product(row: Row) -> float:
    """Decades of all gains of a row together."""
    return sum(math.log10(op.weights.sigma_w / ref) for op, ref in row if op.weights is not None)
