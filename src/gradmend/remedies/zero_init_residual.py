"""Let every residual block begin as the identity."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.drawing import causes, refusal
from gradmend.theory.identity_paths import residual_branches, sole_parameters


@remedy(
    treats=["residual-growth", "exploding-gradient"],
    changes=[Change.INITIALISATION],
)
def zero_init_residual(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Set the last layer of each residual branch to zero, or the last norm's scale.

    What it does:
        Where a branch ends in a norm, the norm's scale becomes zero; else the weight of its last
        linear map (and the bias). Nothing else changes.

    Why it should work:
        x + 0 is x: at the beginning signal and gradient pass every block unchanged, and the
        stream cannot grow with depth. The first step opens the last layer of each branch, the
        next ones the rest.

    What it predicts:
        The stream grows by less than half a decade from its first to its last sum.

    When it refuses:
        Fewer than two residual branches; their last layers are frozen, shared or tied, or no
        single weight each; the finding follows from another cause.

    What it costs:
        Nothing at run time. What the last layers had learned is lost: for models before training.

    References:
        Goyal et al. 2017 (zero-gamma); Zhang, Dauphin, Ma 2019; He et al. 2019 (bag of tricks).
    """
    guilty = causes(findings)
    branches, own = residual_branches(trace), sole_parameters(trace)
    kept = {p.name for p in trace.parameters if p.trainable}
    targets: list[str] = []
    for branch in branches:
        last = branch.weights[-1].weights
        assert last is not None
        gamma, beta = f"{branch.norm}.weight", f"{branch.norm}.bias"
        if branch.norm and gamma in kept:
            targets += [name for name in (gamma, beta) if name in kept]
        elif last.parameter in own:
            targets += [last.parameter, *([last.bias] if last.bias in kept else [])]
        else:
            targets = []
            break
    reason = "" if guilty else "the finding follows from another cause"
    if not reason and len(branches) < 2:
        reason = "there are fewer than two residual branches"
    if not reason and not targets:
        reason = "a branch does not end in a trainable layer of its own"
    if reason:
        yield refusal("zero-init-residual", findings, reason)
        return
    names = tuple(dict.fromkeys(name for name in targets if name))
    yield Prescription(
        edits=(Edit(kind="scale_weights", targets=names, args={"factors": [0.0] * len(names)}),),
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
        reason=f"{len(branches)} residual branches begin at zero",
    )
