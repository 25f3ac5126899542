"""Put a model that is being trained back into training mode."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["evaluation-mode-in-training"], changes=[Change.WIRING])
def restore_training_mode(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Switch every module that was left in evaluation mode back: ``model.train()``.

    What it does:
        Sets the training flag of the model's modules, and shows where the loop must call
        ``model.train()``: the next validation would switch it off again.

    Why it should work:
        Batch norms normalise by the batch again, and their running statistics follow the weights.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        The model itself is in training mode, and only parts of it are not: somebody chose that.

    What it costs:
        Nothing.

    References:
        torch.nn.Module.train.
    """
    root = trace.module_at.get("")
    if root is None or root.training:
        yield Refusal(
            remedy="restore-training-mode",
            finding="evaluation-mode-in-training",
            reason="the model is in training mode; the parts that are not may have been chosen",
        )
    else:
        off = tuple(m.path for m in trace.modules if not m.training)
        yield Prescription(
            edits=(Edit(kind="train_mode", targets=off),),
            changes=(Change.WIRING,),
            reason=f"{len(off)} modules back into training mode",
        )
    yield Advice(
        remedy="restore-training-mode",
        finding="evaluation-mode-in-training",
        text="switch back to training mode behind every validation, before the next step",
        before="model.eval(); validate(model)\nfor batch in loader: ...",
        after="model.eval(); validate(model)\nmodel.train()\nfor batch in loader: ...",
        source=findings[0].source if findings else None,
    )
