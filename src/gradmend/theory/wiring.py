"""What the recent rows and events of a run say about its wiring: queries that rules share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gradmend.records.history import Event, Floats, History, Table
from gradmend.theory.loss_tail import ELEMENTWISE as ELEMENTWISE
from gradmend.theory.loss_tail import REARRANGES as REARRANGES
from gradmend.theory.loss_tail import LossTail as LossTail
from gradmend.theory.loss_tail import Operation as Operation
from gradmend.theory.loss_tail import loss_tails as loss_tails
from gradmend.theory.loss_tail import modules_at as modules_at
from gradmend.theory.windows import FEWEST, RECENT

EXACT = 4
"""Rows that settle an exact fact, if all of them show it: on a busy machine the dear tiers measure
no more of a short run. Not 3, so that what is done at every second or fourth step is seen as such
in rows that lie an odd number of steps apart."""

NONE, ZERO, FINITE = 0, 1, 2
"""Codes of the gradient table's ``state``."""


def standing(history: History, kind: str) -> dict[str, Event]:
    """The newest event of a kind at each place, where it has stood.

    It has for FEWEST rows of steps; or for EXACT of them, if a later measurement of the modules
    has not told otherwise. An event that a later one at the same place took back does not stand;
    one of an evaluation in between has no steps behind it.

    Args:
        history: The run.
        kind: Such as ``module-state``.
    """
    steps, seen = history["step"].steps, history["output"].steps
    if len(steps) < EXACT:
        return {}
    long_ago = int(steps[-FEWEST]) if len(steps) >= FEWEST else -1
    newest = {event.where: event for event in history.of_kind(kind)}
    return {
        where: event
        for where, event in newest.items()
        if event.step <= long_ago
        or (event.step <= steps[-EXACT] and bool(np.any(seen > event.step)))
    }


def lasting_events(
    history: History, kind: str, holds: Callable[[Event], bool]
) -> dict[str, Event | None]:
    """The newest event of a kind at each place if it shows something that lasts, else ``None``.

    It lasts if the event stands (:func:`standing`), or the last three show it.

    Args:
        history: The run.
        kind: Such as ``input``.
        holds: Whether an event shows it.
    """
    by_place: dict[str, list[Event]] = {}
    for event in history.of_kind(kind):
        by_place.setdefault(event.where, []).append(event)
    steady = standing(history, kind)
    found: dict[str, Event | None] = {}
    for where, events in by_place.items():
        last = events[-3:]
        lasts = all(map(holds, last)) and (len(last) == 3 or where in steady)
        found[where] = last[-1] if lasts else None
    return found


def share_of_last(table: Table, quantity: str, column: int) -> float:
    """Mean of a 0-or-1 quantity over its last RECENT numbers.

    NaN where FEWEST are not known; where EXACT of them are and all say the same, that will do.
    """
    known = table.series(quantity, column)[1][-RECENT:]
    if len(known) < EXACT or (len(known) < FEWEST and bool(np.any(known != known[0]))):
        return float("nan")
    return float(known.mean())


@dataclass(frozen=True)
class States:
    """What gradients the parameters got over the last rows of the gradient table, [columns]."""

    known: NDArray[np.int64]
    """Rows in which it is known."""
    none: NDArray[np.bool_]
    """None in every known row."""
    zero: NDArray[np.bool_]
    """Exactly zero in every known row."""
    some: NDArray[np.bool_]
    """A gradient that is not zero in at least half of the known rows."""
    ever: NDArray[np.bool_]
    """A gradient at all, in any row ever."""


def states(history: History) -> States:
    """The states of the gradients over the last RECENT rows.

    Columns of which fewer than EXACT of those rows are known are nothing at all; those of which
    fewer than FEWEST are known are what all rows show, older ones too.
    """
    table = history["gradient"]
    every = table["state"]
    last = every[-RECENT:]
    known = np.count_nonzero(~np.isnan(last), axis=0)

    def shown(holds: NDArray[np.bool_], share: float = 1.0) -> NDArray[np.bool_]:
        times = np.count_nonzero(holds[-RECENT:], axis=0)
        always = np.count_nonzero(holds, axis=0) == np.count_nonzero(~np.isnan(every), axis=0)
        enough = (known >= FEWEST) | ((known >= EXACT) & always)
        found: NDArray[np.bool_] = enough & (times >= share * known)
        return found

    return States(
        known=known,
        none=shown(every == NONE),
        zero=shown(every == ZERO),
        some=shown(every >= FINITE, share=0.5),
        ever=np.count_nonzero(every >= ZERO, axis=0) > 0,
    )


def fact(table: Table, name: str) -> NDArray[np.bool_]:
    """Whether a fact of each column is true, shape [columns]."""
    return np.array([bool(c.facts.get(name)) for c in table.columns], dtype=np.bool_)


def owners(table: Table) -> NDArray[np.int64]:
    """The optimizer (column of the step table) of each parameter, -1 for none, shape [columns]."""
    found = (c.facts.get("optimizer") for c in table.columns)
    return np.array([-1 if at is None else int(at) for at in found], dtype=np.int64)


def chance_of_less(before: Floats, after: Floats) -> float:
    """Share of pairs in which a later number is smaller than an earlier one; ties count half.

    The Mann-Whitney statistic over its most: 0.5 where nothing changed, whatever the numbers'
    scale and tails. NaN where either is empty.
    """
    if not len(before) or not len(after):
        return float("nan")
    earlier, later = before[:, None], after[None, :]
    return float(np.mean(earlier > later) + np.mean(earlier == later) / 2)


FALLING = 0.62
"""Of :func:`chance_of_less`: 1.4 standard deviations above a loss that stays (0.084 for two
windows of 24), so that one in twelve flat losses is taken for a falling one, not the reverse."""


FALLING_AT_ONCE = 0.7
"""The same against the first 8 losses alone: a head on good features learns in a few steps."""


def loss_falls(history: History, column: int) -> bool | None:
    """Whether there is a sign that an optimizer's loss is lower now than in the beginning.

    A weak sign is enough: this is asked before somebody's choice is called an accident.

    Args:
        history: The run.
        column: Of the step table.

    Returns:
        ``None`` where fewer than 2 RECENT losses are known.
    """
    table = history["step"]
    if not 0 <= column < len(table.columns):
        return None
    loss = table.series("loss", column)[1]
    if len(loss) < 2 * RECENT:
        return None
    return any(
        chance_of_less(loss[:rows], loss[-RECENT:]) >= limit
        for rows, limit in ((RECENT, FALLING), (FEWEST, FALLING_AT_ONCE))
    )


def no_loss_falls(history: History) -> bool:
    """Whether losses are known for long enough, and none of them falls."""
    judged = [loss_falls(history, at) for at in range(len(history["step"].columns))]
    known = [falls for falls in judged if falls is not None]
    return bool(known) and not any(known)


def stuck_share(history: History, column: int) -> float:
    """Share of the last steps with a loss that is not zero and a gradient that is, exactly.

    A loss of zero is none to complain of: a hinge loss on separable data ends there.

    Args:
        history: The run.
        column: Of the step table.

    Returns:
        NaN where FEWEST of the last RECENT rows are not known.
    """
    table = history["step"]
    if not 0 <= column < len(table.columns):
        return float("nan")
    norms, losses = table["log10_norm"][-RECENT:, column], table["loss"][-RECENT:, column]
    known = ~np.isnan(norms) & ~np.isnan(losses)
    if np.count_nonzero(known) < FEWEST:
        return float("nan")
    return float(np.mean(np.isneginf(norms[known]) & (losses[known] != 0)))


def optimizer_column(history: History, name: str) -> int:
    """The column of an optimizer by name; the only one where the name is unknown; else -1."""
    table = history["step"]
    if name in table.names:
        return table.names.index(name)
    return 0 if len(table.columns) == 1 else -1
