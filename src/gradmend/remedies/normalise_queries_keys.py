"""Normalise queries and keys, so that attention logits are bounded: QK norm."""

from __future__ import annotations

import math
from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.projections import attends, logits_rms, projections


@remedy(
    treats=["attention-logit-growth", "query-key-growth", "saturated-attention"],
    changes=[Change.NORMALISATION],
)
def normalise_queries_keys(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Put an RMS norm with a learned gain on the queries and keys of every head.

    What it does:
        nn.MultiheadAttention is replaced by one with the same parameters whose queries and keys
        are normalised head by head. In attention written by hand the linear layers that make them
        are followed by such a norm; packed with the values they are its first two thirds.

    Why it should work:
        |q k| / sqrt(d) is then at most sqrt(d) times the gains, however large the weights grow, so
        the softmax keeps a derivative and the growth loses its cause.

    What it predicts:
        The rms of the logits is at most sqrt(d), where logits are seen.

    When it refuses:
        The head's width does not show, the projections are no linear layers of their own, they are
        normalised already, or the missing scale is the cause.

    What it costs:
        Two norms a call; two gains of a head's width. A trained model computes something else.
        torch's fused pass for inference is not taken any more.

    References:
        Henry et al. 2020 (Query-key normalization); Dehghani et al. 2023 (ViT-22B); Wortsman et
        al. 2023.
    """
    standard: list[str] = []
    single: dict[str, int] = {}
    packed: dict[str, int] = {}
    why = ""
    causes = [f for f in findings if f.explained_by != "unscaled-attention"]
    for module in attends(trace, causes):
        found = projections(trace, module)
        facts = trace.module_at.get(found.module if found is not None else module)
        if facts is not None and facts.kind == "MultiheadAttention":
            if not facts.standard or facts.uses != 1 or facts.settings.get("add_zero_attn"):
                why = f"{facts.path} is no plain nn.MultiheadAttention of its own"
            elif any(name.endswith(".bias_k") for name in facts.parameters):
                why = f"{facts.path} has an extra key that is learned"
            standard.append(facts.path)
            continue
        ops = [op for op in (found.query, found.key) if op is not None] if found else []
        if found is None or len(ops) < 2 or found.width is None:
            why = f"projections and width of a head of {module or 'the model'} do not show"
        elif found.normed:
            why = f"queries and keys of {module or 'the model'} are normalised already"
        elif not all(
            op.weights and op.weights.module_is_plain and op.weights.kind == "linear" for op in ops
        ):
            why = f"the projections of {module or 'the model'} are no linear layers of their own"
        else:
            (packed if found.packed else single).update({op.module: found.width for op in ops})
    if why or not (standard or single or packed):
        yield Refusal(
            remedy="normalise-queries-keys",
            finding=findings[0].name if findings else "",
            reason=why or "the attention lacks its scale, and norms would not give it",
        )
        return
    edits = [Edit(kind="normalise_attention", targets=tuple(standard))] if standard else []
    for rows, thirds in ((single, False), (packed, True)):
        if rows:
            edits.append(
                Edit(
                    kind="normalise_heads",
                    targets=tuple(rows),
                    args={"widths": list(rows.values()), "thirds": thirds},
                )
            )
    widths = [*single.values(), *packed.values()]
    seen = widths and not standard and logits_rms(trace) is not None
    yield Prescription(
        edits=tuple(edits),
        predictions=(
            Prediction(
                quantity="attention_logits_rms",
                low=0.0,
                high=1.01 * math.sqrt(max(widths)),
                sentence=f"attention logits are at most sqrt({max(widths)}) in rms",
            ),
        )
        if seen
        else (),
        changes=(Change.NORMALISATION,),
        reason=f"queries and keys normalised in {len(edits) and len({*standard, *single, *packed})}"
        " place(s)",
    )
