"""ATT221: attention logits that grow without end."""

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
    """When logits are on their way out."""

    logit: float = limit(
        100.0,
        unit="1",
        source="tau = 100 of QK-clip (Kimi K2, 2025); a softmax over logits 20 apart is one-hot in "
        "float32",
    )
    growth: float = limit(
        3.0, unit="1", source="over the first logits of the same call: OMG#8 went from 19 to 57"
    )
    error_logit: float = limit(
        1e4, unit="1", source="runs above 1e4 diverged in Wortsman et al. 2023"
    )


@rule(
    code="ATT221",
    limits=Limits,
    fires_on=[Case.of("attention", growth=1.15)],
    silent_on=[Case.of("attention"), Case.of("post_norm_transformer", norm_first=True)],
)
def attention_logit_growth(history: History, limits: Limits) -> Iterator[Finding]:
    """Attention whose largest logit has grown beyond a hundred.

    What it finds:
        Attention calls whose largest logit is above 100 and three times what it was at the run's
        beginning.

    Why it matters:
        The softmax becomes one-hot and its gradient vanishes, so that nothing turns the queries
        and keys back; in half precision the logits overflow.

    How it is measured:
        The largest |logit|, scale included, of each attention call: a low rank over the recent
        window against the first ones.

    Silent when:
        Logits are smaller, or have been as large from the beginning, where saturated-attention
        judges them.

    References:
        Wortsman et al. 2023 (small-scale proxies); Dehghani et al. 2023 (QK norm); Zhai et al. 2023
        (entropy collapse).
    """
    table = history["attention"]
    if not len(table):
        return
    now = windows.lasting(table, "largest_logit", 0.25)
    begin = windows.early(table, "largest_logit")
    guilty = np.flatnonzero((now >= limits.logit) & (now >= limits.growth * begin))
    if not len(guilty):
        return
    worst = int(guilty[np.argmax(now[guilty])])
    first = table.columns[int(guilty[0])]
    yield Finding(
        code="ATT221",
        name="attention-logit-growth",
        severity=Severity.ERROR if now[worst] >= limits.error_logit else Severity.WARNING,
        modules=tuple(m for i in guilty if (m := table.columns[int(i)].module)),
        source=first.source,
        summary=(
            f"the largest attention logit of {table.columns[worst].module or 'the model'} has grown"
            f" from {windows.plain(float(begin[worst]))} to {windows.plain(float(now[worst]))}:"
            " nothing bounds the size of queries and keys"
        ),
        evidence=(
            Evidence(
                quantity="largest attention logit",
                observed=float(now[worst]),
                limit=limits.logit,
                module=table.columns[worst].module,
                step=history.step,
            ),
        ),
        weight=3.0 + float(np.log10(now[worst] / limits.logit)),
        explains=("saturated-attention", "loss-plateau", "vanishing-gradient", "loss-spike"),
        exculpation="logits below a hundred, or as large as ever",
    )
