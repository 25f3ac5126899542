"""Hand the loss the logits, where it applies a sigmoid of its own."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import outlet


@remedy(treats=["doubled-sigmoid"], changes=[Change.WIRING])
def remove_doubled_sigmoid(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Take one of two sigmoids in a row away.

    What it does:
        Puts an identity in the place of the last ``nn.Sigmoid`` module. Behind a sigmoid that the
        model calls as a function it puts a logit, its inverse, where the loss has the other one.

    Why it should work:
        Probabilities reach from 0 to 1 again instead of 0.5 to 0.73, and the gradient no longer
        passes two slopes of at most 1/4.

    What it predicts:
        Nothing that one look can check: the loss begins near ln 2 either way. The trial decides.

    When it refuses:
        Both sigmoids are in the loss, or in places where nothing can be put behind them.

    What it costs:
        Where the loss has the other sigmoid, the model puts out logits: a threshold of 0.5
        becomes one of 0.

    References:
        torch.nn.BCEWithLogitsLoss expects logits.
    """
    name = "remove-doubled-sigmoid"
    in_loss = any(c.function == "binary_cross_entropy_with_logits" for c in trace.losses)
    found = outlet(trace, ("sigmoid",))
    if found is not None and found.module is not None:
        yield Prescription(
            edits=(Edit(kind="replace_module", targets=(found.module,),
                        args={"module": "Identity"}),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason=f"{found.module}, a second sigmoid, is left out",
        )  # fmt: skip
        return
    if found is not None and found.behind is not None:
        yield Prescription(
            edits=(Edit(kind="follow_module", targets=(found.behind,), args={"module": "Logit"}),),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason="a logit takes a second sigmoid back",
        )
    else:
        yield Refusal(
            remedy=name,
            finding=findings[0].name,
            reason="the sigmoid is part of the loss, or read by other parts of the model",
        )
    yield Advice(
        remedy=name,
        finding=findings[0].name,
        text="one sigmoid is enough: end in the linear layer where the loss is"
        " binary_cross_entropy_with_logits",
        before="return torch.sigmoid(self.head(h))"
        if in_loss
        else "return torch.sigmoid(torch.sigmoid(self.head(h)))",
        after="return self.head(h)" if in_loss else "return torch.sigmoid(self.head(h))",
        source=(found.op.source if found else None) or findings[0].source,
    )
