"""Give nll_loss the log-probabilities that it expects."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import SOFTMAX, outlet, output_place


@remedy(treats=["missing-logarithm"], changes=[Change.WIRING])
def add_missing_logarithm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Make the model put out log-probabilities, where its loss is nll_loss.

    What it does:
        ``nn.LogSoftmax`` in the place of ``nn.Softmax``; behind a softmax that is called as a
        function its logarithm; behind the last layer, where there is no softmax, a log_softmax.

    Why it should work:
        nll_loss only picks the entry of the right class and turns its sign. Of log-probabilities
        that is the cross entropy.

    What it predicts:
        The first loss is not negative.

    When it refuses:
        The softmax is in the loss, or in a place where nothing can be put behind it.

    What it costs:
        The model puts out log-probabilities.

    References:
        torch.nn.NLLLoss expects log-probabilities.
    """
    found = outlet(trace, SOFTMAX)
    positive = Prediction(
        quantity="loss", low=0.0, high=1e6, sentence="the loss is a cross entropy: never negative"
    )
    if found is not None and found.module is not None:
        kept = trace.module_at[found.module].settings.get("dim")
        dim = kept if isinstance(kept, int) and kept != 0 else 1
        edit = Edit(
            kind="replace_module",
            targets=(found.module,),
            args={"module": "LogSoftmax", "dim": dim},
        )
        reason = f"{found.module} becomes a LogSoftmax"
    elif found is not None and found.behind is not None:
        edit = Edit(kind="follow_module", targets=(found.behind,), args={"module": "Logarithm"})
        reason = "the loss gets the logarithms of the probabilities"
    elif found is None:
        edit = Edit(
            kind="follow_module", targets=(output_place(trace),),
            args={"module": "LogSoftmax", "dim": 1},
        )  # fmt: skip
        reason = "the logits go through a log_softmax first"
    else:
        yield Refusal(
            remedy="add-missing-logarithm",
            finding=findings[0].name,
            reason="the softmax is in the loss, or read by other parts of the model",
        )
        yield Advice(
            remedy="add-missing-logarithm",
            finding=findings[0].name,
            text="nll_loss expects log-probabilities: take cross_entropy of the logits",
            before="loss = F.nll_loss(torch.softmax(output, dim=1), y)",
            after="loss = F.cross_entropy(output, y)",
            source=found.op.source or findings[0].source,
        )
        return
    yield Prescription(
        edits=(edit,),
        predictions=(positive,),
        changes=(Change.WIRING,),
        mends_loss=True,
        reason=reason,
    )
