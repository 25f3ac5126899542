"""The residual stream: what stands on it, and not in a branch."""

from __future__ import annotations

from gradmend.records.trace import Operation, Trace


def norms_on_the_stream(trace: Trace) -> list[Operation]:
    """Normalisations that all of the gradient passes right behind a sum of two."""
    return [
        op
        for op in trace.operations
        if op.cause == "normalisation"
        and op.name != "batch_norm"
        and op.share > 0.98
        and any(
            # A sum that something else reads too has a skip past the norm: pre-norm.
            _is_sum(trace.operations[at]) and trace.readers.get(at) == (op.id,)
            for at in op.upstream
        )
    ]


def _is_sum(op: Operation) -> bool:
    return op.name in ("add", "add_") and len(op.upstream) > 1
