"""ATT223: attention without 1 / sqrt(width)."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When a missing scale hurts."""

    ratio: float = limit(
        1.9,
        unit="1",
        source="factor on q k^T times sqrt(width), 1 in Vaswani et al. 2017; a missing scale at "
        "width 4, the smallest that is used, gives 2",
    )
    deviation: float = limit(
        2.5,
        unit="1",
        source="standard deviation of a row's logits: of normal logits this wide the largest of "
        "50 gets half of the weight; about 1 is meant (Vaswani et al. 2017, footnote 4)",
    )


@rule(
    code="ATT223",
    limits=Limits,
    fires_on=[
        Case.of("wide_attention", scaled=False),
        Case.of("wide_attention", scaled=False, fused=True),
    ],
    silent_on=[
        Case.of("wide_attention"),
        Case.of("wide_attention", fused=True),
        Case.of("wide_attention", normalised=True),
        Case.of("attention", scale=80.0),
        Case.of("attention"),
        Case.of("post_norm_transformer", norm_first=True),
    ],
)
def unscaled_attention(history: History, limits: Limits) -> Iterator[Finding]:
    """Attention logits that are not divided by the root of the head's width.

    What it finds:
        Attention whose logits go from the product of queries and keys into the softmax without a
        factor (or with one far above 1 / sqrt(width)), and spread so widely from the first step
        that a few keys get all the weight.

    Why it matters:
        A product of two vectors of width d has a standard deviation of sqrt(d): the softmax begins
        nearly one-hot, and its derivative p (1 - p) lets little through to queries and keys.

    How it is measured:
        The factor from the arguments of fused attention, or from what stands between product and
        softmax in the graph; the standard deviation of the logits of a row, at the run's beginning.

    Silent when:
        Something scales logits, queries or keys; logits are small all the same, by the
        projections' initialisation; attention has become sharp by learning. A note where the
        attention has norms named after queries or keys: their weights may be meant to learn the
        scale.

    References:
        Vaswani et al. 2017, section 3.2.1; huggingface/transformers#45676.
    """
    table = history["attention"]
    if not len(table):
        return
    ratio, deviation = windows.early(table, "scale_ratio"), windows.early(table, "logit_std")
    guilty = np.flatnonzero((ratio >= limits.ratio) & (deviation >= limits.deviation))
    if not len(guilty):
        return
    first = table.columns[int(guilty[0])]
    worst = int(guilty[np.argmax(deviation[guilty])])
    normed = _normalises(history, first.module)
    yield Finding(
        code="ATT223",
        name="unscaled-attention",
        severity=Severity.NOTE if normed else Severity.WARNING,
        modules=tuple(dict.fromkeys(m for i in guilty if (m := table.columns[int(i)].module))),
        source=first.source,
        summary=(
            f"attention in {first.module or 'the model'} does not divide its logits by the root of"
            f" the head's width: they are {float(ratio[worst]):.3g} times larger than"
            f" q k^T / sqrt(d), with a standard deviation of {float(deviation[worst]):.3g} in a"
            " row at the first step, so the softmax begins nearly one-hot: multiply them by"
            " 1 / sqrt(d)"
            + (", unless the norms of queries and keys are to learn the scale" if normed else "")
        ),
        evidence=(
            Evidence(
                quantity="standard deviation of a row's logits, at first",
                observed=float(deviation[worst]),
                limit=limits.deviation,
                module=table.columns[worst].module,
                step=history.step,
            ),
            *(
                Evidence(
                    quantity="factor on q k^T, times sqrt(width)",
                    observed=float(ratio[at]),
                    limit=limits.ratio,
                    module=table.columns[at].module,
                    step=history.step,
                )
                for at in guilty
            ),
        ),
        weight=4.0 + float(np.log10(ratio[worst])),
        explains=(
            "saturated-attention",
            "attention-logit-growth",
            "loss-plateau",
            "vanishing-gradient",
            "exploding-gradient",
            "stalled-layers",
            "gain-unlike-theory",
        ),
        exculpation="logits divided by sqrt(width), or small without it",
    )


_OF_HEADS = re.compile(r"(^|[._])(q|k|qk|query|queries|key|keys)([._]|norm|ln|$)|norm_?(q|k)", re.I)
"""Names of norms of queries and keys; others in the same module stand in front of them."""


def _normalises(history: History, module: str) -> bool:
    """Whether a norm that is named after queries or keys stands inside an attention module."""
    inside = f"{module}."
    return bool(module) and any(
        column.module.startswith(inside)
        and "Norm" in column.kind
        and _OF_HEADS.search(column.module[len(inside) :])
        for column in history["output"].columns
    )
