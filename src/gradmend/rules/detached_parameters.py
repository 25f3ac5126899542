"""GRF101: trainable parameters that no path of the graph connects to the loss."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, History
from gradmend.records.trace import Trace
from gradmend.registry import Case, NoLimits, rule
from gradmend.theory.wiring import fact, owners, states


def _live(history: History, limits: NoLimits) -> Iterator[Finding]:
    del limits  # unused: None is a fact
    table = history["gradient"]
    if not len(table):
        return
    state, owner = states(history), owners(table)
    mine = fact(table, "trainable") & fact(table, "registered") & (owner >= 0)
    lost = mine & state.none & ~state.ever
    # Only the optimizer's own gradients tell: in an adversarial pair each side has its turn.
    for optimizer in np.unique(owner[lost]):
        gone = np.flatnonzero(lost & (owner == optimizer))
        alive = np.flatnonzero(mine & state.some & (owner == optimizer))
        if not len(alive):
            continue  # nothing of it trains: see stale-optimizer
        ran = _modules_that_ran(history)
        early = np.array(
            [at for at in gone if at < alive[0] and (not ran or _ran(table.columns[at], ran))],
            dtype=np.int64,
        )
        idle = np.setdiff1d(gone, early)
        if len(early):
            yield _cut_off(history, early, int(alive[0]), known=bool(ran))
        if len(idle):
            yield _idle([table.columns[at] for at in idle])


def _modules_that_ran(history: History) -> set[str]:
    """Modules whose output was measured, and those around them."""
    found: set[str] = set()
    for column in history["output"].columns:
        parts = column.module.split(".")
        found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return found


def _ran(column: Column, ran: set[str]) -> bool:
    return column.module in ran


def _cut_off(
    history: History, early: NDArray[np.int64], first_alive: int, *, known: bool
) -> Finding:
    columns = history["gradient"].columns
    last, first = columns[int(early[-1])], columns[first_alive]
    names = {columns[int(at)].name for at in early}
    seen = any(names & set(e.facts.get("unreached") or ()) for e in history.of_kind("loss-graph"))
    return Finding(
        code="GRF101",
        name="detached-parameters",
        severity=Severity.ERROR if known else Severity.WARNING,
        modules=tuple(dict.fromkeys(columns[int(at)].module for at in reversed(early))),
        source=first.source,
        summary=(
            f"{len(early)} trainable parameters get no gradient at all, the last of them"
            f" {last.name}; {first.module or first.name} behind it does: look between the two for"
            " detach(), no_grad(), .item(), or reentrant checkpointing"
        ),
        evidence=(
            Evidence(
                quantity="parameters without a gradient in front of one that has one",
                observed=float(len(early)),
                limit=0.0,
                unit="parameters",
                module=last.module,
                step=history.step,
            ),
        ),
        confidence=1.0 if seen else 0.9,
        weight=100.0,
        explains=(
            "vanishing-gradient",
            "stalled-layers",
            "collapsed-signal",
            "depth-without-skip",
            "loss-plateau",
        ),
        exculpation="requires_grad=False, or a gradient that is not None",
    )


def _idle(columns: list[Column]) -> Finding:
    return Finding(
        code="GRF101",
        name="detached-parameters",
        severity=Severity.NOTE,
        modules=tuple(dict.fromkeys(c.module for c in columns)),
        source=columns[0].source,
        summary=(
            f"{len(columns)} trainable parameter(s) never got a gradient ({columns[0].name}): fine"
            " for a head or branch that the loss does not use"
        ),
        exculpation="an unused branch",
    )


@rule(
    code="GRF101",
    fires_on=[
        Case.of("functional_mlp", depth=4, detach_at=1),
        Case.of("functional_mlp", depth=4, detach_at=3, activation="relu"),
    ],
    silent_on=[
        Case.of("functional_mlp", depth=4),
        Case.of("transformer"),
        Case.of("shared"),
        Case.of("mlp", depth=100, activation="sigmoid"),
    ],
    live=_live,
    live_fires_on=[
        Case.of("two_stages", fault="detach"),
        Case.of("two_stages", fault="no_grad"),
        Case.of("two_stages", fault="reentrant_checkpoint"),
        Case.of("quantised", operation="argmax"),
    ],
    live_silent_on=[
        Case.of("two_stages"),
        Case.of("two_stages", fault="unused_head"),
        Case.of("two_stages", fault="checkpoint"),
        Case.of("two_stages", fault="head_by_turns"),
        Case.of("optimizer_groups", fault="frozen"),
        Case.of("optimizer_groups", fault="stale"),
        Case.of("two_players"),
        Case.of("quantised", operation="round"),
    ],
)
def detached_parameters(trace: Trace, limits: NoLimits) -> Iterator[Finding]:
    """Trainable parameters whose module ran, but which the loss cannot reach.

    What it finds:
        Parameters that require a gradient and belong to a module that took part in the forward
        pass, with no path of the autograd graph from the loss to them.

    Why it matters:
        Their gradient is None, not small: no learning rate, initialisation or patience moves
        them. It looks like vanishing gradients and is something else.

    How it is measured:
        Reachability in the autograd graph of one forward pass; exact, no threshold. In a run: a
        gradient that is None whenever the parameter's own optimizer steps, in front of the first
        parameter that gets one.

    Silent when:
        The parameter is frozen on purpose (requires_grad=False), or its module did not run at
        all (an unused head), which is told as a note. In a run also: it is in no optimizer, or it
        has had a gradient before (heads that take turns).

    References:
        speechbrain/speechbrain#2759; microsoft/LoRA#120 (reentrant checkpointing).
    """
    del limits  # unused: reachability is a fact
    lost = [p for p in trace.parameters if p.trainable and not p.reached]
    ran = [p for p in lost if p.module_called and p.module]
    idle = [p for p in lost if not (p.module_called and p.module)]
    if ran:
        modules = tuple(dict.fromkeys(p.module for p in ran))
        among = set(modules)  # a tuple of 10,000 would be searched 10,000 times
        reached = next((op for op in trace.operations if op.module not in among), None)
        near = f", the first module the loss does reach is {reached.module}" if reached else ""
        yield Finding(
            code="GRF101",
            name="detached-parameters",
            severity=Severity.ERROR,
            modules=modules,
            source=None,
            summary=(
                f"the loss does not reach {len(ran)} parameters that took part, the last in"
                f" {modules[-1]}{near}: look between the two for detach(), no_grad() or .item()"
            ),
            evidence=(
                Evidence(
                    quantity="parameters without a path from the loss",
                    observed=float(len(ran)),
                    limit=0.0,
                    unit="parameters",
                ),
            ),
            weight=100.0,
            explains=("vanishing-gradient", "collapsed-signal", "depth-without-skip"),
            exculpation="requires_grad=False",
        )
    if idle:
        yield Finding(
            code="GRF101",
            name="detached-parameters",
            severity=Severity.NOTE,
            modules=tuple(dict.fromkeys(p.module for p in idle)),
            summary=(
                f"{len(idle)} trainable parameter(s) did not take part in this forward pass"
                f" ({idle[0].name}): fine for an unused head, otherwise never called"
            ),
            exculpation="an unused branch",
        )
