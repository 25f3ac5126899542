"""Outputs and targets of one shape, where they are compared each with every other."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from gradmend.records.finding import Finding
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.outlets import output_place


@remedy(treats=["broadcast-loss"], changes=[Change.WIRING])
def align_output_shape(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Take the last dimension of [N, 1] outputs away, or add it to [N] outputs.

    What it does:
        Puts a change of shape behind the model's last module, so that outputs and targets agree.

    Why it should work:
        Each output is compared with its own target, not with the table of all of them, whose
        best answer is the mean of the targets.

    What it predicts:
        Nothing that one look can check; the trial decides.

    When it refuses:
        The shape of what the model puts out is not known.

    What it costs:
        Outputs of another shape: code that indexes [:, 0] must be changed.

    References:
        PyTorch's warning on differing target sizes.
    """
    shape = _spread(trace)
    if shape is None:
        yield Refusal(
            remedy="align-output-shape", finding=findings[0].name,
            reason="the shape of what the model puts out is not known",
        )  # fmt: skip
    else:
        column = len(shape) > 1
        yield Prescription(
            edits=(
                Edit(
                    kind="follow_module",
                    targets=(output_place(trace),),
                    args={"module": "Squeezed" if column else "Unsqueezed"},
                ),
            ),
            changes=(Change.WIRING,),
            mends_loss=True,
            reason=f"outputs {list(shape)} get the shape of the targets",
        )
    yield Advice(
        remedy="align-output-shape",
        finding=findings[0].name,
        text="give output and target one shape: [N, 1] against [N] is spread to a table of all"
        " against all",
        before="loss = F.mse_loss(model(x), y)  # [N, 1] against [N]",
        after="loss = F.mse_loss(model(x).squeeze(-1), y)",
        source=findings[0].source,
    )


def _spread(trace: Trace) -> tuple[int, ...] | None:
    """The shape of the model's output before a table [N, N] was made of it."""
    graph: Mapping[str, Any] = trace.loss_graph or {}
    tail = list(graph.get("tail") or ())
    for operation in tail:
        size = list(operation.get("shape") or ())
        if len(size) != 2 or size[0] != size[1]:
            continue
        for place in operation.get("reads") or ():
            if not isinstance(place, int) or not 0 <= place < len(tail):
                continue
            before = tuple(tail[place].get("shape") or ())
            if before in ((size[0], 1), (size[0],)):
                return before
    return None
