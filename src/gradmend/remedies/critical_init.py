"""Draw the weights anew at the edge where gradients neither vanish nor explode."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy
from gradmend.theory.reference_gain import incoming_mean, reference_gain

_ONE_LAYER = frozenset(
    {"init-gain-too-small", "init-gain-too-large", "saturated-activation", "dead-relu"}
)
"""Causes that a single layer can be guilty of, so that the others may keep their weights."""


@remedy(
    treats=[
        "init-gain-too-small",
        "init-gain-too-large",
        "attenuating-activation",
        "uncentred-activation",
        "saturated-activation",
        "dead-relu",
    ],
    changes=[Change.INITIALISATION],
)
def critical_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw weights anew, orthogonal, at the critical gain for the activation and the depth.

    What it does:
        For every linear or convolutional layer that feeds a known activation: orthogonal weights
        with the depth-aware critical gain sigma_w, and biases that remove the mean of what the
        layer reads (b = -E[phi] W 1) where that activation's output is not centred. Where one
        layer alone is to blame, only that layer.

    Why it should work:
        chi = sigma_w^2 E[phi'^2] = 1 keeps the squared gradient from layer to layer; slightly
        more than 1 (depth * (chi - 1) = 1) also keeps the signal. Orthogonal weights treat all
        directions alike, not only on average. For the sigmoid both halves are needed: gain 4 for
        the slope, the centred bias for the mean.

    What it predicts:
        The whole model's gradient changes by less than two decades, and the signal across
        samples by less than two.

    When it refuses:
        No layer feeds an activation that theory knows, or the weights are frozen or composed of
        several parameters.

    What it costs:
        Nothing at run time. Trained weights are lost: for models before training.

    References:
        Saxe, McClelland, Ganguli 2014; Pennington, Schoenholz, Ganguli 2017; He et al. 2015.
        Depth-aware gain: gradmend.theory.critical.
    """
    pairs = list(trace.pairs())
    only: set[int] | None = None
    if findings and all(f.name in _ONE_LAYER for f in findings):
        blamed = {module for finding in findings for module in finding.modules}
        guilty = {w.id for w, act in pairs if w.module in blamed or act.module in blamed}
        if len(guilty) <= max(1, len(pairs) // 5):
            only = guilty
    rows = []
    fed = {weights.id for weights, _ in pairs}
    activations = {weights.id: act for weights, act in pairs}
    for weights in trace.weights:
        facts = weights.weights
        if facts is None or not facts.trainable or not facts.module_is_plain:
            continue
        if only is not None and weights.id not in only:
            continue
        act = activations.get(weights.id)
        row = _row(trace, weights, act)
        # The output layer has no activation; it is touched only to centre what it reads.
        if row is not None and (weights.id in fed or row[3]):
            rows.append(row)
    if not any(row[0] in fed for row in rows):
        yield Refusal(
            remedy="critical-init",
            finding=findings[0].name if findings else "",
            reason="no trainable layer of its own feeds an activation that theory knows",
        )
        return
    yield Prescription(
        edits=(
            Edit.initialise(
                [(row[1], row[5]) for row in rows],
                [row[2] for row in rows],
                centres=[row[3] for row in rows],
                bias_stds=[row[4] for row in rows],
            ),
        ),
        predictions=(
            Prediction.gradient_kept(2),
            Prediction.signal_kept(2),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"orthogonal weights at the critical gain in {len(rows)} layer(s)",
    )


def _row(
    trace: Trace, weights: Operation, act: Operation | None
) -> tuple[int, str, float, float, float, str | None] | None:
    """(id, weight, gain, centre, bias std, bias) for one layer."""
    facts = weights.weights
    assert facts is not None
    gain, bias_std = 1.0, 0.0
    if act is not None and act.activation is not None:
        critical = reference_gain(act.activation.function, max(1, trace.chain_depth))
        if critical is None:
            return None
        gain, bias_std = critical.sigma_w, critical.sigma_b
    centre = 0.0
    if len(weights.upstream) == 1:
        read = trace.operations[weights.upstream[0]].activation
        if read is not None:
            centre = incoming_mean(read.function, max(1, trace.chain_depth))
    return weights.id, facts.parameter, gain, centre, bias_std, facts.bias
