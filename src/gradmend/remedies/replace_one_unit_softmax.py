"""A sigmoid for one output, where a softmax over one class says nothing."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import SOFTMAX, outlet


@remedy(treats=["one-unit-softmax"], changes=[Change.WIRING])
def replace_one_unit_softmax(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Put a sigmoid in the place of a softmax over a single class.

    What it does:
        ``nn.Softmax`` becomes ``nn.Sigmoid`` where the loss is binary_cross_entropy or an error of
        numbers, and an identity where the loss has its own sigmoid.

    Why it should work:
        The softmax of one number is 1 and its derivative 0; a sigmoid says how likely one of two
        classes is.

    What it predicts:
        Nothing beyond a gradient that is not zero, which the trial shows.

    When it refuses:
        The softmax is called as a function, or is that of cross_entropy on one output: the loss
        must be changed in the source.

    What it costs:
        Nothing.

    References:
        Bridle 1990; one output with a sigmoid, or two with a softmax.
    """
    name = "replace-one-unit-softmax"
    found = outlet(trace, SOFTMAX)
    called = {call.function for call in trace.losses}
    if found is not None and found.module is not None and "nll_loss" not in called:
        logits = "binary_cross_entropy_with_logits" in called
        new = "Identity" if logits else "Sigmoid"
        yield Prescription(
            edits=(Edit(kind="replace_module", targets=(found.module,), args={"module": new}),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason=f"{found.module}, a softmax over one class, becomes {new}",
        )
        return
    yield Refusal(
        remedy=name,
        finding=findings[0].name,
        reason="the softmax is a function or the loss's own: only the source can change it",
    )
    yield Advice(
        remedy=name,
        finding=findings[0].name,
        text="one output needs a sigmoid; a softmax needs an output for each class",
        before="loss = F.cross_entropy(output, y)  # output: [N, 1]",
        after="loss = F.binary_cross_entropy_with_logits(output.squeeze(-1), y.float())",
        source=(found.op.source if found else None) or findings[0].source,
    )
