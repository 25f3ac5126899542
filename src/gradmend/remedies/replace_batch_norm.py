"""Put norms that do not look at the batch in the place of batch norms that see too little of it."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.norm_choice import groups_of


@remedy(treats=["starved-batch-norm"], changes=[Change.NORMALISATION])
def replace_batch_norm(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Group norm in the place of batch norms that see one or two values per channel.

    What it does:
        Each guilty batch norm becomes an nn.GroupNorm with the very same scale and offset, so the
        optimizer trains what it trained before: up to 32 groups of at least four channels; behind
        a linear layer one group, which is a layer norm.

    Why it should work:
        Its statistics are over channels and positions of one sample, of which there are enough
        whatever the batch is.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        A norm that is registered in several places, or is not torch's own batch norm.

    What it costs:
        Running statistics are gone: evaluation computes what training does. No new parameters.

    References:
        Wu and He 2018 (Group normalization).
    """
    blamed = tuple(dict.fromkeys(m for finding in findings for m in finding.modules))
    facts = [trace.module_at.get(path) for path in blamed]
    fit = [m for m in facts if m is not None and m.standard and m.kind.startswith("BatchNorm")]
    if not fit or len(fit) < len(blamed) or any(m.uses > 1 for m in fit):
        yield Refusal(
            remedy="replace-batch-norm",
            finding="starved-batch-norm",
            reason="a norm among them is not torch's own batch norm, or is used in several places",
        )
        return
    behind_linear = {
        op.module
        for op in trace.operations
        if op.cause == "normalisation"
        and any(
            (w := trace.operations[at].weights) is not None and w.kind == "linear"
            for at in op.upstream
        )
    }
    channels = [m.settings.get("num_features") for m in fit]
    groups = [
        1 if m.path in behind_linear or not isinstance(n, int) else groups_of(n)
        for m, n in zip(fit, channels, strict=True)
    ]
    yield Prescription(
        edits=(
            Edit(
                kind="replace_norm",
                targets=tuple(m.path for m in fit),
                args={"groups": groups},
            ),
        ),
        changes=(Change.NORMALISATION,),
        reason=f"{len(fit)} batch norms become group norms",
    )
