"""Let the softmax run over the classes, where it runs over the samples."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import SOFTMAX, outlet


@remedy(treats=["softmax-over-samples"], changes=[Change.WIRING])
def turn_softmax_to_classes(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Put a softmax over dimension 1 in the place of one over dimension 0.

    What it does:
        A new ``nn.Softmax`` or ``nn.LogSoftmax`` with ``dim=1`` in the place of the old module.

    Why it should work:
        The classes of one sample compete, and what is learned no longer depends on who else is in
        the batch.

    What it predicts:
        The first loss is at most ten (ln K of 22,000 classes); over samples it is the logarithm
        of the batch's size and more.

    When it refuses:
        The softmax is called as a function: the source must be changed.

    What it costs:
        Nothing.

    References:
        torch.nn.LogSoftmax, argument ``dim``.
    """
    found = outlet(trace, (*SOFTMAX, "log_softmax"))
    if found is not None and found.module is not None:
        new = trace.module_at[found.module].kind
        yield Prescription(
            edits=(
                Edit(
                    kind="replace_module", targets=(found.module,), args={"module": new, "dim": 1}
                ),
            ),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason=f"{found.module} runs over the classes (dim=1), not over the samples",
        )
        return
    reason = "the softmax is called as a function: only the source can change its dim"
    yield Refusal(remedy="turn-softmax-to-classes", finding=findings[0].name, reason=reason)
    yield Advice(
        remedy="turn-softmax-to-classes",
        finding=findings[0].name,
        text="dim=0 is the batch: let the softmax run over the classes",
        before="return F.log_softmax(self.head(h), dim=0)",
        after="return F.log_softmax(self.head(h), dim=1)",
        source=(found.op.source if found else None) or findings[0].source,
    )
