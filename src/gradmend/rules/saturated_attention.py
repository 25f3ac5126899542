"""ATT222: attention that looks at one key only, because its logits are too large."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows


@dataclass(frozen=True)
class Limits:
    """When attention is saturated."""

    entropy: float = limit(
        0.1,
        unit="share",
        source="of the log of the keys; 0.43 of 7 bits in huggingface/transformers#45676",
    )
    largest: float = limit(
        0.9, unit="share", source="mean over rows of the largest probability: one-hot"
    )
    logit: float = limit(
        20.0,
        unit="1",
        source="e^-20 = 2e-9: what the other keys are left with; a softmax over few keys may be "
        "sharp with less",
    )
    deviation: float = limit(
        20.0,
        unit="1",
        source="of a row's logits at the run's beginning, from which they are too large whatever "
        "they say: drawn at theory's scale they have 0.3 to 0.5 (our encoders), and 45 to 70 with "
        "queries and keys 12 times as large, which lose half of what is to be learned",
    )
    loud_entropy: float = limit(
        0.3,
        unit="share",
        source="of the log of the keys, below which such rows are; 0.06 to 0.17 in those encoders, "
        "0.95 and more in sound ones",
    )


@rule(
    code="ATT222",
    limits=Limits,
    fires_on=[Case.of("attention", scale=80.0)],
    silent_on=[Case.of("attention"), Case.of("post_norm_transformer", norm_first=True)],
)
def saturated_attention(history: History, limits: Limits) -> Iterator[Finding]:
    """Attention whose softmax is one-hot from the start, or while nothing is learned.

    What it finds:
        Attention calls whose rows give nearly all their weight to one key, with logits far apart,
        at the run's beginning or in a run whose loss has not fallen; at the beginning also calls
        whose logits are tens apart and whose rows are sharp.

    Why it matters:
        The softmax's derivative is p (1 - p): at one-hot rows no gradient reaches queries and keys,
        and that of the values jumps between keys from step to step.

    How it is measured:
        Mean entropy of the rows over the log of their keys, the mean largest probability, and the
        largest logit, over the recent window.

    Silent when:
        Rows spread; attention has become sharp while the loss fell, as heads that copy do.

    References:
        Vaswani et al. 2017, footnote 4 (why 1 / sqrt(d)); huggingface/transformers#45676; Zhai et
        al. 2023.
    """
    table = history["attention"]
    if not len(table):
        return
    entropy = windows.lasting(table, "entropy", 0.75)
    largest = windows.lasting(table, "largest_share", 0.25)
    logit = windows.lasting(table, "largest_logit", 0.25)
    deviation = windows.lasting(table, "logit_std", 0.25)
    logit = np.where(np.isnan(logit), np.inf, logit)  # fused attention may not tell
    sharp = (entropy <= limits.entropy) & (largest >= limits.largest) & (logit >= limits.logit)
    begin = windows.early(table, "entropy")
    if windows.learned(history) is not False:
        sharp &= begin <= limits.entropy
    loud = windows.early(table, "logit_std") >= limits.deviation  # NaN is not
    loud &= (begin <= limits.loud_entropy) & (entropy <= limits.loud_entropy)
    guilty = np.flatnonzero(sharp | loud)
    if not len(guilty):
        return
    worst = int(guilty[np.argmin(entropy[guilty])])
    first = table.columns[int(guilty[0])]
    yield Finding(
        code="ATT222",
        name="saturated-attention",
        severity=Severity.WARNING,
        modules=tuple(m for i in guilty if (m := table.columns[int(i)].module)),
        source=first.source,
        summary=(
            f"attention in {table.columns[worst].module or 'the model'} gives"
            f" {float(largest[worst]):.0%} of a row to one key"
            f" (entropy {float(entropy[worst]):.2g} of 1): its logits are too large, so queries and"
            " keys get no gradient"
        ),
        evidence=(
            Evidence(
                quantity="entropy of attention",
                observed=float(entropy[worst]),
                limit=limits.entropy if sharp[worst] else limits.loud_entropy,
                unit="share",
                module=table.columns[worst].module,
                step=history.step,
            ),
            *(
                Evidence(
                    quantity="standard deviation of a row's logits",
                    observed=float(deviation[at]),
                    module=table.columns[at].module,
                    step=history.step,
                )
                for at in guilty
                if np.isfinite(deviation[at])
            ),
        ),
        weight=2.0,
        explains=("loss-plateau", "vanishing-gradient", "exploding-gradient", "stalled-layers"),
        exculpation="rows that spread over several keys",
    )
