"""OPT204: an optimizer whose parameters belong to no model any more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory.wiring import fact, no_loss_falls, owners, states


@dataclass(frozen=True)
class Limits:
    """When an optimizer is stale."""

    parameters: float = limit(
        1.0, unit="parameters", source="a fact: a model holds the parameter or none does"
    )


@rule(
    code="OPT204",
    rehearsed=False,
    limits=Limits,
    fires_on=[
        Case.of("optimizer_groups", fault="stale"),
        Case.of("optimizer_groups", fault="stale_head", labels="random"),
    ],
    silent_on=[
        Case.of("optimizer_groups"),
        Case.of("optimizer_groups", fault="missing"),
        Case.of("optimizer_groups", fault="head_only"),
        Case.of("two_players"),
    ],
)
def stale_optimizer(history: History, limits: Limits) -> Iterator[Finding]:
    """Optimizer that holds parameters of a model that was replaced.

    What it finds:
        An optimizer with parameters that never get a gradient and that no watched model holds (or
        none of whose parameters gets one), while trainable parameters of the model get gradients
        and are in no optimizer. It was built before the model, or a layer, was made anew.

    Why it matters:
        It steps on memory that nobody reads: the model stays what it was.

    How it is measured:
        Identity of parameters; gradients as they are when the optimizer steps.

    Silent when:
        Nothing that trains is without an optimizer; the optimizer's own parameters get gradients.

    References:
        fastai/fastai#2133.
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
    orphans = (owner < 0) & trainable & registered & state.some
    if not orphans.any():
        return
    for optimizer, column in enumerate(history["step"].columns):
        mine = owner == optimizer
        # One that no model holds may have been trained before its layer was replaced.
        gone = mine & state.none & (~registered | ~state.ever)
        whole = bool(mine.any()) and bool((gone == mine).all())
        if not whole:
            gone &= ~registered
        count = int(gone.sum())
        if count < limits.parameters:
            continue
        first = table.columns[int(np.flatnonzero(orphans)[0])]
        yield Finding(
            code="OPT204",
            name="stale-optimizer",
            severity=Severity.ERROR if whole or no_loss_falls(history) else Severity.WARNING,
            modules=tuple(
                dict.fromkeys(
                    c.module for c, lost in zip(table.columns, orphans, strict=True) if lost
                )
            ),
            source=first.source,
            summary=(
                f"{count} of the {int(mine.sum())} parameters of {column.name} belong to no model"
                f" that runs, and {int(orphans.sum())} that get gradients, {first.name} first, are"
                " in no optimizer: build it after the model is complete"
            ),
            evidence=(
                Evidence(
                    quantity="parameters of the optimizer that nothing uses",
                    observed=float(count),
                    limit=limits.parameters,
                    unit="parameters",
                    module=first.module,
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=(
                "loss-plateau",
                "stalled-layers",
                "vanishing-gradient",
                "learning-rate-too-low",
                "updates-lost-to-rounding",
                "parameters-without-optimizer",
                "frozen-parameters",
                "detached-parameters",
            ),
            exculpation="an optimizer built from the parameters of the model that runs",
        )
