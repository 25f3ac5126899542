"""Drop few units instead of nearly all."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy

_LEAST = 0.9
"""Probability from which a dropout is taken for a mistake, as in excessive-dropout."""


@remedy(treats=["excessive-dropout"], changes=[Change.WIRING])
def lower_dropout(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Take p for what it was meant to be, the probability of keeping: p becomes 1 - p.

    What it does:
        Sets the probability of each guilty dropout module to 1 - p. Where dropout is called as a
        function, shows the change of the source.

    Why it should work:
        At p = 0.9 one unit in ten is left and scaled tenfold; 0.9 as a probability of keeping
        drops one in ten.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        No guilty dropout is a module.

    What it costs:
        Nothing.

    References:
        Srivastava, Hinton, Krizhevsky, Sutskever, Salakhutdinov 2014.
    """
    blamed = {module for finding in findings for module in finding.modules}
    drops = [
        (m.path, float(p))
        for m in trace.modules
        if m.path in blamed
        and "Dropout" in m.kind
        and isinstance(p := m.settings.get("p"), int | float)
        and p >= _LEAST
    ]
    if drops:
        yield Prescription(
            edits=tuple(
                Edit(
                    kind="set_dropout",
                    targets=tuple(path for path, other in drops if other == p),
                    args={"p": round(1.0 - p, 6)},
                )
                for p in sorted({p for _, p in drops})
            ),
            changes=(Change.WIRING,),
            reason=f"{len(drops)} dropouts: p was the probability of keeping",
        )
    called = sorted(blamed - {path for path, _ in drops})
    if not drops:
        yield Refusal(
            remedy="lower-dropout",
            finding="excessive-dropout",
            reason="the dropout is called as a function: its p stands in the source",
        )
    if called or not drops:
        yield Advice(
            remedy="lower-dropout",
            finding="excessive-dropout",
            text="p is the probability of dropping, not of keeping",
            before="x = F.dropout(x, p=0.9, training=self.training)",
            after="x = F.dropout(x, p=0.1, training=self.training)",
            source=findings[0].source if findings else None,
        )
