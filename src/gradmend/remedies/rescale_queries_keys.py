"""Bring the logits of attention to size one by the weights of queries and keys."""

from __future__ import annotations

from collections.abc import Iterator

from gradmend.records.finding import Finding
from gradmend.records.prescription import Change, Edit, Prediction, Prescription, Refusal
from gradmend.records.trace import Trace
from gradmend.registry import remedy
from gradmend.theory.projections import (
    DEVIATION,
    FACTOR,
    figures_of,
    logits_rms,
    projections,
    rows_of_queries_and_keys,
)


@remedy(treats=["unscaled-attention", "saturated-attention"], changes=[Change.INITIALISATION])
def rescale_queries_keys(
    findings: tuple[Finding, ...], trace: Trace
) -> Iterator[Prescription | Refusal]:
    """Multiply the weights of queries and keys so that a row's logits spread by one.

    What it does:
        Divides the weights and biases of both projections by the root of the standard deviation
        that was measured of a row's logits, or of the factor that their scale is off by. Of
        projections packed into one layer the first and second third are queries and keys.

    Why it should work:
        The logit is a product of both, so it shrinks by the whole factor, and the softmax, whose
        derivative is p (1 - p), lets the gradient through to queries and keys again.

    What it predicts:
        The rms of the logits falls by the factor, where logits are seen.

    When it refuses:
        A norm behind the projections makes their size meaningless; they are frozen or cannot be
        told; fused attention did not show its logits.

    What it costs:
        Nothing at run time. What queries and keys had learned stays, attended to more softly.

    References:
        Vaswani et al. 2017, footnote 4; Zhai et al. 2023 (entropy collapse).
    """
    deviations, ratios = figures_of(findings, DEVIATION), figures_of(findings, FACTOR)
    trainable = {p.name for p in trace.parameters if p.trainable}
    rows: dict[tuple[str, tuple[int, ...]], float] = {}
    why = "the fused attention did not show its logits"
    for module, size in {**deviations, **ratios}.items():
        if not size > 1.0:
            continue
        parts = rows_of_queries_and_keys(trace, module, projections(trace, module))
        if not parts or not {name for name, _ in parts} <= trainable:
            why = f"no trainable projections of queries and keys of {module or 'the model'} show"
            rows.clear()
            break
        rows.update({(name, tuple(span)): size**-0.5 for name, span in parts})
    if not rows:
        yield Refusal(
            remedy="rescale-queries-keys",
            finding=findings[0].name if findings else "",
            reason=why,
        )
        return
    before, least = logits_rms(trace), max(rows.values()) ** 2
    yield Prescription(
        edits=(
            Edit(
                kind="scale_rows",
                targets=tuple(name for name, _ in rows),
                args={"factors": list(rows.values()), "rows": [list(span) for _, span in rows]},
            ),
        ),
        predictions=()
        if before is None
        else (
            Prediction(
                quantity="attention_logits_rms",
                low=0.0,
                high=1.2 * before * least,
                sentence=f"attention logits are {1 / least:.3g} times smaller",
            ),
        ),
        changes=(Change.INITIALISATION,),
        reason=f"weights of queries and keys multiplied by {least**0.5:.3g}",
    )
