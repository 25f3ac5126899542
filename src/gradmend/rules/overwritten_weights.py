"""OPT206: weights that something else sets between the steps."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, History, Table
from gradmend.registry import Case, limit, rule
from gradmend.theory.windows import FEWEST, RECENT, times
from gradmend.theory.wiring import EXACT, loss_falls, owners


@dataclass(frozen=True)
class Limits:
    """When weights are overwritten."""

    changed: float = limit(
        0.9,
        unit="share of weights",
        source="nearly all of a tensor; pruning masks and clamped critics change a part",
    )
    rows: float = limit(
        0.9, unit="share of rows", source="at every step but for one in ten that was not compared"
    )
    growth: float = limit(
        0.05,
        unit="decades",
        source="net change of the weights' rms over the window, 12 %: what is set anew stays",
    )
    redrawn: float = limit(
        -0.5,
        unit="decades",
        source="log10 of the outside change over the weights, a third: a projection moves a weight "
        "by as much as the step did, a thousandth; numbers drawn anew by 1.4 times their size",
    )
    seen: float = limit(3.0, unit="rows", source="in which weights are drawn anew, every time")


@rule(
    code="OPT206",
    limits=Limits,
    fires_on=[
        Case.of("miswired_loop", fault="reset"),
        Case.of("miswired_loop", fault="redrawn"),
    ],
    silent_on=[
        Case.of("miswired_loop"),
        Case.of("miswired_loop", fault="clamped_weights"),
        Case.of("miswired_loop", fault="unit_norm"),
        Case.of("miswired_loop", fault="averaged"),
        Case.of("teacher_and_student"),
    ],
)
def overwritten_weights(history: History, limits: Limits) -> Iterator[Finding]:
    """Weights that are reset or drawn anew between one step and the next.

    What it finds:
        Parameters of an optimizer nearly all of whose entries are changed by something else
        between its steps, every time, while the weights go nowhere and the loss does not fall; or
        by a good part of their own size, whatever the loss does: they are drawn anew.

    Why it matters:
        What a step learns is undone before the next one begins.

    How it is measured:
        A sample of entries after each step against the same entries before the next, bitwise; the
        net change of log10 rms(weights) over the recent rows; the change over the weights.

    Silent when:
        The loss falls: weights are projected, normalised or averaged on purpose. Only a part of
        the entries changes (clamping, pruning).

    References:
        Weights initialised in ``forward`` or loaded inside the loop: user-reported look-alike of
        vanishing gradients.
    """
    table = history["update"]
    anew = _redrawn(table, limits)
    for optimizer, column in enumerate(history["step"].columns):
        at = np.flatnonzero(anew & (owners(table) == optimizer))
        if len(at):
            columns = [table.columns[i] for i in at]
            yield _anew(column, columns, table, at, limits, history.step)
            return
    if len(table) < EXACT or history.run.rehearsal:
        return
    outside = table["outside_share"][-RECENT:]
    known = np.count_nonzero(~np.isnan(outside), axis=0)
    changed = np.count_nonzero(outside >= limits.changed, axis=0)
    # It is an exact fact: few rows will do if all of them show it.
    needed = np.where(known < FEWEST, known, limits.rows * known)
    guilty = (known >= EXACT) & (changed >= needed)
    weight = table["log10_weight"][-RECENT:]
    half = len(weight) // 2
    growth = np.abs(_mean(weight[half:]) - _mean(weight[:half]))
    guilty &= ~(growth > limits.growth)
    owner = owners(table)
    for optimizer, column in enumerate(history["step"].columns):
        mine = np.flatnonzero(guilty & (owner == optimizer))
        if not len(mine) or loss_falls(history, optimizer) is not False:
            continue
        columns = [table.columns[at] for at in mine]
        share = float(np.nanmean(outside[:, mine]))
        yield Finding(
            code="OPT206",
            name="overwritten-weights",
            severity=Severity.ERROR,
            modules=tuple(dict.fromkeys(c.module for c in columns)),
            source=columns[0].source,
            summary=(
                f"between the steps of {column.name} something else changes {share:.0%} of the"
                f" weights of {len(columns)} parameters, {columns[0].name} first, and undoes them:"
                " look for initialisation in forward, or load_state_dict in the loop"
            ),
            evidence=(
                Evidence(
                    quantity="share of weights changed outside the optimizer",
                    observed=share,
                    limit=limits.changed,
                    unit="share of weights",
                    module=columns[0].module,
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=("loss-plateau", "stalled-layers", "oscillating-loss"),
            exculpation="weights that only the optimizer changes, or a loss that falls",
        )


def _redrawn(table: Table, limits: Limits) -> NDArray[np.bool_]:
    """Which parameters are far from where the step before left them, in nearly every row."""
    size, share = table["log10_outside"][-RECENT:], table["outside_share"][-RECENT:]
    known = np.count_nonzero(~np.isnan(size), axis=0)
    far = np.count_nonzero((size >= limits.redrawn) & (share >= limits.changed), axis=0)
    found: NDArray[np.bool_] = (known >= limits.seen) & (far >= limits.rows * known)
    return found


def _anew(
    optimizer: Column,
    columns: list[Column],
    table: Table,
    at: NDArray[np.int64],
    limits: Limits,
    step: int,
) -> Finding:
    far = times(float(np.nanmedian(table["log10_outside"][-RECENT:][:, at])))
    return Finding(
        code="OPT206",
        name="overwritten-weights",
        severity=Severity.ERROR,
        modules=tuple(dict.fromkeys(c.module for c in columns)),
        source=columns[0].source,
        summary=(
            f"between the steps of {optimizer.name} something else changes {len(columns)}"
            f" parameters, {columns[0].name} first, by {far:.0%} of their size: they are drawn"
            " anew, and what a step learns is lost; look for initialisation in forward"
        ),
        evidence=(
            Evidence(
                quantity="log10 outside change over weight",
                observed=float(np.log10(far)),
                limit=limits.redrawn,
                unit="decades",
                module=columns[0].module,
                step=step,
            ),
        ),
        weight=1000.0,
        explains=("loss-plateau", "stalled-layers", "oscillating-loss", "learning-rate-too-high"),
        exculpation="weights that only the optimizer changes",
    )


def _mean(values: np.ndarray) -> np.ndarray:
    known = np.isfinite(values)
    count = np.count_nonzero(known, axis=0)
    total = np.where(known, values, 0.0).sum(axis=0)
    return np.where(count > 0, total / np.maximum(count, 1), np.nan)
