"""Move the norms of a transformer from the stream into its branches."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.layout import ModuleFacts
from gradmend.records.prescription import Advice, Change, Edit, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy

_LAYERS = ("TransformerEncoderLayer", "TransformerDecoderLayer")
_STACKS = ("TransformerEncoder", "TransformerDecoder")


@remedy(treats=["post-norm-without-warm-up"], changes=[Change.NORMALISATION])
def move_norm_first(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Post-norm becomes pre-norm: ``norm_first=True``, and a norm behind the last layer.

    What it does:
        Sets ``norm_first`` of every guilty torch.nn transformer layer, and gives each stack that
        has none a final layer norm. The same weights, in another order.

    Why it should work:
        With the norms in the branches the stream itself is never rescaled: the gradient reaches
        the first layer along it at any depth, and no warm-up is needed.

    What it predicts:
        Nothing that one look can check: post-norm is balanced before the first step. The trial
        decides.

    When it refuses:
        Layers written by hand: then it shows the change of the source. A layer that is shared.

    What it costs:
        One norm for each stack, whose parameters join the optimizer. Deep pre-norm models can end
        slightly behind a post-norm one that was warmed up well. Trained weights compute something
        else.

    References:
        Xiong et al. 2020 (On layer normalization in the transformer architecture).
    """
    blamed = {module for finding in findings for module in finding.modules}
    guilty = [
        m
        for m in trace.modules
        if m.kind in _LAYERS and any(path.startswith(f"{m.path}.") for path in blamed)
    ]
    held = {path for m in guilty for path in blamed if path.startswith(f"{m.path}.")}
    # A stack's own final norm stands on the stream too, and stays where it is.
    by_hand = [
        path for path in sorted(blamed - held) if not _is_stack(trace, path.rpartition(".")[0])
    ]
    first = [m for m in guilty if m.settings.get("norm_first") is False]
    if not first or by_hand or any(not m.standard or m.uses > 1 for m in first):
        yield Refusal(
            remedy="move-norm-first",
            finding="post-norm-without-warm-up",
            reason=(
                "its blocks are written by hand: the order of their norms stands in the source"
                if by_hand or not guilty
                else "a layer among them is shared, is not torch's own, or has its norms first"
            ),
        )
        if by_hand or not guilty:
            yield Advice(
                remedy="move-norm-first",
                finding="post-norm-without-warm-up",
                text=(
                    "let each branch read the normed stream, and norm the stream once behind the"
                    " last block"
                ),
                before="x = norm(x + branch(x))",
                after="x = x + branch(norm(x))",
                source=findings[0].source,
            )
        return
    yield Prescription(
        edits=(
            Edit(
                kind="move_norm_first",
                targets=tuple(m.path for m in first),
                args={"stacks": _stacks(trace, first)},
            ),
        ),
        changes=(Change.NORMALISATION,),
        reason=f"{len(first)} transformer layers become pre-norm",
    )


def _is_stack(trace: Trace, path: str) -> bool:
    module = trace.module_at.get(path)
    return module is not None and module.kind in _STACKS


def _stacks(trace: Trace, layers: list[ModuleFacts]) -> list[str]:
    """What lacks a final norm: torch's own stacks, or the last layer of any other holder."""
    last: dict[str, str] = {}
    for module in layers:
        last[module.path.rpartition(".")[0]] = module.path
    found = []
    for holder, path in last.items():
        stack = holder.rpartition(".")[0]
        if not _is_stack(trace, stack):
            found.append(path)
        elif f"{stack}.norm" not in trace.module_at and ".norm" not in trace.module_at:
            found.append(stack)
    return found
