"""OPT205: most of the early layers frozen, and a loss that does not fall."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import History
from gradmend.registry import Case, limit, rule
from gradmend.theory import windows
from gradmend.theory.wiring import fact, owners


@dataclass(frozen=True)
class Limits:
    """When freezing looks like an accident."""

    share: float = limit(
        0.5,
        unit="share of weight matrices",
        source="half of the model's weight matrices, so that one frozen table of embeddings or "
        "positions is no accident",
    )


@rule(
    code="OPT205",
    rehearsed=False,
    limits=Limits,
    fires_on=[Case.of("optimizer_groups", fault="frozen", labels="random")],
    silent_on=[
        Case.of("optimizer_groups"),
        Case.of("optimizer_groups", fault="frozen"),
        Case.of("optimizer_groups", fault="thawing"),
        Case.of("teacher_and_student"),
    ],
)
def frozen_parameters(history: History, limits: Limits) -> Iterator[Finding]:
    """Parameters that need no gradient, in a run that does not learn without them.

    What it finds:
        Models half of whose weight matrices or more have ``requires_grad=False`` and lie in front
        of the first trainable one, while no loss falls by a twentieth.

    Why it matters:
        The layers that are left cannot do it alone: a head on features that were never trained.

    How it is measured:
        ``requires_grad`` and parameter groups now; the loss now against its beginning.

    Silent when:
        The loss falls: then it is tuning on purpose. Trainable layers lie in front (adapters).
        The frozen ones have the trainable ones' shapes one for one: a copy that follows them
        (target network, averaged weights).

    References:
        PyTorch's transfer learning tutorial freezes the same way, on purpose.
    """
    table = history["gradient"]
    if not len(table) or windows.learned(history) is not False:
        return
    owner, trainable = owners(table), fact(table, "trainable")
    matrix = np.array([len(c.shape) > 1 for c in table.columns], dtype=np.bool_)
    # Filtered out before the optimizer was built: of the models that it trains.
    several = len(history.run.models) > 1
    roots = np.array([c.name.partition(".")[0] if several else "" for c in table.columns])
    loose = (owner < 0) & ~trainable & fact(table, "registered")
    for optimizer, column in enumerate(history["step"].columns):
        held = owner == optimizer
        mine = np.flatnonzero((held | (loose & np.isin(roots, roots[held]))) & matrix)
        free = mine[trainable[mine]]
        frozen = mine[~trainable[mine]]
        early = frozen[frozen < free[0]] if len(free) else frozen
        share = len(early) / len(mine) if len(mine) else 0.0
        if not share >= limits.share:
            continue
        shapes = Counter(table.columns[at].shape for at in free)
        if Counter(table.columns[at].shape for at in frozen) <= shapes:
            continue
        columns = [table.columns[at] for at in early]
        yield Finding(
            code="OPT205",
            name="frozen-parameters",
            severity=Severity.WARNING,
            modules=tuple(dict.fromkeys(c.module for c in columns)),
            source=columns[0].source,
            summary=(
                f"{len(early)} of the {len(mine)} weight matrices under {column.name} are frozen,"
                f" {columns[0].name} first, and the loss does not fall: set requires_grad if they"
                " are to learn"
            ),
            evidence=(
                Evidence(
                    quantity="share of weight matrices that are frozen",
                    observed=share,
                    limit=limits.share,
                    unit="share of weight matrices",
                    module=columns[0].module,
                    step=history.step,
                ),
            ),
            weight=100.0,
            explains=("loss-plateau",),
            exculpation="a loss that falls",
        )
