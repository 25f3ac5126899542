"""Let the model end in its last layer, where an activation cuts off what it says."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory import targets
from gradmend.theory.outlets import behind, module_of, outlet

BOUNDED = (
    "relu", "relu6", "tanh", "sigmoid", "hardtanh", "hardsigmoid", "elu", "selu", "gelu", "silu",
    "softplus", "threshold", "leaky_relu", "celu", "softsign", "hardswish", "mish",
    "softmax", "_softmax", "log_softmax", "log_sigmoid",
)  # fmt: skip
INVERSES = {"sigmoid": "Logit", "tanh": "InverseTanh", "softplus": "InverseSoftplus"}
"""What takes an activation back that is called as a function; others lose what they were given."""
LARGE = 3.0
"""Root mean square of targets from which standardising them as well is proposed: beyond what an
output of unit size reaches. Our choice; the trial decides."""


@remedy(
    treats=["bounded-logits", "rectified-output", "output-range-unfit-for-target", "clamped-loss"],
    changes=[Change.WIRING, Change.DATA_SCALE],
)
def remove_output_activation(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Put an identity in the place of the activation behind the last layer.

    What it does:
        Replaces the activation module between the last linear layer and the loss. Behind a
        sigmoid, tanh or softplus that the model calls as a function it puts the inverse. Where the
        targets of a regression are large as well, the outputs are also brought to their scale.

    Why it should work:
        A bounded or rectified output cannot reach what lies beyond its bound, is driven against
        it, and has no gradient there. A linear one reaches everything.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        The activation is called as a function and has no inverse (a ReLU), or something of the
        model reads on behind it, or there is none behind the last layer.

    What it costs:
        Outputs are no longer held to a range: clamp them when predicting, if they must be.

    References:
        DeepDiagnosis (arXiv 2112.04036), out of range; torch.nn.CrossEntropyLoss expects logits
        without bounds.
    """
    name, cause = "remove-output-activation", findings[0]
    found = outlet(trace, BOUNDED)
    if {f.name for f in findings} == {"clamped-loss"} and (found is None or found.in_loss):
        yield Refusal(
            remedy=name,
            finding=cause.name,
            reason="what cuts off is part of the loss: mend-the-loss",
        )
        return
    # The loss has a softmax or sigmoid of its own; what stands in the model comes before it.
    before = [op for op in targets.tail_of(trace) if op.inside and op.name in BOUNDED]
    module = module_of(trace, before[-1]) if before else None
    source = before[-1].source if before else cause.source
    if module is not None:
        plain = Prescription(
            edits=(Edit(kind="replace_module", targets=(module,), args={"module": "Identity"}),),
            changes=(Change.WIRING,),
            reason=f"{module} ({trace.module_at[module].kind}) behind the last layer is left out",
        )
        last = trace.weights[-1] if trace.weights else None
        own = last is not None and last.weights is not None and last.weights.module_is_plain
        yield from _scaled(trace, plain, last.module if last is not None and own else None)
        yield plain
        return
    place = behind(trace, before[-1]) if before and before[-1].name in INVERSES else None
    if place is not None:
        called = before[-1].name
        plain = Prescription(
            edits=(Edit(kind="follow_module", targets=(place,),
                        args={"module": INVERSES[called]}),),
            changes=(Change.WIRING,),
            reason=f"the inverse of {called} takes it back: the output has no bounds",
        )  # fmt: skip
        yield from _scaled(trace, plain, place)
        yield plain
    else:
        where = f"{before[-1].name} is called as a function" if before else "no activation is known"
        yield Refusal(remedy=name, finding=cause.name, reason=f"{where} behind the last layer")
    called = before[-1].name if before else "relu"
    yield Advice(
        remedy=name,
        finding=cause.name,
        text="end in the linear layer: the loss reads numbers without bounds",
        before=f"return torch.{called}(self.head(h))",
        after="return self.head(h)",
        source=source,
    )


def _scaled(trace: Trace, plain: Prescription, place: str | None) -> Iterator[Prescription]:
    """The same with outputs in the targets' units, where those are far from what layers give."""
    calls = targets.regressions_of(trace)
    if len(calls) != 1 or place is None or not calls[0].target.rms >= LARGE:
        return
    target = calls[0].target
    std = target.std if target.std > 0 else target.rms
    degree = 2 if calls[0].function in ("mse_loss", "") else 1
    edit = Edit(
        kind="standardise_target", targets=(place,),
        args={"mean": [target.mean], "std": [std], "degree": degree},
    )  # fmt: skip
    # What is put behind the same module later stands nearer to it: units come behind the inverse.
    same = plain.edits[0].targets == (place,)
    yield Prescription(
        edits=(edit, *plain.edits) if same else (*plain.edits, edit),
        changes=(Change.WIRING, Change.DATA_SCALE),
        reason=f"{plain.reason}; the outputs begin at the targets' scale",
    )
