"""Take larger steps."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.gradient_norms import scale_free, typical_entry
from gradmend.theory.step_size import rate_factor

_USUAL = 1e-3
"""Adam's default, where the optimizer's steps have no known size."""
_FAR = 10.0
"""Times below what the weights could bear from which a rate can be why nothing is learned."""
_VANISHED = -4.0
"""Decades, as the limit of vanishing-gradient."""


@remedy(
    treats=[
        "learning-rate-too-low",
        "learning-rate-zero",
        "updates-lost-to-rounding",
        "loss-plateau",
    ],
    changes=[Change.OPTIMIZER],
)
def raise_learning_rate(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Multiply every group's learning rate by a factor above one.

    What it does:
        Brings the rate up to where the first step suits the weights: for plain descent the
        fastest weight matrix changes by a tenth of its size, for Adam and its kin an entry by 3 %
        of the typical one. Where the rate is zero it is set, and where a schedule has set it to
        zero, the schedule is to be mended by hand. A second proposal is five times lower.

    Why it should work:
        The update over the weights says how many steps a weight needs to become another: at 1e-7
        ten million. In half precision an update below the weight's last digit is none at all.

    What it predicts:
        Nothing that one look can check. The trial decides.

    When it refuses:
        The rate is not known, a larger one would not suit the weights, or the gradient vanishes
        on its way back: then a larger step moves the last layers only. Where eps is what makes
        Adam's steps small, eps is to be changed.

    What it costs:
        Too large a rate diverges; that is why the estimate is of the first step's size and the
        trial runs the whole length.

    References:
        CS231n, neural-networks-3 (update over weight of 1e-3); Zamirai et al. 2020 (updates lost
        in bfloat16). The estimate: gradmend.theory.step_size.
    """
    first = findings[0].name if findings else ""

    def refused(reason: str) -> Refusal:
        return Refusal(remedy="raise-learning-rate", finding=first, reason=reason)

    optimizer = trace.optimizer
    rate = optimizer.learning_rate if optimizer is not None else None
    if optimizer is None or rate is None:
        yield refused("the learning rate is not known")
        return
    stopped = next((f for f in findings if f.name == "learning-rate-zero"), None)
    if stopped is not None and rate > 0.0:
        yield Advice(
            remedy="raise-learning-rate",
            finding=stopped.name,
            text=(
                f"the rate began at {rate:g} and was then set to zero: mend the schedule that sets"
                " it (a division of integers, a horizon that is over, a factor of zero)"
            ),
            source=stopped.source,
        )
        return
    total = trace.total_decades
    if total is not None and total <= _VANISHED:
        yield refused(
            f"the gradient loses {-total:.1f} decades on its way back: a larger step moves the"
            " last layers only"
        )
        return
    if rate == 0.0:
        suited = rate_factor(trace, instead_of_zero=1.0)
        usual = suited if suited is not None else _USUAL
        why = "there the first step suits the size of the weights" if suited else "Adam's default"
        for value in (usual, usual / 5.0):
            yield Prescription(
                edits=(Edit(kind="set_learning_rate", args={"rate": value}),),
                changes=(Change.OPTIMIZER,),
                reason=f"learning rate 0 -> {value:.3g}: {why}"
                + ("" if value == usual else ", and five times less"),
                keeps_function=True,
            )
        return
    eps, entry = optimizer.groups[0].options.get("eps"), typical_entry(trace)
    if scale_free(trace) and isinstance(eps, float) and entry and eps > _FAR * entry:
        yield refused(
            f"eps of {eps:g} is far above the gradient's entries of {entry:.1g}: that is what makes"
            " the steps small"
        )
        return
    factor = rate_factor(trace)
    if factor is None:
        yield refused("how large a rate the weights could bear is not known for this optimizer")
        return
    least = _FAR if any(finding.name == "loss-plateau" for finding in findings) else 2.0
    if factor < least:
        yield refused(
            f"a rate of {rate:g} is within a factor of {max(factor, 1.0):.2g} of what suits the"
            " weights: its size is not to blame"
        )
        return
    for share in (factor, factor / 5.0):
        if share > 1.0:
            yield Prescription(
                edits=(Edit(kind="scale_learning_rate", args={"factor": share}),),
                changes=(Change.OPTIMIZER,),
                reason=f"learning rate {rate:g} -> {rate * share:.3g}: there the first step suits"
                " the size of the weights" + ("" if share == factor else ", and five times less"),
                keeps_function=True,
            )
