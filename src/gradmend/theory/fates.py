"""What became of each parameter's gradient on its way from backward to the weights.

No gradient, an exactly zero one, underflow, clipping, a step that was never made and a vanished
gradient look alike in a loss curve; their remedies have nothing in common.
"""

from __future__ import annotations

from collections import Counter
from enum import StrEnum

import numpy as np

from gradmend.records.history import Column, Floats, History, Table
from gradmend.theory import windows
from gradmend.theory.formats import UnknownNumberFormat, number_format

NONE, ZERO, FINITE, SICK = 0, 1, 2, 3
"""Codes of the quantity ``state`` of the table ``gradient``."""
CLIPPED_DECADES = 1.0
"""Decades that clipping takes before it counts as a gradient's fate (our choice): factors of a
half are everyday clipping."""
VANISHED_DECADES = 3.0
"""Decades below the model's largest gradient from which a small update is a vanished one; healthy
trainings of ours stay within two."""
STILL = -6.0
"""log10 of update over weight below which a weight stands still; 1e-3 is usual (CS231n)."""
MOSTLY = 0.5
"""Share of the entries, or of the rows, that speaks for a parameter."""
_NONE_AT_ALL = -99.0


class Fate(StrEnum):
    """What became of a gradient."""

    APPLIED = "applied"
    """It changed the weights."""
    NONE = "none"
    """``.grad`` is None: backward never reaches the parameter."""
    ZERO = "exactly zero"
    """Backward reaches it, and every entry is zero."""
    UNDERFLOW = "underflow"
    """The number format loses it: below its smallest normal number, or its update below half a
    unit in the last place of the weights."""
    CLIPPED = "clipped"
    """Clipping took at least nine tenths of it."""
    NEVER_APPLIED = "never applied"
    """There is a gradient, and no step takes it in: no optimizer holds the parameter, the rate is
    zero, or every step is skipped."""
    VANISHED = "vanished"
    """Far below the gradients of the model's other parameters, and so is its update."""
    NON_FINITE = "not finite"
    """It holds NaN or infinity."""
    FROZEN = "frozen"
    """The parameter does not ask for a gradient."""
    UNKNOWN = "not measured"


def fates(history: History) -> tuple[Fate, ...]:
    """What became of the gradient of each column of the table ``gradient``, as lately measured.

    Args:
        history: The run; the last :data:`gradmend.theory.windows.RECENT` measured rows count.

    Returns:
        One answer per column, in the table's order.
    """
    gradient, updates = history["gradient"], history["update"]
    columns = gradient.columns
    state = windows.recent(gradient, "state")
    rms = _typical(gradient, "log10_rms")
    largest = np.nanmax(np.where(np.isfinite(rms), rms, np.nan), initial=-np.inf)
    zeros = _typical(gradient, "zero_share")
    small = _typical(gradient, "underflow_share")
    least = _typical(gradient, "log10_min")
    clipped = _clip_decades(history)
    order = {name: at for at, name in enumerate(updates.names)}
    ratio, unchanged, lost = (
        _typical(updates, name) for name in ("log10_ratio", "unchanged_share", "lost_share")
    )
    found: list[Fate] = []
    for at, column in enumerate(columns):
        here = order.get(column.name)
        said = _before_the_step(state[:, at] if state.size else np.zeros(0), column)
        if said is Fate.ZERO and small[at] >= MOSTLY:
            said = Fate.UNDERFLOW  # in other rows it still holds numbers, and those are subnormal
        if said is not None:
            found.append(said)
            continue
        if small[at] >= MOSTLY or _rounded_to_zero(column.dtype, zeros[at], least[at]):
            found.append(Fate.UNDERFLOW)
            continue
        optimizer = column.facts.get("optimizer")
        if optimizer is None or not _stepping(history, optimizer):
            found.append(Fate.NEVER_APPLIED)
            continue
        if here is None or np.isnan(unchanged[here]):
            found.append(Fate.UNKNOWN)
            continue
        stands = unchanged[here] >= 1.0 or ratio[here] <= STILL
        if stands and rms[at] <= largest - VANISHED_DECADES:
            found.append(Fate.VANISHED)
        elif clipped[at] >= CLIPPED_DECADES:
            found.append(Fate.CLIPPED)
        elif unchanged[here] >= 1.0:
            rounded = lost[here] >= MOSTLY
            found.append(Fate.UNDERFLOW if rounded else Fate.NEVER_APPLIED)
        else:
            found.append(Fate.APPLIED)
    return tuple(found)


def counted(fates: tuple[Fate, ...]) -> dict[Fate, int]:
    """How many parameters met each fate, in the order of :class:`Fate`; only those there are."""
    counts = Counter(fates)
    return {fate: counts[fate] for fate in Fate if counts[fate]}


def _before_the_step(state: Floats, column: Column) -> Fate | None:
    """The fates that backward alone decides; ``None`` where there is a finite gradient."""
    known = state[~np.isnan(state)].astype(int)
    if not column.facts.get("trainable", True):
        return Fate.FROZEN
    if not len(known):
        return Fate.UNKNOWN
    if known[-1] == SICK:
        return Fate.NON_FINITE
    for code, fate in ((NONE, Fate.NONE), (ZERO, Fate.ZERO)):
        if np.mean(known == code) > MOSTLY:
            return fate
    return None


def _typical(table: Table, quantity: str) -> Floats:
    """Lower median of each column over the recent rows; -99 stands for log10 of zero."""
    values = windows.recent(table, quantity)
    values = np.where(np.isneginf(values), _NONE_AT_ALL, values)
    return windows.rank(values, 0.5)


def _clip_decades(history: History) -> Floats:
    """Decades that clipping takes of each parameter's gradient; 0 where it does nothing."""
    gradient = history["gradient"]
    raw, got = windows.recent(gradient, "log10_raw"), gradient["log10_rms"]
    taken = np.full(len(gradient.columns), np.nan)
    if raw.size:
        rows = ~np.isnan(gradient["log10_raw"]).all(axis=1)
        with np.errstate(invalid="ignore"):  # zero before and after
            taken = windows.rank(raw - got[rows][-len(raw) :], 0.5)
    whole = -np.log10(np.maximum(_typical(history["step"], "clip_factor"), 1e-99))
    asked = ~np.isnan(_typical(history["step"], "clip_limit"))
    for at, column in enumerate(gradient.columns):
        optimizer = column.facts.get("optimizer")
        if not isinstance(optimizer, int) or not 0 <= optimizer < len(asked):
            taken[at] = 0.0
        elif not asked[optimizer]:
            taken[at] = 0.0  # what else changed the gradient is no clipping
        elif np.isnan(taken[at]):
            taken[at] = whole[optimizer]
    return np.where(np.isnan(taken), 0.0, taken)


def _stepping(history: History, optimizer: object) -> bool:
    """Whether an optimizer's steps can take a gradient in: not all skipped, rate not zero."""
    steps = history["step"]
    if not isinstance(optimizer, int) or not 0 <= optimizer < len(steps.columns):
        return False
    skipped = windows.recent(steps, "skipped")[:, optimizer]
    skipped = skipped[~np.isnan(skipped)]
    rate = windows.recent(steps, "learning_rate")[:, optimizer]
    rate = rate[~np.isnan(rate)]
    return not (len(skipped) and skipped.min() >= 1.0) and not (len(rate) and not rate.any())


def _rounded_to_zero(dtype: str, zeros: float, least: float) -> bool:
    """Mostly zeros, and the smallest others at the format's very end: the rest fell off it."""
    if not dtype or not zeros >= MOSTLY or np.isnan(least):
        return False
    try:
        form = number_format(dtype)
    except UnknownNumberFormat:
        return False
    return bool(least <= np.log10(form.min_subnormal) + 1.0)
