"""Steps as of a mean loss, where the loss is a sum over the batch."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["summed-loss"], changes=[Change.OPTIMIZER])
def average_the_loss(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Divide the learning rate by the size of the batch, as a mean would divide the gradient.

    What it does:
        Multiplies the rate of every group by 1 over the samples of a batch. For plain SGD that is
        the training with ``reduction="mean"``, step by step; its loss stays the sum.

    Why it should work:
        The gradient of a sum is that of the mean times the batch's size, and the rate was chosen
        for a mean.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        The size of the batch is not known, or the optimizer's steps do not depend on the size of
        the gradient.

    What it costs:
        Weight decay acts through the rate and becomes as much smaller.

    References:
        Goyal et al. 2017 (the rate belongs to the batch's size).
    """
    name, batch = "average-the-loss", trace.run.batch_size
    if trace.optimizer is None or trace.optimizer.adaptive or batch < 2:
        yield Refusal(
            remedy=name, finding=findings[0].name,
            reason="the batch's size or the optimizer is not known, or steps do not depend on it",
        )  # fmt: skip
    else:
        yield Prescription(
            edits=(Edit(kind="scale_learning_rate", args={"factor": 1.0 / batch}),),
            changes=(Change.OPTIMIZER,),
            reason=f"the loss is a sum over {batch} samples: the rate is divided by that",
            keeps_function=True,
        )
    yield Advice(
        remedy=name,
        finding=findings[0].name,
        text="take the mean over the batch, so that the rate does not depend on its size",
        before='loss = F.mse_loss(output, y, reduction="sum")',
        after='loss = F.mse_loss(output, y, reduction="mean")',
        source=findings[0].source,
    )
