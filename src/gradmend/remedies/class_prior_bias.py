"""Begin with the classes' own frequencies, where one class is far commoner than the rest."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.loss_call import LossCall
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory import targets
from gradmend.theory.wiring import REARRANGES

GAIN = 0.3
"""Nats that the first loss must lose for the edit to be worth trying: our choice; half of that of
two classes at 95 to 5."""
LOSSES = ("cross_entropy", "binary_cross_entropy_with_logits")


@remedy(
    treats=["loss-plateau", "learning-rate-too-low", "oscillating-loss", "loss-spike"],
    changes=[Change.INITIALISATION],
)
def class_prior_bias(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Set the last bias to the logits of the classes' frequencies.

    What it does:
        The bias of the output layer becomes the logarithm of the share of each class in the
        batch, as far as it is known: that of the commonest class, the others alike; for sigmoids
        the logit of the share of ones.

    Why it should work:
        Otherwise the first steps, with their large and uniform gradients, go into learning the
        frequencies, and with rare classes the summed loss of the common one swamps the rest.

    What it predicts:
        The first loss is at most that of guessing by frequency, with half a nat to spare.

    When it refuses:
        Classes are about equally frequent; the loss is none of cross_entropy and
        binary_cross_entropy_with_logits; no single layer with a bias puts the logits out.

    What it costs:
        Nothing. The bias of the last layer is lost.

    References:
        Lin et al. 2017 (focal loss), section 4.1; Karpathy, A recipe for training neural networks.
    """
    calls = [call for call in trace.losses if call.function in LOSSES]
    shares = _shares(calls[0]) if len(calls) == 1 else None
    last = trace.weights[-1] if trace.weights else None
    bias = last.weights.bias if last and last.weights and last.weights.module_is_plain else None
    between = [o for o in targets.before_the_loss(trace) if o.name not in REARRANGES]
    why = None
    if shares is None:
        why = "the loss is no single cross entropy, or its classes are not known"
    elif bias is None or between:
        why = "no single layer with a bias puts the logits out"
    else:
        guess = _entropy(shares)
        even = math.log(2) if len(shares) == 1 else math.log(len(shares))
        if even - guess < GAIN:
            why = f"the classes are about equally frequent: {even - guess:.2f} nats to gain"
    if why is not None or shares is None or bias is None:
        yield Refusal(remedy="class-prior-bias", finding=findings[0].name, reason=why or "")
        return
    sigmoid = len(shares) == 1
    width = last.weights.shape[0] if last and last.weights else 1
    yield Prescription(
        edits=(
            Edit(
                kind="class_prior_bias",
                targets=(bias,),
                args={"shares": shares * width, "sigmoid": True} if sigmoid else {"shares": shares},
            ),
        ),
        predictions=(
            Prediction(
                quantity="loss", low=0.0, high=guess + 0.5, unit="nats",
                sentence="the first loss is that of guessing by frequency",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"the first guess is the classes' frequencies: {guess:.2f} nats, not {even:.2f}",
    )  # fmt: skip


def _shares(call: LossCall) -> list[float] | None:
    """Share of each class, or of the ones for sigmoids; never 0 or 1."""
    target, output = call.target, call.prediction
    if output is None or not target.commonest_share > 0 or call.weighted:
        return None
    entries = max(2, math.prod(target.shape))
    least = 0.5 / entries  # half a sample: of a class that this batch lacks something may come
    most = min(max(target.commonest_share, least), 1.0 - least)
    if call.function != "cross_entropy":
        ones = target.distinct <= 2 and target.commonest in (0.0, 1.0)
        return [most if target.commonest == 1.0 else 1.0 - most] if ones else None
    if len(output.shape) < 2 or not target.whole or len(target.shape) != len(output.shape) - 1:
        return None
    classes, common = output.shape[1], int(target.commonest)
    if classes < 2 or not 0 <= common < classes:
        return None
    rest = (1.0 - most) / (classes - 1)
    return [most if at == common else rest for at in range(classes)]


def _entropy(shares: list[float]) -> float:
    whole = [*shares, 1.0 - shares[0]] if len(shares) == 1 else shares
    return -math.fsum(share * math.log(share) for share in whole)
