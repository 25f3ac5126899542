"""GRF221: layers that stand still while later ones of the same parameter group move."""

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
    """When layers stand still."""

    decades: float = limit(
        3.0,
        unit="decades",
        source="of update over weight between the first layers and the later ones; within one "
        "decade in our healthy trainings",
    )
    still: float = limit(
        -6.0,
        unit="decades",
        source="log10 of update over weight: 1e-3 is usual (CS231n, makemore), and a million steps "
        "of 1e-6 move a weight by its own size",
    )
    moving: float = limit(
        -5.0,
        unit="decades",
        source="log10 of update over weight from which later layers count as moving",
    )


@rule(
    code="GRF221",
    limits=Limits,
    fires_on=[Case.of("sigmoid_stack", depth=12)],
    silent_on=[
        Case.of("sigmoid_stack", depth=3),
        Case.of("rare_embedding"),
        Case.of("frozen_backbone"),
        Case.of("step_size", rate=1e-9),
        Case.of("low_rank_adapter"),
    ],
)
def stalled_layers(history: History, limits: Limits) -> Iterator[Finding]:
    """First layers whose weights stay what they were while the later ones learn.

    What it finds:
        Trainable weight matrices near the input whose update is at most 1e-6 of the weights, or
        that are bitwise the same after the step, and three decades below the later ones'. A
        symptom of a gradient that vanishes, or of a format too coarse for the update.

    Why it matters:
        The later layers learn on random features; the network is as shallow as what moves.

    How it is measured:
        Update over weight of each matrix over the recent window, a high rank of all the first
        ones against a low rank of the largest later one, within a parameter group.

    Silent when:
        The layers have a group, and so a rate, of their own; are frozen; have no gradient at all,
        which is another finding; all layers stand still.

    References:
        Karpathy, makemore part 3 and CS231n (update over weight, 1e-3); Glorot and Bengio 2010.
    """
    table = history["update"]
    if not len(table):
        return
    upper = windows.lasting(table, "log10_ratio", 0.75)
    lower = windows.lasting(table, "log10_ratio", 0.25)
    upper = np.where(np.isneginf(upper), -99.0, upper)  # bitwise the same: a size to compare
    upper = np.where(_has_gradient(history, len(upper)), upper, np.nan)
    for at in windows.by_group(table.columns, windows.matrices(table.columns)).values():
        still = np.where(upper[at] <= limits.still, upper[at], np.maximum(upper[at], limits.moving))
        count, _ = windows.lost_prefix(still, lower[at], limits.decades)
        stalled = [int(i) for i in at[:count] if upper[i] <= limits.still]
        fastest = np.nanmax(lower[at], initial=-np.inf) if len(at) else -np.inf
        if not stalled or fastest < limits.moving:
            continue
        first, largest = table.columns[stalled[0]], float(np.max(upper[stalled]))
        size = "nothing at all" if largest < -90.0 else f"{windows.times(largest):.1e} of its size"
        yield Finding(
            code="GRF221",
            name="stalled-layers",
            severity=Severity.ERROR if 2 * len(stalled) >= len(at) else Severity.WARNING,
            modules=tuple(dict.fromkeys(table.columns[i].module for i in stalled)),
            source=first.source,
            summary=(
                f"a step changes {first.name} by {size}, and later layers by"
                f" {windows.times(fastest):.1e} of theirs: {len(stalled)} of {len(at)} weight"
                " matrices stand still"
            ),
            evidence=(
                Evidence(
                    quantity="log10 update over weight",
                    observed=max(largest, -99.0),
                    limit=limits.still,
                    unit="decades",
                    module=first.module,
                    step=history.step,
                ),
            ),
            weight=min(float(fastest) - largest, 12.0),
            explains=("loss-plateau",),
            exculpation=f"updates above {10.0**limits.still:g} of the weights",
            symptom=True,
        )


def _has_gradient(history: History, columns: int) -> windows.Bools:
    """None and exact zeros are other findings; columns of both tables are the parameters."""
    state = windows.lasting(history["gradient"], "state")
    if len(state) != columns:
        return np.ones(columns, dtype=bool)
    known: windows.Bools = np.isnan(state) | (state == 2)
    return known
