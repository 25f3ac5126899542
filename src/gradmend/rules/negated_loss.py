"""LOS208: a loss with the wrong sign."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import FEWEST, RECENT, plain
from gradmend.theory.wiring import REARRANGES, LossTail, loss_falls, loss_tails, optimizer_column

NEVER_NEGATIVE = frozenset(
    {"mse_loss", "smooth_l1_loss", "huber_loss", "pow", "abs", "square"}
    | {"binary_cross_entropy", "binary_cross_entropy_with_logits"}
)
SCALES = frozenset({"neg", "mul", "div", "mean", "sum", "rsub"})
PICKS = frozenset({"gather", "index", "select", "squeeze", "mean", "sum", "mul", "div", "take"})


@dataclass(frozen=True)
class Limits:
    """When a loss has the wrong sign."""

    loss: float = limit(
        0.0,
        unit="1",
        source="cross entropies and squared errors are never below zero: exact",
    )
    flight: float = limit(
        10.0,
        unit="1",
        source="size of a negative sum of several terms over its first one: what other terms would"
        " bound has not fled by a decade",
    )


@rule(
    code="LOS208",
    limits=Limits,
    fires_on=[
        Case.of("classifier", head="negated"),
        Case.of("classifier", head="log_likelihood"),
        Case.of("regression", loss="negated"),
    ],
    silent_on=[
        Case.of("classifier"),
        Case.of("classifier", head="by_hand"),
        Case.of("classifier", head="maximised"),
        Case.of("regression", loss="gaussian"),
        Case.of("two_players"),
    ],
)
def negated_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that is minimised below the bound that its right sign would keep.

    What it finds:
        A cross entropy or squared error that only passes through signs and scales on its way to
        backward and arrives negative; or a mean of log-probabilities without its minus; or one that
        enters a sum of terms with a minus, where the sum was negative from the first step on and
        has fallen tenfold or to infinity.

    Why it matters:
        The optimizer makes the error as large as it can. The loss falls without end, gradients
        grow, and it looks like an explosion.

    How it is measured:
        The operations next to the loss, on its autograd graph, and the loss's own value; exact.

    Silent when:
        The optimizer maximises; several optimizers play against each other; other terms that are
        added keep it bounded; the log-probabilities are weighted (policy gradients).

    References:
        torch.optim's argument ``maximize``.
    """
    table = history["step"]
    if len(table.columns) != 1:
        return
    for tail in loss_tails(history):
        at = optimizer_column(history, tail.where)
        if at < 0 or table.columns[at].facts.get("maximize"):
            continue
        every = table.series("loss", at)[1]
        loss = every[np.isfinite(every)][-RECENT:]  # it ends in infinity
        if len(every) < FEWEST or not len(loss) or not bool(np.all(loss < limits.loss)):
            continue
        what = _should_be_positive(tail)
        if what is None:
            fled = loss[-1] <= -limits.flight * abs(float(every[0])) or any(
                True for _ in history.of_kind("non-finite")
            )
            what = _negative_term(tail) if fled and every[0] < limits.loss else None
        if what is None:
            continue
        falling = loss_falls(history, at) is not False
        yield Finding(
            code="LOS208",
            name="negated-loss",
            severity=Severity.ERROR if falling else Severity.WARNING,
            modules=(),
            summary=(
                f"{what} reaches backward with the wrong sign: the loss is {plain(float(loss[-1]))}"
                f" now, {plain(float(table.first('loss')[at]))} at first; turn its sign"
            ),
            evidence=(
                Evidence(
                    quantity="loss",
                    observed=float(loss[-1]),
                    limit=limits.loss,
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "exploding-gradient",
                "diverging-loss",
                "oscillating-loss",
                "non-finite-value",
                "loss-spike",
                "learning-rate-too-high",
                "update-norm-spike",
                "dead-relu",
                "saturated-activation",
                "saturated-attention",
                "init-gain-too-large",
                "vanishing-gradient",
            ),
            exculpation="a loss that is not negative, or an optimizer with maximize=True",
        )
        return


def _should_be_positive(tail: LossTail) -> str | None:
    """What the loss is made of, if nothing but a sign can have made it negative."""
    if tail.root is None:
        return None
    at = tail.down_to(tail.root, SCALES)
    operation = tail.operations[at]
    behind = [tail.operations[place].op for place in tail.reads(at)]
    if operation.op.startswith("nll_loss"):
        return "a cross entropy" if "log_softmax" in behind else None
    if operation.op in NEVER_NEGATIVE:
        return operation.op.replace("_", " ")
    way, end = _way(tail, tail.root)
    if end == "log_softmax" and "neg" not in way and not {"mul", "rsub"} & set(way):
        return "a mean of log-probabilities"
    return None


def _negative_term(tail: LossTail) -> str | None:
    """An error that enters a sum of terms with a minus; differences tell no sign."""
    todo, seen = [(tail.root or 0, False)], set()
    while todo:
        at, minus = todo.pop()
        if at in seen:
            continue
        seen.add(at)
        op = tail.operations[at].op
        if minus and op in NEVER_NEGATIVE:
            return f"{op.replace('_', ' ')}, one of the terms,"
        if op in ("add", "mean", "sum", "mul", "div", "neg") or op in REARRANGES:
            todo.extend((place, minus ^ (op == "neg")) for place in tail.operations[at].reads)
    return None


def _way(tail: LossTail, start: int) -> tuple[list[str], str]:
    """Operations from the loss down single reads to the first that is no picking or scaling."""
    way, at, seen = [], start, {start}
    while tail.operations[at].op in PICKS | {"neg", "rsub"}:
        way.append(tail.operations[at].op)
        behind = tail.reads(at)
        if len(behind) != 1 or behind[0] in seen:
            break
        at = behind[0]
        seen.add(at)
    return way, tail.operations[at].op
