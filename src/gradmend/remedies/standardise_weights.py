"""Compute with weights that are standardised unit by unit."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.places import Place, own_layer, places, times_used, to_change
from gradmend.theory.reference_gain import reference_gain

_FEWEST_INPUTS = 8
"""Weights of a unit from which their mean and size say something (our choice); a depthwise
3 x 3 convolution has nine."""

_PLAIN = ("Linear", "Conv1d", "Conv2d", "Conv3d")


@remedy(
    treats=[
        "attenuating-activation",
        "uncentred-activation",
        "init-gain-too-small",
        "init-gain-too-large",
    ],
    changes=[Change.NORMALISATION],
)
def standardise_weights(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Standardise the weights of every unit, and scale them to the critical gain.

    What it does:
        The guilty convolutions compute with gain (w - mean) / (sqrt(fan_in) std), mean and std
        over each unit's own weights, with one learned gain for each unit that starts at the
        critical one for the activation behind it. The raw weights stay the parameters they are.

    Why it should work:
        The size of the weights no longer matters, so neither does how they were drawn; and as
        each unit's weights sum to zero, what all its inputs share (the mean of a ReLU's or a
        sigmoid's output) does not pass. No statistics of the batch: it works with any batch.

    What it predicts:
        The whole model's gradient changes by less than three decades.

    When it refuses:
        Networks of linear layers, where a norm or an initialisation does as much; units with
        fewer than eight weights; layers that are shared, frozen or not torch's own; activations
        that theory does not know; norms behind the layers.

    What it costs:
        One gain for each unit, which joins the optimizer and wants no weight decay, and one pass
        over the weights at each step. Zeros that pad a convolution weigh on the mean at the rim.

    References:
        Qiao et al. 2019 (Weight standardization); Brock, De, Smith 2021 (scaled, with a gain and
        without norms).
    """
    found = [p for p in places(trace) if p.weights.kind == "convolution"]
    uses = times_used(trace)
    depth = max(1, trace.chain_depth)
    rows = {
        place.layer.module: critical.sigma_w
        for place in to_change(findings, found)
        if _fits(trace, place)
        and own_layer(trace, place, uses)
        and (critical := reference_gain(place.facts.function, depth)) is not None
    }
    if not rows:
        yield Refusal(
            remedy="standardise-weights",
            finding=findings[0].name if findings else "",
            reason=(
                "no trainable nn.Conv of its own, without a norm, feeds an activation that theory"
                " knows"
                if found
                else "it is for convolutions: linear layers are drawn anew or normed"
            ),
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="standardise_weights",
                targets=tuple(rows),
                args={"gains": list(rows.values())},
            ),
        ),
        predictions=(Prediction.gradient_kept(3),),
        changes=(Change.NORMALISATION,),
        reason=f"weights of {len(rows)} of {len(found)} convolutions standardised",
    )


def _fits(trace: Trace, place: Place) -> bool:
    module = trace.module_at.get(place.layer.module)
    return (
        module is not None
        and module.standard
        and module.kind in _PLAIN
        and not place.normed
        and place.weights.trainable
        and place.weights.fan_in >= _FEWEST_INPUTS
    )
