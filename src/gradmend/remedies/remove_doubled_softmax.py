"""Hand the loss the logits, where it applies a softmax of its own."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import SOFTMAX, outlet


@remedy(treats=["doubled-softmax"], changes=[Change.WIRING])
def remove_doubled_softmax(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Take the model's softmax away, as cross_entropy has one inside.

    What it does:
        Puts an identity in the place of the ``nn.Softmax`` at the end. A softmax that the model
        calls as a function is followed by a logarithm: the loss's softmax of log p is p again, so
        what is trained is the same. A softmax in the loss itself is shown as a change of source.

    Why it should work:
        The loss of K classes is then no longer held above ln(e + K - 1) - 1, and its gradient
        with respect to a logit is p - y instead of a small multiple of it.

    What it predicts:
        Nothing that one look can check: both losses begin near ln K. The trial decides.

    When it refuses:
        The softmax is in the loss, or in a place where nothing can be put behind it.

    What it costs:
        The model puts out logits (or log-probabilities), no probabilities: the largest is the
        same, but a threshold needs a softmax first.

    References:
        torch.nn.CrossEntropyLoss expects logits.
    """
    name = "remove-doubled-softmax"
    found = outlet(trace, SOFTMAX)
    op = found.op if found else None
    in_model = found is None or not found.in_loss
    if found is not None and found.module is not None:
        yield Prescription(
            edits=(Edit(kind="replace_module", targets=(found.module,),
                        args={"module": "Identity"}),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason=f"the loss gets the logits: {found.module}, a softmax, is left out",
        )  # fmt: skip
        return
    if found is not None and found.behind is not None:
        yield Prescription(
            edits=(Edit(kind="follow_module", targets=(found.behind,),
                        args={"module": "Logarithm"}),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason="the loss gets log-probabilities in the place of probabilities",
        )  # fmt: skip
    else:
        yield Refusal(
            remedy=name,
            finding=findings[0].name,
            reason="the softmax is part of the loss: no edit of the model reaches it"
            if not in_model
            else "the softmax is no module of its own, nor the model's last operation",
        )
    yield Advice(
        remedy=name,
        finding=findings[0].name,
        text="cross_entropy applies log_softmax itself: hand it the logits, and take the softmax"
        " only where you need probabilities",
        before="return torch.softmax(self.head(h), dim=1)"
        if in_model
        else "loss = F.cross_entropy(torch.softmax(output, dim=1), y)",
        after="return self.head(h)" if in_model else "loss = F.cross_entropy(output, y)",
        source=op.source if op else findings[0].source,
    )
