"""Hand the optimizer the parameters it was not given."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["parameters-without-optimizer", "stale-optimizer"], changes=[Change.WIRING])
def train_missing_parameters(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Let the optimizer also train the parameters that get gradients and are in no group.

    What it does:
        Each joins the group whose parameters are most like it: weights with weights, biases with
        biases, then those of the nearest module. Rate, decay and schedule are that group's.

    Why it should work:
        Their gradient is computed at every step and nobody uses it. A layer that was added or
        replaced after the optimizer was built stays what it was drawn as.

    What it predicts:
        Nothing that one look can check: it changes no gradient.

    When it refuses:
        No trainable parameter with a gradient is missing, or no optimizer is given.

    What it costs:
        The optimizer's state for them. Its older checkpoints have fewer parameters and no longer
        load.

    References:
        fastai/fastai#2133; neuralmagic/sparseml#965.
    """
    first = findings[0].name if findings else ""
    optimizer = trace.optimizer
    reached = {p.name for p in trace.parameters if p.reached}
    names = tuple(name for name in (optimizer.missing if optimizer else ()) if name in reached)
    if not names:
        yield Refusal(
            remedy="train-missing-parameters",
            finding=first,
            reason="no trainable parameter that the loss reaches is missing from the optimizer"
            if optimizer
            else "there is no optimizer they could join",
        )
        return
    yield Prescription(
        edits=(Edit(kind="add_parameters", targets=names),),
        changes=(Change.WIRING,),
        reason=f"{len(names)} parameters from {names[0]} on join the optimizer",
        keeps_function=True,
    )
