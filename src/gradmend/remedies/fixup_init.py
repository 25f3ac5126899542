"""Scale residual branches by their number and begin them at zero: no norm is needed."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import causes, refusal
from gradmend.theory.identity_paths import residual_branches, sole_parameters


@remedy(treats=["residual-growth"], changes=[Change.INITIALISATION])
def fixup_init(findings: tuple[Finding, ...], trace: Trace) -> Iterator[Prescription | Refusal]:
    """Scale the layers of L residual branches by L^(-1/(2m-2)), and set their last to zero.

    What it does:
        In a branch of m layers the first m - 1 are multiplied by L^(-1/(2m-2)), L being the
        number of branches, and the last becomes zero. The scalar biases and multipliers of the
        paper would be new parameters and are left out.

    Why it should work:
        Branches at zero keep the first pass; the factor keeps the first *steps*: one step then
        changes the whole function by an amount that does not grow with L.

    What it predicts:
        The stream grows by less than half a decade from its first to its last sum.

    When it refuses:
        Branches are normalised (zero-init-residual is enough), have a single layer, or number
        fewer than two; a layer of theirs is frozen, shared or tied.

    What it costs:
        Nothing at run time. For models before training. Published results with it use strong
        regularisation to match batch norm.

    References:
        Zhang, Dauphin, Ma 2019 (Fixup), section 3.
    """
    guilty = causes(findings)
    branches, own = residual_branches(trace), sole_parameters(trace)
    kept = {p.name for p in trace.parameters if p.trainable}
    names: list[str] = []
    factors: list[float] = []
    whole = True
    for branch in branches:
        facts = [op.weights for op in branch.weights if op.weights is not None]
        whole = whole and all(f.parameter in own for f in facts)
        factor = len(branches) ** (-1.0 / (2 * len(facts) - 2)) if len(facts) > 1 else 1.0
        for f in facts[:-1]:
            names.append(f.parameter)
            factors.append(factor)
        last = [facts[-1].parameter, *([facts[-1].bias] if facts[-1].bias in kept else [])]
        names += [name for name in last if name]
        factors += [0.0] * len(last)
    normed = any(op.cause == "normalisation" for op in trace.operations)
    reason = "" if guilty else "the finding follows from another cause"
    if not reason and len(branches) < 2:
        reason = "there are fewer than two residual branches"
    if not reason and normed:
        reason = "norms keep the branches' scale: zero-init-residual is enough"
    if not reason and all(len(branch.weights) < 2 for branch in branches):
        reason = "branches of one layer: zero-init-residual does the same"
    if not reason and not whole:
        reason = "a layer of a branch is frozen, shared or tied"
    if reason:
        yield refusal("fixup-init", findings, reason)
        return
    yield Prescription(
        edits=(Edit(kind="scale_weights", targets=tuple(names), args={"factors": factors}),),
        predictions=(
            Prediction(
                quantity="stream_growth",
                low=-0.5,
                high=0.5,
                unit="decades",
                sentence="the residual stream keeps its size within half a decade",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"{len(branches)} branches scaled for their number, their last layers at zero",
    )
