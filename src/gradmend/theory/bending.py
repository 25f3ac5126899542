"""A prescription that bends all activations of a plain chain, by one method or another."""

from __future__ import annotations

from collections.abc import Callable

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.theory.places import own_layer, places, times_used
from gradmend.theory.tailoring import Constants

Solve = Callable[[str, int], object]
"""(function, depth) to :class:`Constants`, or to the reason why there are none."""


def bend(
    remedy: str, method: str, findings: tuple[Finding, ...], trace: Trace, solve: Solve
) -> Prescription | Refusal:
    """All activations of the chain bent, and the layers in front of them drawn to match."""

    def refuse(reason: str) -> Refusal:
        return Refusal(remedy=remedy, finding=findings[0].name if findings else "", reason=reason)

    found = list(places(trace))
    functions = {place.facts.function for place in found}
    if not found or len(functions) > 1:
        return refuse("it bends one activation, and there is none or there are several kinds")
    if not trace.is_chain or any(place.normed for place in found):
        return refuse("skips or norms stand between the layers: its constants are for plain chains")
    if not all(place.facts.replaceable for place in found):
        return refuse(f"{found[0].act.name} is called as a function: change it in the source")
    uses = times_used(trace)
    if not all(own_layer(trace, place, uses) and place.weights.trainable for place in found):
        return refuse("a layer is shared, frozen or not plain, and all must start at gain one")
    constants = solve(found[0].facts.function, len(found))
    if not isinstance(constants, Constants):
        return refuse(str(constants))
    layers = [place.weights for place in found]
    # The zeros around a picture are no signal: each convolution loses a little at the rim.
    within = 3.0 if any(w.kind == "convolution" for w in layers) else 2.0
    return Prescription(
        edits=(
            Edit(
                kind="tailor_activation",
                targets=tuple(dict.fromkeys(place.act.module for place in found)),
                args={
                    "function": constants.function,
                    "input_scale": constants.input_scale,
                    "input_shift": constants.input_shift,
                    "output_scale": constants.output_scale,
                    "output_shift": constants.output_shift,
                    "negative_slope": constants.negative_slope,
                    "everywhere": True,
                },
            ),
            Edit.initialise([(w.parameter, w.bias) for w in layers], [1.0] * len(layers)),
        ),
        predictions=(Prediction.gradient_kept(within), Prediction.signal_kept(within)),
        changes=(Change.INITIALISATION, Change.ACTIVATION),
        reason=f"{len(found)} activations bent to {len(found)} layers ({method})",
    )
