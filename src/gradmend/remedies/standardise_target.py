"""Outputs in the targets' units, trained as if the targets had mean 0 and deviation 1."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.loss_call import LossCall
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory import targets
from gradmend.theory.outlets import trained
from gradmend.theory.wiring import REARRANGES

SQUARED = frozenset({"mse_loss"})
SIZED = frozenset({"l1_loss", "smooth_l1_loss", "huber_loss"})
BY_HAND = {"pow": 2, "square": 2, "abs": 1}
"""What a difference goes through in a loss written by hand, and the degree that this makes."""
CUT_OFF = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh", "exp", "log", "tanh"})
"""What makes a loss that does not grow with a power of its unit."""


@remedy(treats=["unscaled-target"], changes=[Change.DATA_SCALE])
def standardise_target(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Let the last layer put out z std + mean, and be trained on standardised targets.

    What it does:
        Puts a module behind the last layer that turns its output into the targets' units, with
        their mean and standard deviation as buffers. Its backward pass divides the gradient by the
        unit that the loss adds (std^2 for a squared error, std for an absolute one), so that the
        network gets exactly the gradient of the loss on standardised targets. Data, loss and
        evaluation stay as they are.

    Why it should work:
        The gradient of a squared error is proportional to the targets. At unit scale it is what
        initialisation, learning rate and clipping expect, and the first guess is the mean.

    What it predicts:
        Nothing that one look can check beyond a smaller loss; the trial decides.

    When it refuses:
        Targets are not known or have no spread; another operation stands between the last layer
        and the loss; there are several regressions.

    What it costs:
        Two buffers and one product; folds into the last linear layer on export.

    References:
        LeCun, Bottou, Orr, Mueller 1998 (Efficient BackProp); Bishop 1995, section 8.2.
    """
    name, cause = "standardise-target", findings[0]
    calls = [call for call in targets.regressions_of(trace) if call.target.std > 0]
    degree = _degree(trace, calls[0]) if calls else None
    last = trace.weights[-1] if trace.weights else None
    plain = last is not None and last.weights is not None and last.weights.module_is_plain
    place = last.module if last is not None and plain else None
    why = None
    if not calls:
        why = "the targets are not known, or have no spread"
    elif len({call.function for call in trace.losses}) > 1:
        why = "the loss has other parts as well: whose unit the output has is not known"
    elif len({call.target.std for call in calls}) > 1:
        why = "several regressions have targets of different scales"
    elif degree is None:
        why = "the loss is none whose unit is known"
    elif place is None:
        why = "no single layer makes the output"
    elif any(op.inside and op.name not in REARRANGES for op in targets.tail_of(trace)):
        why = "something stands between the last layer and the loss: the scale belongs behind that"
    if why is not None or place is None:
        yield Refusal(remedy=name, finding=cause.name, reason=why or "")
    else:
        target = calls[0].target
        args = {"mean": [target.mean], "std": [target.std], "degree": degree}
        kept = trained(trace)
        yield Prescription(
            edits=(
                Edit(
                    kind="standardise_target", targets=(place,),
                    args={**args, **({"compensate": True} if kept else {})},
                ),
            ),
            changes=(Change.DATA_SCALE,),
            reason=f"targets of mean {target.mean:.3g} and deviation {target.std:.3g} are learned"
            " at mean 0 and deviation 1",
            keeps_function=kept,
        )  # fmt: skip
    yield Advice(
        remedy=name,
        finding=cause.name,
        text="standardise the targets by the mean and deviation of the training data, and turn the"
        " outputs back when you predict",
        before="loss = F.mse_loss(model(x), y)",
        after="loss = F.mse_loss(model(x), (y - mean) / std)  # predict: model(x) * std + mean",
        source=cause.source,
    )


def _degree(trace: Trace, call: LossCall) -> int | None:
    """By which power of a unit the loss grows."""
    if call.function in SQUARED:
        return 2
    if call.function in SIZED:
        return 1
    if any(op.name in CUT_OFF for op in targets.tail_of(trace)):
        return None
    powers = {BY_HAND[op.name] for op in targets.tail_of(trace) if op.name in BY_HAND}
    if powers:
        return max(powers)
    # A difference times itself is a square as well.
    return 2 if any(op.name == "mul" for op in targets.tail_of(trace)) else None
