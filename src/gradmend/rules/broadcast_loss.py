"""LOS205: outputs and targets of different shapes, spread against each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import LossTail, loss_tails

SPREADS = frozenset({"expand", "sub", "rsub", "mul"})
ON_THE_WAY = frozenset({"neg", "pow", "abs", "square", "sub", "rsub", "mul", "div"})


@dataclass(frozen=True)
class Limits:
    """When a loss is broadcast."""

    samples: float = limit(
        2.0, unit="samples", source="from two samples on [N, 1] against [N] makes [N, N]"
    )


@rule(
    code="LOS205",
    limits=Limits,
    fires_on=[
        Case.of("regression", target="column"),
        Case.of("regression", target="row"),
        Case.of("regression", target="column", loss="by_hand"),
        Case.of("regression", target="column", loss="l1"),
    ],
    silent_on=[
        Case.of("regression"),
        Case.of("regression", loss="by_hand"),
        Case.of("regression", loss="weighted"),
        Case.of("regression", loss="pairwise"),
        Case.of("classifier"),
    ],
)
def broadcast_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Outputs [N, 1] against targets [N], compared each with every other.

    What it finds:
        A loss averaged over an [N, N] table that a vector of N outputs was spread to against one
        that needs no gradient.

    Why it matters:
        Each output is drawn towards the mean of all targets: the network learns that mean and
        nothing else, with gradients that look well.

    How it is measured:
        Shapes of the operations between the loss and the model, on its autograd graph; exact.

    Silent when:
        Both sides of the table come from the model (pairwise losses); the table is summed along
        one side first (partial likelihoods); shapes agree.

    References:
        deepset-ai/FARM#229; PyTorch's warning on differing target sizes.
    """
    for tail in loss_tails(history):
        for at in tail.by_hand:
            found = _spread(tail, at)
            if found is None or found < limits.samples:
                continue
            yield Finding(
                code="LOS205",
                name="broadcast-loss",
                severity=Severity.ERROR,
                modules=(),
                summary=(
                    f"{found} outputs are compared with {found} targets as a table of {found} x"
                    f" {found}, each with every other: give both the same shape"
                ),
                evidence=(
                    Evidence(
                        quantity="samples spread against each other",
                        observed=float(found),
                        limit=limits.samples,
                        unit="samples",
                        step=tail.step,
                    ),
                ),
                weight=100.0,
                explains=("loss-plateau",),
                exculpation="output and target of one shape",
            )
            return


def _spread(tail: LossTail, at: int) -> int | None:
    """N if the operation makes a table [N, N] of a vector that a whole reduction follows."""
    table = tail.operations[at]
    if table.op not in SPREADS or len(table.reads) != 1 or not table.shape:
        return None
    before = tail.operations[table.reads[0]].shape
    size = table.shape[-1]
    if table.shape != (size, size) or before not in ((size,), (size, 1), (1, size)):
        return None
    return size if _reduced_at_once(tail, at, table.shape) else None


def _reduced_at_once(tail: LossTail, at: int, shape: tuple[int, ...]) -> bool:
    """Whether the table keeps its shape until one operation makes a number of it."""
    seen: set[int] = set()
    while at not in seen:
        seen.add(at)
        readers = [n for n in tail.by_hand if at in tail.operations[n].reads]
        if len(readers) != 1:
            return False
        at = readers[0]
        reader = tail.operations[at]
        if reader.shape == ():
            return True
        if reader.shape != shape or reader.op not in ON_THE_WAY:
            return False
    return False
