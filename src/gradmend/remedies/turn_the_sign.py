"""Let the optimizer go the other way, where the loss has the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["negated-loss"], changes=[Change.WIRING])
def turn_the_sign(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Set ``maximize=True``, so that a negated error becomes small and not large.

    What it does:
        Sets the optimizer's own option. The loss stays the user's; original and edited model are
        compared by its negative.

    Why it should work:
        Climbing on minus the error is descending on the error, exactly.

    What it predicts:
        Nothing that one look can check: the first loss is the same. The trial decides.

    When it refuses:
        The sign is that of one term among several; the optimizer has no such option, or is not
        known.

    What it costs:
        Nothing. Better is to turn the sign in the source, as shown.

    References:
        torch.optim's argument ``maximize``.
    """
    name, cause = "turn-the-sign", findings[0]
    groups = trace.optimizer.groups if trace.optimizer else ()
    if "one of the terms" in cause.summary:
        yield Refusal(
            remedy=name, finding=cause.name,
            reason="only one of several terms has the wrong sign: the source must be changed",
        )  # fmt: skip
    elif not groups or not all("maximize" in group.options for group in groups):
        yield Refusal(
            remedy=name, finding=cause.name,
            reason="the optimizer is not known, or cannot maximise",
        )  # fmt: skip
    else:
        yield Prescription(
            edits=(Edit(kind="maximise"),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason="the loss has the wrong sign: climb on it",
        )
    yield Advice(
        remedy=name,
        finding=cause.name,
        text="turn the sign of the loss",
        before="loss = -F.cross_entropy(output, y)",
        after="loss = F.cross_entropy(output, y)",
        source=cause.source,
    )
