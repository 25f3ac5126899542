"""ATT224: query and key weights that grow while the values' stay."""

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
    """When queries and keys are on their way out."""

    growth: float = limit(
        0.15,
        unit="decades",
        source="of the larger of both weights over their first size: 1.4 times; OMG#8 went from 19 "
        "to 57 in both norms together",
    )
    values: float = limit(
        0.4,
        unit="share",
        source="our choice: of that growth, in decades, what the values may share; more is a model "
        "that grows as a whole",
    )
    logit: float = limit(
        30.0,
        unit="1",
        source="largest |logit|: e^-30 is 1e-13, beyond what a float32 softmax can tell apart",
    )
    rise: float = limit(3.0, unit="1", source="largest logit over its first size, as ATT221")


_ROLES = {
    "query": re.compile(r"(^|[._])(q|wq|w_q|to_q|q_proj|q_lin|query|queries|q_linear|query_proj)$"),
    "key": re.compile(r"(^|[._])(k|wk|w_k|to_k|k_proj|k_lin|key|keys|k_linear|key_proj)$"),
    "value": re.compile(r"(^|[._])(v|wv|w_v|to_v|v_proj|v_lin|value|values|v_linear|value_proj)$"),
}
"""What people call the three projections."""


@rule(
    code="ATT224",
    limits=Limits,
    fires_on=[Case.of("attention", growth=1.15), Case.of("attention", growth=1.1)],
    silent_on=[
        Case.of("attention"),
        Case.of("attention", scale=80.0),
        Case.of("wide_attention", scaled=False),
        Case.of("post_norm_transformer", norm_first=True),
    ],
)
def query_key_growth(history: History, limits: Limits) -> Iterator[Finding]:
    """Weights of queries and keys that grow radially, while those of the values do not.

    What it finds:
        Attention whose query or key projection has grown well beyond the value projection of the
        same block, and whose largest logit has grown with them.

    Why it matters:
        The logit is a product of both, so it grows with the square. The softmax becomes one-hot,
        its gradient vanishes, and nothing turns the weights back: the run dies after tens of
        thousands of steps that looked well.

    How it is measured:
        log10 of the weights' root mean square, of the parameters named as projections in one block,
        now against the first; the largest logit of the attention calls in that block.

    Silent when:
        Values grow along; logits stay below the limit; queries and keys are normalised, so that
        their weights' size does not matter to the logits; one matrix holds all three.

    References:
        Dehghani et al. 2023 (QK norm); Wortsman et al. 2023; Tsinghua-MARS-Lab/OMG#8.
    """
    weights, table = history["update"], history["attention"]
    if not len(weights) or not len(table):
        return
    begin, now = windows.early(weights, "log10_weight"), weights.last("log10_weight")
    with np.errstate(invalid="ignore"):
        grown = now - begin
    blocks: dict[str, dict[str, int]] = {}
    for at, column in enumerate(weights.columns):
        for role, pattern in _ROLES.items():
            if len(column.shape) == 2 and pattern.search(column.module):
                blocks.setdefault(column.module.rpartition(".")[0], {})[role] = at
    first_logit = windows.early(table, "largest_logit")
    last_logit = windows.lasting(table, "largest_logit", 0.25)
    found: list[tuple[str, str, float, float, float, float]] = []
    for block, roles in blocks.items():
        if len(roles) < len(_ROLES):
            continue
        role = max(("query", "key"), key=lambda each: _known(float(grown[roles[each]])))
        growth, values = float(grown[roles[role]]), float(grown[roles["value"]])
        calls = [
            at
            for at, column in enumerate(table.columns)
            if not block or column.module == block or column.module.startswith(f"{block}.")
        ]
        if not growth >= limits.growth or not values <= limits.values * growth or not calls:
            continue
        at = max(calls, key=lambda each: _known(float(last_logit[each])))
        if last_logit[at] >= limits.logit and last_logit[at] >= limits.rise * first_logit[at]:
            module = weights.columns[roles[role]].module
            logits = float(first_logit[at]), float(last_logit[at])
            found.append((module, role, growth, values, *logits))
    if not found:
        return
    module, role, growth, values, before, after = found[0]
    yield Finding(
        code="ATT224",
        name="query-key-growth",
        severity=Severity.WARNING,
        modules=tuple(each[0] for each in found),
        summary=(
            f"the {role} weights of {module} have grown {windows.times(growth):.3g} times while the"
            f" values' changed {windows.times(values):.3g} times, and the largest attention logit"
            f" went from {windows.plain(before)} to {windows.plain(after)}: normalise queries and"
            " keys (QK norm), or lower their rate"
        ),
        evidence=(
            Evidence(
                quantity="growth of query or key weights",
                observed=growth,
                limit=limits.growth,
                unit="decades",
                module=module,
                step=history.step,
            ),
        ),
        weight=6.0 + growth,
        explains=(
            "attention-logit-growth",
            "saturated-attention",
            "loss-plateau",
            "vanishing-gradient",
            "loss-spike",
            "stalled-layers",
            "diverging-loss",
        ),
        exculpation="values that grow along, or logits that stay small",
    )


def _known(value: float) -> float:
    return -np.inf if np.isnan(value) else value
