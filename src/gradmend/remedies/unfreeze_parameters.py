"""Let frozen parameters learn."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy


@remedy(treats=["frozen-parameters"], changes=[Change.WIRING])
def unfreeze_parameters(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Set requires_grad on the frozen parameters and let the optimizer train them.

    What it does:
        Every frozen parameter of the modules that the finding names gets a gradient and joins the
        optimizer's group whose parameters are most like it.

    Why it should work:
        What is left trainable cannot fit the data on features that were never learned: the loss
        shows that it does not.

    What it predicts:
        Nothing that one look can check: the gradient of what trains already stays as it is.

    When it refuses:
        Nothing is frozen there, or what is frozen are no floating-point numbers.

    What it costs:
        Gradients and optimizer state for them. If they were frozen to keep what a larger data set
        taught them, that is lost: then a better head is the cure, not this.

    References:
        PyTorch's transfer learning tutorial (which freezes on purpose).
    """
    blamed = {module for finding in findings for module in finding.modules}
    names = tuple(
        p.name for p in trace.parameters if not p.trainable and (not blamed or p.module in blamed)
    )
    if not names or trace.optimizer is None:
        yield Refusal(
            remedy="unfreeze-parameters",
            finding=findings[0].name if findings else "",
            reason="none of the modules has a frozen parameter"
            if trace.optimizer
            else "there is no optimizer that could train them",
        )
        return
    yield Prescription(
        edits=(Edit(kind="unfreeze_parameters", targets=names),),
        changes=(Change.WIRING,),
        reason=f"{len(names)} frozen parameters from {names[0]} on are trained",
        keeps_function=True,
    )
