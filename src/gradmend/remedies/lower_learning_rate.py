"""Take smaller steps."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.step_size import rate_factor

_TENTH = 0.1
"""Where theory sees nothing wrong with the first step, but the run does not bear it."""
_ALTERNATIVE = 0.2
"""Of the first proposal, for the second: the best rates of nine networks lay within a factor of
four around the estimate (gradmend.theory.step_size)."""
_SYMPTOMS = frozenset(
    {
        "dead-relu",
        "saturated-activation",
        "saturated-attention",
        "vanishing-gradient",
        "exploding-gradient",
        "collapsed-signal",
        "stalled-layers",
        "loss-plateau",
        "non-finite-value",
    }
)
"""What far too large a step also leaves behind, beside its other causes: there the rate is lowered
only if it is far above what the weights can bear."""
_FAR = 0.1
"""Factor below which the rate is that: ten times. The best rates of nine networks lay within four
times the estimate."""
_DEPTH_SHARE = 0.2
"""Update over weight summed over depth that trains: 0.08 and 0.4 did, 1.2 did not (rule OPT228)."""


@remedy(
    treats=[
        "learning-rate-too-high",
        "learning-rate-unscaled-with-depth",
        "diverging-loss",
        "oscillating-loss",
        "loss-spike",
        "summed-loss",
        "update-norm-spike",
        "post-norm-without-warm-up",
        "attention-logit-growth",
        *sorted(_SYMPTOMS),
    ],
    changes=[Change.OPTIMIZER],
)
def lower_learning_rate(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Multiply every group's learning rate by a factor below one.

    What it does:
        Brings the rate down to where the first step suits the weights: for plain descent no
        weight matrix changes by more than a tenth of its size, for Adam and its kin an entry by
        3 % of the typical one. A second proposal is five times lower.

    Why it should work:
        A gradient is true only nearby. Beyond 2 / sharpness a step lands higher on the other side
        of the valley, and the next one higher still; a step as large as the weights makes new
        random weights. Weights and gradients are measured, so the factor is no guess.

    What it predicts:
        Nothing that one look can check: a single step shows no divergence. The trial decides.

    When it refuses:
        The rate is not known, is zero, or is so small already that it cannot be to blame. Where
        only symptoms are found that have other causes too (dead rectifiers, a gradient that
        vanishes), the rate must be ten times what the weights can bear.

    What it costs:
        Slower progress where the rate was not too high.

    References:
        LeCun, Bottou, Orr, Mueller 1998, section 4.4; Cohen et al. 2021 (edge of stability);
        Goyal et al. 2017 (a sum over the batch wants the rate of a mean over its size).
    """
    names = {finding.name for finding in findings}
    optimizer = trace.optimizer
    rate = optimizer.learning_rate if optimizer is not None else trace.run.learning_rate
    first = findings[0].name if findings else ""
    if not rate:
        reason = "the learning rate is zero" if rate == 0 else "the learning rate is not known"
        yield Refusal(remedy="lower-learning-rate", finding=first, reason=reason)
        return
    suits = rate_factor(trace)
    if names <= _SYMPTOMS and (suits is None or suits > _FAR):
        yield Refusal(
            remedy="lower-learning-rate",
            finding=first,
            reason="how large a step the weights can bear is not known for this optimizer"
            if suits is None
            else f"a rate of {rate:g} is within ten times of what the weights can bear: that is"
            " not what did it",
        )
        return
    told = _told(findings, trace)
    if told is not None:
        factor, why = told
    elif suits is None:
        factor, why = _TENTH, "how large a step it makes is not known beforehand, so a tenth"
    elif suits <= 0.5:
        factor, why = suits, "there the first step suits the size of the weights"
    else:
        factor, why = _TENTH, "the first step suits the weights, and the run shows that later ones"
        why += " do not"
    if suits is not None and suits > 100.0 and told is None and not names & {"diverging-loss"}:
        yield Refusal(
            remedy="lower-learning-rate",
            finding=first,
            reason=(
                f"a rate of {rate:g} is {suits:.2g} times smaller than the weights could bear:"
                " the step's size is not to blame"
            ),
        )
        return
    for share in (factor, factor * _ALTERNATIVE):
        yield Prescription(
            edits=(Edit(kind="scale_learning_rate", args={"factor": share}),),
            changes=(Change.OPTIMIZER,),
            reason=f"learning rate {rate:g} -> {rate * share:.3g}: {why}"
            + ("" if share == factor else ", and five times less for what is not seen at first"),
            keeps_function=True,
        )


def _told(findings: tuple[Finding, ...], trace: Trace) -> tuple[float, str] | None:
    """A factor that a finding's own evidence gives."""
    for finding in findings:
        observed = finding.evidence[0].observed if finding.evidence else 0.0
        if finding.name == "learning-rate-unscaled-with-depth" and observed > _DEPTH_SHARE:
            share = _DEPTH_SHARE / observed
            return share, f"a step then changes all layers together by {_DEPTH_SHARE:g}"
        if finding.name == "summed-loss" and trace.run.batch_size > 1:
            size = trace.run.batch_size
            return 1.0 / size, f"what a mean over {size} samples would have made of it"
    return None
