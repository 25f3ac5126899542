"""Draw what begins at zero, or alike, as torch draws it."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Parameter, Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import activation_of, causes, refusal, target_of

ALIKE = 1e-3
"""Spread of units over their size, below which they are alike (the limit of the rule)."""

PLAIN = 5
"""Layers in a row, without norm, from which torch's own scale loses too much: it costs ReLU half
a decade a layer, and AutoTrainer (Zhang et al. 2021) calls 1e-3 vanishing. Our choice."""


@remedy(
    treats=["zero-initialisation", "symmetric-initialisation"],
    changes=[Change.INITIALISATION],
)
def break_symmetry(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Draw weights anew that are zero or alike, each kind of layer as torch does.

    What it does:
        Draws the weights that were found at zero or with equal units, and weights set to the same
        constant besides; no others, and no biases. Any kind of layer: linear, convolutions,
        embeddings, recurrent weights gate by gate, query, key and value each by itself. The scale
        is torch's own; in plain stacks of five layers and more the one that their activations
        need.

    Why it should work:
        Units that differ get gradients that differ. The scale does not matter to that, and so is
        the one that the layer would have had.

    What it predicts:
        No layer has units that are all alike.

    When it refuses:
        The weights are frozen, or nothing that was named has a weight.

    What it costs:
        Nothing at run time.

    References:
        Goodfellow, Bengio, Courville 2016, section 8.4; torch's reset_parameters.
    """
    guilty = causes(findings) or findings
    names = {module for finding in guilty for module in finding.modules}
    alike = {
        op.weights.parameter
        for op in trace.weights
        if op.weights is not None
        and op.weights.unit_spread is not None
        and op.weights.unit_spread <= ALIKE
    }
    chosen = [
        p
        for p in trace.parameters
        if p.trainable
        and len(p.shape) > 1
        and ((p.module in names and (_is_constant(p) or p.name in alike)) or _is_level(p))
    ]
    if not chosen:
        yield refusal("break-symmetry", findings, "no trainable weight of what was named is alike")
        return
    acts = activation_of(trace)
    operations = {op.weights.parameter: op for op in trace.weights if op.weights is not None}
    # Not Trace.is_chain: without any gradient no operation has a share of it.
    joined = any(len(op.upstream) > 1 or op.cause == "normalisation" for op in trace.operations)
    depth = len(trace.weights)
    deep = depth >= PLAIN and not joined
    gains, schemes = [], []
    for parameter in chosen:
        op = operations.get(parameter.name)
        act = acts.get(op.id) if op is not None else None
        target = target_of(trace, op, act, depth) if op is not None and act is not None else None
        gains.append(target.gain if target is not None else 1.0)
        schemes.append("normal" if deep and target is not None else "usual")
    yield Prescription(
        edits=(
            Edit(
                kind="initialise",
                targets=tuple(p.name for p in chosen),
                args={
                    "seed": 0,
                    "schemes": schemes,
                    "biases": [None] * len(chosen),
                    "gains": gains,
                    "centres": [0.0] * len(chosen),
                    "bias_stds": [0.0] * len(chosen),
                },
            ),
        ),
        predictions=(
            Prediction(
                quantity="alike_layers",
                low=-0.5,
                high=0.5,
                unit="layers",
                sentence="no layer has units that are all alike",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"{len(chosen)} weight(s) drawn at random",
    )


def _is_constant(parameter: Parameter) -> bool:
    stats = parameter.stats
    return stats.count > 1 and not stats.std > 1e-6 * stats.rms


def _is_level(parameter: Parameter) -> bool:
    """All entries the same number, and not zero: a head may begin at zero, and not like this."""
    return _is_constant(parameter) and parameter.stats.zeros == 0 and parameter.stats.count > 1
