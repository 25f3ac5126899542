"""Take batch norms out where they are what makes the gradient explode."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.initialisation import he_gain
from gradmend.theory.places import Place, own_layer, places, times_used
from gradmend.theory.reference_gain import incoming_mean, reference_gain
from gradmend.theory.tailoring import leaky_tat

_RECTIFIERS = ("relu", "leaky_relu", "prelu")


@remedy(
    treats=["batch-norm-explosion"],
    changes=[Change.INITIALISATION, Change.ACTIVATION, Change.NORMALISATION],
)
def remove_norm(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Put nothing in the place of the guilty batch norms, and start the layers at their gain.

    What it does:
        The batch norms of the chain become nn.Identity; the layers that feed an activation start
        orthogonal at its critical gain for this depth. A second answer also bends ReLUs to the
        depth (leaky TAT), where so many layers in a row would make samples alike.

    Why it should work:
        Without skips each batch norm multiplies the gradient by sqrt(pi / (pi - 1)) under ReLU,
        whatever the weights: no initialisation heals it, only another architecture. Orthogonal
        weights at the critical gain keep signal and gradient without any norm.

    What it predicts:
        The whole model's gradient changes by less than two decades.

    When it refuses:
        A norm that is shared or is no module; layers that are frozen, shared or not plain.

    What it costs:
        The norms' parameters go unused; the optimizer keeps them and never moves them. What batch
        norm does beside (its noise regularises, larger rates fit) is lost. Trained weights too.

    References:
        Yang et al. 2019 (the explosion cannot be tuned away); Pennington, Schoenholz, Ganguli
        2017; Zhang, Botev, Martens 2022 (leaky TAT).
    """
    blamed = {module for finding in findings for module in finding.modules if module}
    norms = [op for op in trace.operations if op.name == "batch_norm" and op.module in blamed]
    found = [place for place in places(trace) if place.normed]
    reason = _why_not(trace, norms, found)
    if reason:
        yield Refusal(
            remedy="remove-norm", finding=findings[0].name if findings else "", reason=reason
        )
        return
    depth = max(1, trace.chain_depth)
    targets = tuple(dict.fromkeys(op.module for op in norms))
    away = Edit(kind="replace_module", targets=targets, args={"module": "Identity"})
    functions = {place.facts.function for place in found}
    slope = leaky_tat(depth) if functions <= set(_RECTIFIERS) else None
    replaceable = all(place.facts.replaceable for place in found)
    layers = [place.weights for place in found]
    if slope is not None and replaceable:
        bent = Edit(
            kind="tailor_activation",
            targets=tuple(dict.fromkeys(place.act.module for place in found)),
            args={
                "function": "leaky_relu",
                "output_scale": slope.output_scale,
                "negative_slope": slope.negative_slope,
                "everywhere": True,
            },
        )
        yield Prescription(
            edits=(
                away,
                bent,
                Edit.initialise([(w.parameter, w.bias) for w in layers], [1.0] * len(layers)),
            ),
            predictions=(Prediction.gradient_kept(2), Prediction.signal_kept(2)),
            changes=(Change.INITIALISATION, Change.ACTIVATION, Change.NORMALISATION),
            reason=f"{len(targets)} batch norms taken out, activations bent to {depth} layers",
        )
    critical = {f: reference_gain(f, depth) for f in functions}
    gains, centres, stds = [], [], []
    for place in found:
        gain = critical[place.facts.function]
        gains.append(gain.sigma_w if gain is not None else he_gain())
        stds.append(gain.sigma_b if gain is not None else 0.0)
        centres.append(_read_mean(trace, place.layer, depth))
    yield Prescription(
        edits=(
            away,
            Edit.initialise(
                [(w.parameter, w.bias) for w in layers], gains, centres=centres, bias_stds=stds
            ),
        ),
        predictions=(Prediction.gradient_kept(2),),
        changes=(Change.INITIALISATION, Change.NORMALISATION),
        reason=f"{len(targets)} batch norms taken out, layers at the critical gain",
    )


def _why_not(trace: Trace, norms: list[Operation], found: list[Place]) -> str:
    uses = times_used(trace)
    facts = [trace.module_at.get(op.module) for op in norms]
    if not norms or not found:
        return "the norms that multiply the gradient are not modules between layer and activation"
    if any(m is None or not m.kind.startswith("BatchNorm") for m in facts):
        return "a norm among them is no batch norm of torch's own"
    if any(m is not None and m.uses > 1 for m in facts):
        return "a norm is used in several places"
    if not all(own_layer(trace, place, uses) and place.weights.trainable for place in found):
        return "a layer in front of the norms is shared, frozen or not plain: it needs its norm"
    return ""


def _read_mean(trace: Trace, layer: Operation, depth: int) -> float:
    """The mean of what a layer reads, where its activation's has to be taken off."""
    if len(layer.upstream) != 1:
        return 0.0
    read = trace.operations[layer.upstream[0]].activation
    return incoming_mean(read.function, depth) if read is not None else 0.0
