"""Give the gradient a way around every layer."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Operation, Trace
from gradmend.registry import remedy


@remedy(
    treats=[
        "depth-without-skip",
        "attenuating-activation",
        "uncentred-activation",
        "init-gain-too-small",
        "init-gain-too-large",
        "dead-relu",
    ],
    changes=[Change.RESIDUAL],
)
def add_rezero_residual(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Wrap each layer and its activation into h + alpha f(h), alpha learned from zero.

    What it does:
        Every pair of a linear layer and an activation that keeps the width becomes the branch of
        a residual with one new parameter alpha, which starts at zero.

    Why it should work:
        At alpha = 0 every block is the identity, so signal and gradient pass unchanged at any
        depth, whatever f does; training opens the branches as far as they help.

    What it predicts:
        The whole model's gradient changes by less than three decades (what the layers that
        cannot be wrapped cost).

    When it refuses:
        Fewer than two pairs keep the width, or the activations are functional or shared.

    What it costs:
        One parameter and one addition a layer. The architecture changes: checkpoints of the
        plain model no longer load, and it cannot be folded away.

    References:
        Bachlechner et al. 2021 (ReZero); De and Smith 2020 (SkipInit); He et al. 2016.
    """
    uses = Counter(op.module for op in trace.operations)  # once: there may be 10,000 layers
    runs = [(w, act) for w, act in trace.pairs() if _fits(trace, w, act, uses)]
    if len(runs) < 2:
        yield Refusal(
            remedy="add-rezero-residual",
            finding=findings[0].name if findings else "",
            reason="fewer than two pairs of a layer and an activation module keep the width",
        )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="wrap_residual",
                targets=tuple(w.module for w, _ in runs),
                args={"parts": [[act.module] for _, act in runs]},
            ),
        ),
        predictions=(Prediction.gradient_kept(3),),
        changes=(Change.RESIDUAL,),
        reason=f"{len(runs)} layers wrapped into h + alpha f(h)",
    )


def _fits(trace: Trace, weights: Operation, act: Operation, uses: Counter[str]) -> bool:
    """A layer that keeps its width and feeds nothing but its own activation module, once each."""
    facts, kind = weights.weights, act.activation
    if facts is None or kind is None or not facts.module_is_plain or not kind.replaceable:
        return False
    shared = sum(uses[module] for module in {weights.module, act.module}) != 2
    same_width = facts.kind == "linear" and facts.fan_in == facts.fan_out
    return same_width and not shared and trace.readers.get(weights.id, ()) == (act.id,)
