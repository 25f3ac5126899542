"""Divide the logits of attention by the root of the head's width."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import (
    Advice,
    Change,
    Edit,
    Prediction,
    Prescription,
    Refusal,
)
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.projections import FACTOR, figures_of, logits_rms, projections


@remedy(treats=["unscaled-attention"], changes=[Change.WIRING])
def scale_attention(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal | Advice]:
    """Multiply queries by what is missing of 1 / sqrt(d).

    What it does:
        The linear layer that makes the queries is followed by the constant factor that the logits
        lack, as measured: 1 / sqrt(d) where there is none. The change of the source, which does
        the same, is shown beside it.

    Why it should work:
        A product of two vectors of width d has a standard deviation of sqrt(d) and makes the
        softmax nearly one-hot; divided by it, logits are of size one. The function, its gradients
        and every optimizer step are those of attention that was written with its scale, which
        smaller weights would not give: Adam's steps do not shrink with them.

    What it predicts:
        The rms of the logits falls by the factor, where logits are seen.

    When it refuses:
        Queries come of no linear layer that is called once, or are normalised: then the change of
        the source is shown. Of a layer that packs queries, keys and values the first third is
        taken for the queries.

    What it costs:
        One multiplication; folds into the layer on export. Parameter names of the layer change.

    References:
        Vaswani et al. 2017, section 3.2.1.
    """
    ratios = figures_of(findings, FACTOR)
    targets: dict[str, float] = {}
    rows: list[list[int]] = []
    stuck: list[str] = []
    source = findings[0].source if findings else None
    for module, ratio in ratios.items():
        found = projections(trace, module)
        source = source or (found.source if found is not None else None)
        query = found.query if found is not None else None
        facts = query.weights if query is not None else None
        plain = facts is not None and facts.kind == "linear" and facts.module_is_plain
        units = facts.shape[0] if facts is not None else 0
        odd = found is not None and found.packed and units % 3
        if found is None or query is None or found.normed or not plain or odd:
            stuck.append(module)
        elif query.module not in targets:
            targets[query.module] = 1.0 / ratio
            rows.append([0, units // 3] if found.packed else [])
    if targets and not stuck:
        before, mean = logits_rms(trace), max(targets.values())
        yield Prescription(
            edits=(
                Edit(
                    kind="multiply_output",
                    targets=tuple(targets),
                    args={"factors": list(targets.values()), "rows": rows},
                ),
            ),
            predictions=()
            if before is None
            else (
                Prediction(
                    quantity="attention_logits_rms",
                    low=0.0,
                    high=1.2 * before * mean,
                    sentence=f"attention logits are {1 / mean:.3g} times smaller",
                ),
            ),
            changes=(Change.WIRING,),
            reason=f"queries multiplied by {mean:.3g} in {len(targets)} place(s)",
        )
    else:
        yield Refusal(
            remedy="scale-attention",
            finding=findings[0].name if findings else "",
            reason=(
                f"the queries of {', '.join(stuck[:3]) or 'the attention'} come of no linear layer"
                " of their own: change it in the source"
            ),
        )
    yield Advice(
        remedy="scale-attention",
        finding=findings[0].name if findings else "",
        text="divide the logits of attention by the root of the head's width",
        before="scores = q @ k.transpose(-2, -1)",
        after="scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))",
        source=source,
    )
