"""DAT202: NaN or infinity in the data."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.records.trace import Input, Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory import windows

EXPLAINS = (
    "non-finite-value",
    "learning-rate-too-high",
    "diverging-loss",
    "loss-spike",
    "loss-plateau",
    "vanishing-gradient",
    "exploding-gradient",
    "collapsed-signal",
    "stalled-layers",
    "dead-relu",
    "saturated-activation",
    "loss-scale-collapse",
    "fully-masked-row",
    "half-precision-overflow",
    "square-root-at-zero",
    "hidden-branch-nan",
    "logarithm-of-zero",
    "division-by-zero",
    "exponential-overflow",
    "empty-reduction",
)
HARMLESS = frozenset(
    {"mean", "sum", "pow", "abs", "sub", "rsub", "neg", "mul", "square", "expand", "mse_loss"}
    | {"l1_loss", "smooth_l1_loss", "huber_loss"}
)
"""Operations that make no NaN of finite numbers."""


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: a number is finite or not
    events = list(history.of_kind("non-finite"))
    # After the weights are NaN every batch gives NaN: the first one says where it came from.
    first = next((e for e in events if _data(e)), None)
    if first is None or (first is not events[0] and not _recovered(history, first.step)):
        return
    lasts = bool((history["gradient"].last("state") == 3).any())
    rows = _data(first)
    times = sum(bool(_data(e)) for e in events)
    again = f", and in {times - 1} more" if times > 1 else ""
    yield _finding(
        said=(
            f"at step {first.step} the batch{again} {_told(rows)}"
            + (": the weights are NaN since" if lasts else "")
        ),
        bad=sum(int(row.get("bad", 0)) for row in rows),
        modules=(),
        severity=Severity.ERROR if lasts else Severity.WARNING,
        step=first.step,
    )


def _data(event: Event) -> list[dict[str, Any]]:
    """What of a step's data is not finite: as found, or as it must be.

    A difference of finite outputs is NaN only if the targets are.
    """
    facts = event.facts
    if facts.get("data"):
        return list(facts["data"])
    if facts.get("direction") != "loss" or facts.get("loss") != "nan":
        return []
    if not facts.get("replayed") or facts.get("bad"):
        return []
    chain = [name for name in str(facts.get("operation") or "").split(" <- ") if name]
    own = [at for at, name in enumerate(chain) if name not in HARMLESS]
    last = own[0] if own else len(chain)
    if last and chain[last - 1] in ("sub", "rsub"):
        return [{"what": "targets", "bad": 1}]
    return []


def _told(rows: list[dict[str, Any]]) -> str:
    if not rows[0].get("shape"):
        return "holds NaN in its targets: the outputs are finite, and their difference is not"
    return "holds " + " and ".join(
        f"{row.get('bad')} NaN or infinite values in the {row.get('what')} {row.get('shape')}"
        for row in rows[:2]
    )


def _recovered(history: History, step: int) -> bool:
    """Whether gradients were finite between the first bad value and this step."""
    table = history["step"]
    rows = (table.steps < step) & (table.steps >= step - windows.FEWEST)
    return bool(np.isfinite(table["log10_norm"][rows]).any())


def _finding(
    *, said: str, bad: int, modules: tuple[str, ...], severity: Severity, step: int = 0
) -> Finding:
    return Finding(
        code="DAT202",
        name="non-finite-batch",
        severity=severity,
        modules=modules,
        summary=f"{said}; clean the data, or leave such samples out",
        evidence=(
            Evidence(
                quantity="NaN and infinite values in the batch",
                observed=float(bad),
                limit=0.0,
                unit="values",
                step=step,
            ),
        ),
        weight=2000.0,
        explains=EXPLAINS,
        exculpation="finite inputs and targets",
    )


@rule(
    code="DAT202",
    fires_on=[
        Case.of("fed_regressor", bad="input"),
        Case.of("fed_regressor", bad="target"),
        Case.of("fed_regressor", bad="infinite"),
        Case.of("fed_regressor", bad="target", loss="by_hand"),
    ],
    silent_on=[
        Case.of("fed_regressor"),
        Case.of("fed_regressor", bad="masked"),
        Case.of("overflowing", where="forward"),
        Case.of("fed_regressor", scale=1e5, shift=2e5),
    ],
    live=_live,
    live_fires_on=[
        Case.of("fed_regression", bad="input"),
        Case.of("fed_regression", bad="target"),
        Case.of("fed_regression", bad="target", loss="by_hand"),
        Case.of("fed_regression", bad="skipped"),
    ],
    live_silent_on=[
        Case.of("fed_regression"),
        Case.of("fed_regression", bad="masked"),
        Case.of("breaking", at=12),
    ],
)
def non_finite_batch(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """NaN or infinity in a batch's inputs or targets, which makes the loss NaN.

    What it finds:
        Inputs and targets that hold NaN or infinity, where the loss or the gradient of the same
        step is not finite either.

    Why it matters:
        One such value makes every weight NaN at the next step; it looks like an explosion, and no
        rate, clipping or initialisation mends it.

    How it is measured:
        Entries of the batch that are not finite, counted; over a run in the step in which the
        first bad value was met. Exact, no threshold.

    Silent when:
        Loss and gradient stay finite (missing targets that are masked out); what is not finite is
        an additive attention mask of 0 and -inf; the first bad value came before the data's.

    References:
        Missing values in tables; division by a feature's deviation of zero when standardising;
        lyricsHAN#3 (clipping does not help).
    """
    del limits  # unused: a number is finite or not
    loss = trace.run.loss
    gradient = trace.ledger is not None and any("not finite" in note for note in trace.ledger.notes)
    if loss is not None and math.isfinite(loss) and not gradient:
        return
    rows = [
        {"what": item.name, "shape": list(item.shape), "bad": item.stats.non_finite}
        for item in trace.inputs
        if item.stats.non_finite and not _is_mask(item)
    ]
    readers = tuple(
        dict.fromkeys(
            item.reader
            for item in trace.inputs
            if item.stats.non_finite and not _is_mask(item) and item.reader is not None
        )
    )
    rows += [
        {"what": "targets", "shape": list(c.target.shape), "bad": c.target.non_finite}
        for c in trace.losses
        if c.target.non_finite
    ]
    if rows:
        yield _finding(
            said=f"the batch {_told(rows)}",
            bad=sum(int(row["bad"]) for row in rows),  # type: ignore[call-overload]
            modules=readers,
            severity=Severity.ERROR,
        )


def _is_mask(item: Input) -> bool:
    """Zeros and infinities alone: an additive attention mask."""
    return item.stats.max_abs == 0.0 and item.stats.count > 0
