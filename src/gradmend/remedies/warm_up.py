"""Begin with small steps."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.step_size import rate_factor

SHORT = 100
"""Steps of the first proposal; our choice: a third of the longest trial, so that most of a
training is at the full rate."""
FAR_TOO_HIGH = 0.03
"""Factor of the rate below which no warm-up helps: at its end the rate is what it was."""


@remedy(
    treats=[
        "post-norm-without-warm-up",
        "learning-rate-too-high",
        "attention-logit-growth",
        "saturated-attention",
        "diverging-loss",
    ],
    changes=[Change.OPTIMIZER],
)
def warm_up(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Let the learning rate grow linearly to its full value over the first steps.

    What it does:
        At step t of n every group's rate is (t + 1) / n of what it would be, on top of any
        scheduler; after that it is as written. n is 100, or 2 / (1 - beta_2) for Adam.

    Why it should work:
        Adam's first steps are of the full rate at every entry, in directions that one batch has
        given, while its second moment is an average over few; and in a post-norm network the
        last layers' gradient is largest before the first step. Small steps let both settle.

    What it predicts:
        Nothing that one look can check. The trial decides.

    When it refuses:
        The model has been trained with this optimizer already, so that its first steps are over;
        or the rate is thirty times what the weights can bear, which it would be again after it.

    What it costs:
        The first steps learn less. A training shorter than the warm-up never has the full rate.

    References:
        Goyal et al. 2017; Vaswani et al. 2017; Xiong et al. 2020 (post-norm); Ma and Yarats 2021
        (2 / (1 - beta_2) steps).
    """
    first = findings[0].name if findings else ""
    optimizer = trace.optimizer
    suits = rate_factor(trace)
    reason = ""
    rate = optimizer.learning_rate if optimizer is not None else None
    if optimizer is None or not rate:
        reason = "the learning rate is not known or zero"
    elif optimizer.steps_taken:
        reason = "the optimizer has taken steps already: its first ones are over"
    elif suits is not None and suits < FAR_TOO_HIGH:
        reason = (
            f"the rate is {1 / suits:.2g} times what the weights can bear, and would be again"
            " after it"
        )
    if reason or optimizer is None or not rate:
        yield Refusal(remedy="warm-up", finding=first, reason=reason)
        return
    betas = optimizer.groups[0].options.get("betas")
    lengths = [SHORT]
    if isinstance(betas, tuple | list) and len(betas) == 2 and 0.0 < float(betas[1]) < 1.0:
        untuned = round(2.0 / (1.0 - float(betas[1])))
        if untuned != SHORT:
            lengths.append(untuned)
    for steps in lengths:
        yield Prescription(
            edits=(Edit(kind="warm_up", args={"steps": steps}),),
            changes=(Change.OPTIMIZER,),
            reason=f"learning rate from {rate / steps:.2g} to {rate:g} over {steps} steps",
            keeps_function=True,
        )
