"""LOS206: a loss that is cut off where its gradient is needed."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import FEWEST, RECENT
from gradmend.theory.wiring import (
    REARRANGES,
    LossTail,
    loss_falls,
    loss_tails,
    optimizer_column,
    stuck_share,
)

CLAMPS = frozenset({"clamp", "clamp_min", "clamp_max", "hardtanh", "relu", "relu6"})
LOSSES = frozenset({"mse_loss", "smooth_l1_loss", "huber_loss", "log_softmax"})


@dataclass(frozen=True)
class Limits:
    """When a loss is clamped."""

    stuck: float = limit(
        0.5,
        unit="share of steps",
        source="steps with a loss that is not zero and a gradient that is, exactly",
    )
    cut: float = limit(
        0.5,
        unit="1",
        source="recent loss over the most that the clamp lets it become: about the share of samples"
        " that lie beyond it and have no gradient",
    )


@rule(
    code="LOS206",
    limits=Limits,
    fires_on=[
        Case.of("regression", loss="clamped_error", target="far"),
        Case.of("regression", loss="clamped", target="far"),
        Case.of("regression", head="relu", target="negative"),
    ],
    silent_on=[
        Case.of("regression"),
        Case.of("regression", loss="clamped_error"),
        Case.of("regression", head="relu"),
        Case.of("regression", loss="hinge"),
        Case.of("classifier", head="safety_clamp"),
    ],
)
def clamped_loss(history: History, limits: Limits) -> Iterator[Finding]:
    """Loss that is constant where the error is large.

    What it finds:
        A clamp, hardtanh or ReLU between the last layer and the loss, in a run whose whole
        gradient is exactly zero at half of the recent steps or more, although the loss is not. A
        clamped difference (``(y - t).clamp(-1, 1)``) counts as soon as the loss does not fall, or
        stays above half of what the clamp lets it become.

    Why it matters:
        The derivative of a clamp is zero outside its limits: the larger the error, the less is
        learned. A ReLU before a regression loss that has died predicts zero for ever.

    How it is measured:
        The operations next to the loss, on its autograd graph, with the clamp's limits; the norm
        the optimizer sees; the loss.

    Silent when:
        The gradient is alive; the loss is exactly zero (a margin that is kept); the clamp is one
        branch of a minimum (proximal policy optimisation).

    References:
        devsisters/DQN-tensorflow#16, soumith's and others' answers: use Huber's loss.
    """
    for tail in loss_tails(history):
        clamp = _clamp(tail)
        if clamp is None:
            continue
        op, of_error, most = clamp
        at = optimizer_column(history, tail.where)
        stuck = stuck_share(history, at)
        dead = stuck >= limits.stuck
        falls = loss_falls(history, at)
        useless = of_error and stuck > 0 and falls is False
        losses = history["step"].series("loss", at)[1][-RECENT:] if at >= 0 else np.zeros(0)
        cut = float(np.median(losses)) / most if len(losses) >= FEWEST and most > 0.0 else 0.0
        many = of_error and limits.cut <= cut <= 1.0 + 1e-6
        if not dead and not useless and not many:
            continue
        if many and not dead and not useless:
            yield _cutting(op, cut, most, limits, history.step)
            return
        yield Finding(
            code="LOS206",
            name="clamped-loss",
            severity=Severity.ERROR if dead else Severity.WARNING,
            modules=(),
            summary=(
                f"{op} cuts off the {'error' if of_error else 'output'} next to the loss: at"
                f" {stuck:.0%} of the last steps the whole gradient is exactly zero, and the loss"
                " is not; clip the gradient instead (Huber's loss), or take it away"
            ),
            evidence=(
                Evidence(
                    quantity="share of steps with no gradient at a loss that is not zero",
                    observed=stuck,
                    limit=limits.stuck,
                    unit="share of steps",
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=("loss-plateau", "vanishing-gradient", "stalled-layers", "dead-relu"),
            exculpation="a gradient that is not exactly zero",
        )
        return


def _cutting(op: str, cut: float, most: float, limits: Limits, step: int) -> Finding:
    """Most samples lie beyond the clamp, though some have a gradient left."""
    return Finding(
        code="LOS206",
        name="clamped-loss",
        severity=Severity.WARNING,
        modules=(),
        summary=(
            f"{op} cuts off the error next to the loss, which is {cut:.0%} of the {most:.3g} that"
            " it can become: samples with a large error have no gradient; clip the gradient"
            " instead (Huber's loss)"
        ),
        evidence=(
            Evidence(quantity="loss over its most", observed=cut, limit=limits.cut, step=step),
        ),
        weight=100.0,
        explains=("loss-plateau", "vanishing-gradient", "stalled-layers", "learning-rate-too-low"),
        exculpation="errors within the clamp's limits",
    )


def _clamp(tail: LossTail) -> tuple[str, bool, float] | None:
    """The clamp between loss and model: its name, whether it cuts a difference, the most that the
    loss can then become (0 where not known).
    """  # noqa: D205
    near = set(tail.by_hand) | {
        place
        for at in range(len(tail.operations))
        if tail.operations[at].op in LOSSES
        for place in tail.reads(at)
    }
    for at in sorted(near):
        operation = tail.operations[at]
        if operation.op not in CLAMPS:
            continue
        if any(_is_choice(tail, reader, at) for reader in range(len(tail.operations))):
            continue
        below = [tail.operations[place].op for place in tail.reads(at)]
        of_error = any(op in ("sub", "rsub") for op in below)
        return operation.op, of_error, _most(tail, at)
    return None


def _most(tail: LossTail, at: int) -> float:
    """The mean of the squares or sizes of what a clamp lets through, at its limits."""
    both = tail.operations[at].limits
    if both is None or both[0] is None or both[1] is None:
        return 0.0
    size = max(abs(both[0]), abs(both[1]))
    readers = [n for n in range(len(tail.operations)) if at in tail.reads(n)]
    if tail.root is None or tail.operations[tail.root].op != "mean" or len(readers) != 1:
        return 0.0
    if tail.reads(tail.root) != (readers[0],):
        return 0.0
    op = tail.operations[readers[0]].op
    return {"pow": size**2, "mul": size**2, "square": size**2, "abs": size}.get(op, 0.0)


def _is_choice(tail: LossTail, reader: int, at: int) -> bool:
    """Whether an operation chooses between what is clamped and something else."""
    operation = tail.operations[reader]
    several = len(tail.reads(reader)) > 1 and operation.op not in REARRANGES
    return several and at in _behind(tail, reader)


def _behind(tail: LossTail, at: int) -> set[int]:
    found, queue = set(tail.reads(at)), list(tail.reads(at))
    while queue:
        for place in tail.reads(queue.pop()):
            if place not in found:
                found.add(place)
                queue.append(place)
    return found
