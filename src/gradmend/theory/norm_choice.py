"""Which normalisation fits a network, and why the others do not."""

from __future__ import annotations

import math
from collections.abc import Sequence

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.theory.activation_choice import SHALLOW
from gradmend.theory.activations import activation
from gradmend.theory.drawing import causes
from gradmend.theory.norm_gain import decades_per_norm
from gradmend.theory.places import Place, own_layer, places, times_used, to_change

FEWEST_SAMPLES = 16
"""Samples in a batch from which batch norm is put in: Wu and He 2018 (figure 1) measure its error
to grow from 16 images a worker downward, where group norm's does not."""

DRIFT = 1.7
"""Decades that all norms together may change the gradient by. Plain ReLU nets with batch norm on
digits, 200 steps of Adam: 86 % at 1.7 decades (20 layers), 33 % at 2.5, 14 % at 3.3 (the runs
behind the limit of batch-norm-explosion); 24 layers end 20 points below every other remedy."""

FAINT = 1e-3
"""Gain of a layer below which a norm does not heal it: what it puts out has a variance of less
than a tenth of the eps of 1e-5 that every norm adds before it divides."""

GROUPS = 32
"""Groups at most (Wu and He 2018); fewer where a group would have fewer than four channels."""

KINDS = ("BatchNorm", "GroupNorm", "LayerNorm", "RMSNorm")
_REMEDY = {
    "BatchNorm": "insert-batch-norm",
    "GroupNorm": "insert-group-norm",
    "LayerNorm": "insert-layer-norm",
    "RMSNorm": "insert-rms-norm",
}
_POSITIONS = {"Linear": 0, "Conv1d": 1, "Conv2d": 2, "Conv3d": 3}


def groups_of(channels: int) -> int:
    """The most groups, at most 32, with at least four channels each; one where there are none."""
    fitting = [g for g in range(1, GROUPS + 1) if channels % g == 0 and channels // g >= 4]
    return max(fitting, default=1)


def insertion(kind: str, findings: tuple[Finding, ...], trace: Trace) -> Prescription | Refusal:
    """A norm behind the guilty layers, or why this kind is not the one.

    Args:
        kind: One of ``KINDS``.
        findings: What is treated.
        trace: The look.
    """
    found = list(places(trace))
    uses = times_used(trace)
    guilty = causes(findings)
    wanted = to_change(guilty, found)
    fit = [p for p in wanted if not p.normed and own_layer(trace, p, uses)]
    fit = list({p.layer.module: p for p in fit if _positions(trace, p) is not None}.values())
    reason = why_not(kind, trace, fit, found)
    if findings and not guilty:
        reason = f"{findings[0].name} follows from {findings[0].explained_by}: treat that"
    elif not reason and 2 * len(fit) < sum(not place.normed for place in wanted):
        reason = "most of the layers are called several times, or are no plain modules"
    elif not reason and any(place.weights.sigma_w < FAINT for place in fit):
        reason = "a layer's weights are so small that the norm's eps outweighs what it puts out"
    if reason:
        return Refusal(
            remedy=_REMEDY[kind], finding=findings[0].name if findings else "", reason=reason
        )
    features = [p.weights.shape[0] for p in fit]
    return Prescription(
        edits=(
            Edit(
                kind="insert_norm",
                targets=tuple(p.layer.module for p in fit),
                args={
                    "norm": kind,
                    "features": features,
                    "dims": [_positions(trace, p) or 0 for p in fit],
                    "groups": [groups_of(n) if kind == "GroupNorm" else 1 for n in features],
                },
            ),
        ),
        predictions=(Prediction.gradient_kept(3), Prediction.signal_kept(2)),
        changes=(Change.NORMALISATION,),
        reason=f"{kind} behind {len(fit)} of {len(found)} layers, in front of their activations",
    )


def why_not(kind: str, trace: Trace, fit: Sequence[Place], found: Sequence[Place]) -> str:
    """Why a norm of this kind is not put behind these layers; empty where it is."""
    if not found:
        return "no activation follows a linear or convolutional layer"
    if not fit:
        return (
            "behind every layer there is a norm already"
            if all(place.normed for place in found)
            else "no layer is a plain nn.Linear or nn.Conv that is called once, without a norm"
        )
    convolutional = any(place.weights.kind == "convolution" for place in fit)
    if kind == "BatchNorm":
        return _not_batch(trace, fit) or _drift(kind, fit)
    batch = not _not_batch(trace, fit) and not _drift("BatchNorm", fit)
    if batch and (kind == "GroupNorm" or not convolutional):
        return f"the batch of {trace.run.batch_size} is large enough for batch norm"
    if kind == "GroupNorm":
        return "there are no convolutions: a layer norm is its one group" * (
            not convolutional
        ) or _drift(kind, fit)
    if convolutional:
        return "over the last dimension alone it would norm a row of the picture: see group norm"
    bare = all(place.weights.bias is None for place in fit) or any(
        module.kind == "RMSNorm" for module in trace.modules
    )
    if kind == "RMSNorm" and not bare:
        return "the layers have biases, so a layer norm's centring takes nothing from them"
    if kind == "LayerNorm" and bare:
        return "the layers have no bias or the model has RMS norms already: see RMS norm"
    return _drift(kind, fit)


def _not_batch(trace: Trace, fit: Sequence[Place]) -> str:
    """Why statistics over the batch are not to be had."""
    size = trace.run.batch_size
    if any(op.cause == "recurrence" for op in trace.operations):
        return "in a recurrent network every time step has statistics of its own: see layer norm"
    if any(m.kind == "MultiheadAttention" or "Attention" in m.kind for m in trace.modules):
        return "over sequences of unlike length batch statistics are padding's too: see layer norm"
    linear = [p.layer.signal for p in fit if p.weights.kind == "linear"]
    if any(signal is not None and signal.samples > size for signal in linear):
        return "the layers read positions of sequences, not samples: see layer norm"
    if size < FEWEST_SAMPLES:
        return f"{size} samples in a batch are too few for its statistics: see group or layer norm"
    if not trace.run.training:
        return "the model is in evaluation mode, where a batch norm does not look at the batch"
    return ""


def _drift(kind: str, fit: Sequence[Place]) -> str:
    """That the norms themselves would make the gradient grow or vanish over the depth."""
    total, worst = 0.0, ""
    for place in fit:
        each = decades_per_norm(place.facts.function, kind)
        if each is None:
            return f"what a norm does to the gradient of {place.facts.function} is not known"
        total, worst = total + each * (place.layer.share > 0.99), place.facts.function
    if abs(total) <= DRIFT:
        if kind == "BatchNorm" or len(fit) <= SHALLOW or activation(worst).odd:
            return ""
        return (
            f"it leaves what samples share: behind {len(fit)} layers of {worst} they are all alike"
        )
    what = "multiply the gradient by" if total > 0 else "leave of the gradient"
    factor = 10.0 ** max(-300.0, min(300.0, total))
    return f"{len(fit)} of them with {worst} {what} {factor:.2g}, whatever the weights"


def _positions(trace: Trace, place: Place) -> int | None:
    """Dimensions of positions behind a layer of torch's own; ``None`` for any other."""
    module = trace.module_at.get(place.layer.module)
    if module is None or not module.standard or not math.prod(place.weights.shape):
        return None
    return _POSITIONS.get(module.kind)
