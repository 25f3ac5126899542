"""Which layers may be drawn anew, which of them are to blame, and the gain each should have."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from gradmend.records.finding import Finding
from gradmend.records.prescription import Edit, Refusal
from gradmend.records.trace import ActivationFacts, Operation, Trace
from gradmend.theory.activations import KNOWN, activation
from gradmend.theory.initialisation import xavier_gain
from gradmend.theory.layer_gain import Target, target_of
from gradmend.theory.reference_gain import gain_range

__all__ = [
    "APART",
    "RECTIFIERS",
    "Blame",
    "Target",
    "activation_of",
    "attends_anywhere",
    "blame",
    "causes",
    "draw",
    "gain_ratio",
    "glorot",
    "healthy_gain",
    "is_odd",
    "made_up_for",
    "own_layers",
    "refusal",
    "refused",
    "rows_by_activation",
    "stands_apart",
    "target_of",
]

APART = 3.0
"""Factor by which one layer's gain, over what it should be, stands apart from the others':
torch's default, Xavier's and He's schemes lie within 2.5 of one another (our choice)."""

RECTIFIERS = frozenset({"relu", "relu6", "leaky_relu", "prelu", "rrelu"})

_SMALLEST = -30.0
"""log10 that stands for a gain of zero."""


@dataclass(frozen=True, slots=True)
class Blame:
    """Which layers are to be drawn anew."""

    few: tuple[Operation, ...]
    """The one layer, or the few in a large model, that stand out; none where all are alike."""
    widely: bool
    """Whether more layers than those few are named."""
    stuck: str = ""
    """Why nothing can be drawn, where only layers are named that must not be."""


def causes(findings: Iterable[Finding]) -> tuple[Finding, ...]:
    """Findings that no other one accounts for: what follows from a cause goes with it."""
    return tuple(finding for finding in findings if finding.explained_by is None)


def own_layers(trace: Trace) -> list[Operation]:
    """Linear maps with a trainable weight of their own, used in one place only."""
    uses = Counter(op.weights.parameter for op in trace.weights if op.weights is not None)
    # Where the gradient is cut off no operation has a share of it, and all are asked.
    whole = trace.total_decades is None
    found = []
    for op in trace.weights:
        facts = op.weights
        if facts is None or not facts.trainable or uses[facts.parameter] != 1:
            continue
        if op.share <= 0.0 and not whole:
            continue
        owner = facts.parameter.rpartition(".")[0]
        module = trace.module_at.get(owner)
        # A name of another module's: tied weights. Two dimensions at least: a map, not a scale.
        theirs = owner == op.module or (module is not None and owner.startswith(op.module))
        once = module is None or (module.uses == 1 and not module.kind.startswith("Embedding"))
        if facts.module_is_plain or (trace.modules and theirs and once and len(facts.shape) > 1):
            found.append(op)
    return found


def activation_of(trace: Trace) -> dict[int, Operation]:
    """The activation that each linear map feeds, by the map's id."""
    return {weights.id: act for weights, act in trace.pairs()}


def is_odd(facts: ActivationFacts) -> bool:
    """Whether phi(-x) = -phi(x), with slope one at zero: what Xavier's scheme is made for."""
    if facts.function not in KNOWN:
        return False
    phi = activation(facts.function)
    return phi.odd and abs(phi.slope_at_zero - 1.0) < 1e-6


def gain_ratio(op: Operation, act: Operation | None) -> float:
    """log10 of a layer's gain over what its activation needs; 0 within the usual range."""
    assert op.weights is not None
    sigma = op.weights.sigma_w
    known = gain_range(act.activation.function) if act and act.activation else None
    low, high = known or (3.0**-0.5, 2.0**0.5)  # torch's default to He's, where nothing is known
    if not sigma > 0.0:
        return _SMALLEST
    return math.log10(sigma / min(max(sigma, low), high)) if math.isfinite(sigma) else -_SMALLEST


def blame(findings: Sequence[Finding], trace: Trace) -> Blame:
    """Which layers the findings speak of, and whether a few stand out.

    Args:
        findings: Causes, whose modules are layers or the activations that they feed.
        trace: The look.
    """
    layers, acts = own_layers(trace), activation_of(trace)
    ratios = {op.id: gain_ratio(op, acts.get(op.id)) for op in layers}
    # A symptom shows where it shows, not where it comes from; but for weights that are odd.
    names = {
        module
        for finding in findings
        if not finding.symptom or finding.name == "gain-unlike-theory"
        for module in finding.modules
    }
    fed = {op.id: acts[op.id].module for op in layers if op.id in acts}
    named = [op for op in layers if op.module in names or fed.get(op.id) in names]
    most = max(1, len(layers) // 5)
    if not named and names:
        # Whether what is named has weights at all: a norm or an activation alone has none.
        held = [op.module for op in trace.weights if op.module in names]
        if held:
            return Blame((), False, f"{held[0]} is frozen, shared or tied")
    usual = statistics.median(ratios.values()) if ratios else 0.0
    apart = [
        op
        for op in named or layers
        if abs(ratios[op.id] - usual) > math.log10(APART) and ratios[op.id] != 0.0
    ]
    if named and len(named) <= most:
        return Blame(tuple(apart or named), False)
    return Blame(tuple(apart) if len(apart) <= most else (), True)


def healthy_gain(trace: Trace, op: Operation, sick: Iterable[Operation]) -> float | None:
    """The gain that a layer would have, had it been drawn as those like it were."""
    acts, out = activation_of(trace), {other.id for other in sick}
    function = _function(acts.get(op.id))
    assert op.weights is not None
    alike = [
        other.weights.sigma_w
        for other in own_layers(trace)
        if other.id not in out
        and other.weights is not None
        and other.weights.kind == op.weights.kind
        and _function(acts.get(other.id)) == function
    ]
    gain = statistics.median(alike) if alike else 0.0
    return gain if 0.05 <= gain <= 10.0 else None


def _function(act: Operation | None) -> str | None:
    return act.activation.function if act is not None and act.activation is not None else None


def draw(
    rows: Sequence[tuple[Operation, Target]], scheme: str, *, keep_biases: bool = False
) -> Edit:
    """The edit that draws layers anew.

    Args:
        rows: Layers with how to draw each.
        scheme: Of :func:`gradmend.edits.draws.draw_weight`.
        keep_biases: Leave biases as they are.
    """
    facts = [op.weights for op, _ in rows if op.weights is not None]
    edit = Edit.initialise(
        [(f.parameter, None if keep_biases else f.bias) for f in facts],
        [target.gain for _, target in rows],
        centres=[target.centre for _, target in rows],
        bias_stds=[target.bias_std for _, target in rows],
    )
    more = {"scheme": scheme}
    bare = [f.kind == "linear" and f.shape[-2:] == (f.fan_in, f.fan_out) for f in facts]
    # A square matrix is the same either way round.
    first = [b and f.fan_in != f.fan_out for b, f in zip(bare, facts, strict=True)]
    flags = {"input_first": first} if any(first) else {}
    return Edit(kind=edit.kind, targets=edit.targets, args={**edit.args, **more, **flags})


def glorot(op: Operation) -> float:
    """Xavier's gain for a layer's own fans."""
    assert op.weights is not None
    return xavier_gain(op.weights.fan_in, op.weights.fan_out)


def made_up_for(trace: Trace, few: Sequence[Operation]) -> bool:
    """Whether other layers make up for what the few are off, so that their product is right.

    Only around rectifiers: what bends elsewhere than at zero is saturated or idle by then.
    """
    acts = activation_of(trace)
    bent = {act.activation.function for act in acts.values() if act.activation is not None}
    if not bent <= {"relu", "leaky_relu", "prelu"}:
        return False
    every = sum(gain_ratio(op, acts.get(op.id)) for op in own_layers(trace))
    own = sum(gain_ratio(op, acts.get(op.id)) for op in few)
    return abs(own) >= 1.0 and abs(every) <= 0.5


def refusal(remedy: str, findings: Sequence[Finding], reason: str) -> Refusal:
    """The answer of a remedy that does not fit."""
    return Refusal(remedy=remedy, finding=findings[0].name if findings else "", reason=reason)


def stands_apart(op: Operation, act: Operation | None) -> bool:
    """Whether a gain is further from the usual ones than any usual scheme puts it."""
    return abs(gain_ratio(op, act)) > math.log10(APART)


def rows_by_activation(
    trace: Trace, gain_of: Callable[[ActivationFacts], float | None]
) -> tuple[list[tuple[Operation, Target]], str]:
    """How to draw the layers of a network by what they feed.

    Layers that feed nothing are drawn at gain one where they are far from usual.

    Args:
        trace: The look.
        gain_of: sigma_w for an activation; ``None`` for one that the scheme is not made for.

    Returns:
        The layers with their targets, and the first activation that does not fit; empty if none.
    """
    acts = activation_of(trace)
    rows: list[tuple[Operation, Target]] = []
    other = ""
    for op in own_layers(trace):
        act = acts.get(op.id)
        facts = act.activation if act is not None else None
        gain = gain_of(facts) if facts is not None else None
        if facts is None:
            if stands_apart(op, act):
                rows.append((op, Target(1.0)))
        elif gain is not None:
            rows.append((op, Target(gain)))
        else:
            other = other or facts.function
    return rows, other


def attends_anywhere(trace: Trace) -> bool:
    """Whether the model has attention."""
    return any("attention" in op.name or op.name == "softmax" for op in trace.operations) or any(
        module.kind == "MultiheadAttention" for module in trace.modules
    )


def refused(findings: Sequence[Finding], found: Blame, remedy: str) -> str:
    """Why a remedy that draws all layers is not the right one here; empty where it is."""
    if findings and not causes(findings):
        return f"{findings[0].name} follows from {findings[0].explained_by}: treat that"
    if found.stuck:
        return found.stuck
    if found.few and not found.widely and remedy != "redraw-layer":
        return (
            f"{found.few[0].module or 'one layer'} alone is to blame: redraw-layer keeps the rest"
        )
    return ""
