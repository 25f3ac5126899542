"""OPT203: parameters that get gradients and that no optimizer holds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.wiring import fact, no_loss_falls, owners, states


@dataclass(frozen=True)
class Limits:
    """When parameters are missing."""

    parameters: float = limit(
        1.0, unit="parameters", source="a fact: it is in a parameter group or it is not"
    )
    fall: float = limit(
        0.3,
        unit="1",
        source="fall of the loss over its beginning: our choice, as prompts and inputs are tuned in"
        " front of a fixed network on purpose, and do well",
    )


@rule(
    code="OPT203",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("optimizer_groups", fault="missing", labels="random")],
    silent_on=[
        Case.of("optimizer_groups"),
        Case.of("optimizer_groups", fault="head_only"),
        Case.of("optimizer_groups", fault="stale"),
        Case.of("two_players"),
        Case.of("teacher_and_student"),
    ],
)
def parameters_without_optimizer(history: History, limits: Limits) -> Iterator[Finding]:
    """Parameters that get gradients, while no optimizer holds them.

    What it finds:
        Trainable parameters of a model that is being trained, with a gradient at most of the
        recent steps, in no parameter group. A note while the loss falls, as whole networks
        are tuned by their head alone on purpose; not where they hold what torch drew them with,
        or where they all lie behind what is trained and the loss falls by less than a third.

    Why it matters:
        Their gradient is computed at every step and never used: they stay what they were.

    How it is measured:
        Membership in the parameter groups; gradients as they are when the optimizer steps. Weights
        of torch's own linear and convolutional layers begin uniform up to fan_in^-1/2, and a
        trained matrix has left that bound somewhere.

    Silent when:
        They are frozen (``requires_grad=False``); none of their model's parameters is in an
        optimizer (a fixed network that the loss is computed with); an optimizer holds dead ones in
        their place (stale-optimizer).

    References:
        fastai/fastai#2133; neuralmagic/sparseml#965.
    """
    table = history["gradient"]
    if not len(table):
        return
    state = states(history)
    owner, trainable, registered = (
        owners(table),
        fact(table, "trainable"),
        fact(table, "registered"),
    )
    missing = (owner < 0) & trainable & registered & state.some
    held = (owner >= 0) & trainable
    if not missing.any() or ((owner >= 0) & state.none & ~registered).any():
        return
    roots = np.array([c.name.partition(".")[0] for c in table.columns])
    several = len(history.run.models) > 1
    if several:
        missing &= np.isin(roots, roots[held])
    count = int(missing.sum())
    if not held.any() or count < limits.parameters:
        return
    columns = [c for c, is_one in zip(table.columns, missing, strict=True) if is_one]
    flat = no_loss_falls(history) or windows.learned(history) is False
    # A head on fixed features lies behind them; what is left out behind all that is trained
    # cannot be meant, unless it does well.
    last = np.flatnonzero(held & registered)
    behind = bool(len(last)) and bool(np.flatnonzero(missing)[0] > last[-1])
    flat = flat or (behind and _fall(history) < limits.fall)
    # A network that has learned nothing yet is no backbone, however well its head does.
    untrained = _as_drawn(columns)
    yield Finding(
        code="OPT203",
        name="parameters-without-optimizer",
        severity=Severity.WARNING if flat or untrained else Severity.NOTE,
        modules=tuple(dict.fromkeys(c.module for c in columns)),
        source=columns[0].source,
        summary=(
            f"{count} parameters get gradients and are in no optimizer, from {columns[0].name} on"
            f" ({int(held.sum())} are in one)"
            + (", and are still as torch drew them" if untrained else "")
            + ": hand them to it, or freeze them"
        ),
        evidence=(
            Evidence(
                quantity="parameters with a gradient and no optimizer",
                observed=float(count),
                limit=limits.parameters,
                unit="parameters",
                module=columns[0].module,
                step=history.step,
            ),
        ),
        weight=100.0 if flat or untrained else 0.0,
        explains=("loss-plateau", "stalled-layers") if flat else (),
        exculpation="every trainable parameter in a group, or frozen",
    )


def _as_drawn(columns: Sequence[Column]) -> bool:
    """Whether all matrices that are large enough to tell hold what torch's layers begin with."""
    told = [c.facts.get("as_drawn") for c in columns if len(c.shape) > 1]
    known = [drawn for drawn in told if drawn is not None]
    return bool(known) and all(known)


def _fall(history: History) -> float:
    """The largest fall of a loss over its beginning; 0 where none is known."""
    courses = windows.loss_course(history)
    return max(((c.first - c.last) / c.level for c in courses), default=0.0)
