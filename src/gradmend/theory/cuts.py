"""Parameters that took part and that no gradient reaches: what cut them off, and where."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Column, Event, History
from gradmend.records.trace import Parameter, Trace, Use
from gradmend.theory.wiring import fact, owners, states

COPIES = ("teacher", "target", "ema", "momentum", "average", "frozen", "reference", "shadow")
"""Parts of a name by which people call a copy that follows another module."""
EXPLAINS = (
    "vanishing-gradient", "stalled-layers", "collapsed-signal", "depth-without-skip",
    "loss-plateau", "detached-parameters",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """Parameters that one cause cut off."""

    names: tuple[str, ...]
    modules: tuple[str, ...]
    """The one next to the cut first, then backwards."""
    reason: str = ""
    """``no_grad``, ``inference_mode``, ``reentrant_checkpoint``; empty for a tensor cut off."""
    behind: str = ""
    """The first module that the gradient does reach."""
    operation: str = ""
    """What cut it, where it was seen: ``detach``, ``argmax``."""
    source: str | None = None
    step: int = 0
    sure: bool = True
    copies: bool = False
    """Whether their names are those of a copy that follows another module."""


def of_trace(trace: Trace) -> list[Lost]:
    """What a look lost, by reason."""
    lost = [
        p
        for p in trace.parameters
        if p.trainable and not p.reached and p.module_called and p.use in (None, Use.CUT_OFF)
    ]
    cut = {name for each in trace.cuts for name in each.lost}
    parted: dict[str, list[Parameter]] = {}
    off = ""
    for p in reversed(lost):  # what lies in front of a part that records nothing is lost with it
        off = p.unrecorded or off
        parted.setdefault("" if p.name in cut else off, []).insert(0, p)
    return [_lost_in_look(trace, mine, reason) for reason, mine in parted.items()]


def _lost_in_look(trace: Trace, mine: list[Parameter], reason: str) -> Lost:
    names = {p.name for p in mine}
    cuts = [cut for cut in trace.cuts if names & set(cut.lost)] if not reason else []
    cut = (
        max(enumerate(cuts), key=lambda pair: (len(names & set(pair[1].lost)), pair[0]))[1]
        if (cuts)
        else None
    )
    modules = [p.module for p in reversed(mine)]
    if cut is not None and cut.before in modules:
        modules.insert(0, cut.before)
    among = set(modules)
    behind = next((op.module for op in trace.operations if op.module not in among), "")
    return Lost(
        names=tuple(p.name for p in mine),
        modules=tuple(dict.fromkeys(m for m in modules if m)),
        reason=reason,
        behind=behind,
        operation=cut.operation if cut else "",
        source=cut.source if cut else None,
        copies=_are_copies([p.name for p in mine], [p.name for p in trace.parameters if p.reached]),
    )


def _are_copies(lost: list[str], reached: list[str]) -> bool:
    """``teacher.0.weight`` beside ``student.0.weight``: a copy that is not meant to be trained."""
    tails = {name.partition(".")[2] for name in reached}
    return all(
        any(word in name.partition(".")[0].lower() for word in COPIES)
        and name.partition(".")[2] in tails
        for name in lost
    )


def of_run(history: History) -> tuple[list[Lost], list[Column]]:
    """What a run lost, by optimizer and reason; and columns that never took part."""
    table = history["gradient"]
    if not len(table):
        return [], []
    state, owner = states(history), owners(table)
    mine = fact(table, "trainable") & fact(table, "registered") & (owner >= 0)
    gone = mine & state.none & ~state.ever
    ran = _modules_that_ran(history)
    why = {event.where: str(event.facts.get("why", "")) for event in history.of_kind("unrecorded")}
    cuts = list(history.of_kind("cut"))
    unused = {name for look in history.of_kind("look") for name in look.facts.get("unused", ())}
    known = {name for cut in cuts for name in cut.facts.get("lost", ())} - unused
    found: list[Lost] = []
    idle: list[Column] = []
    # Only the optimizer's own gradients tell: in an adversarial pair each side has its turn.
    for optimizer in np.unique(owner[gone]):
        lost = np.flatnonzero(gone & (owner == optimizer))
        alive = np.flatnonzero(mine & state.some & (owner == optimizer))
        if not len(alive):
            continue  # nothing of it trains: see stale-optimizer
        parted: dict[str, list[Column]] = {}
        off = ""
        for at in reversed(lost):
            column = table.columns[int(at)]
            off = _reason(column.module, why) or off
            reason = "" if column.name in known else off
            seen = bool(_reason(column.module, why)) or column.name in known
            if column.name in unused:
                idle.append(column)
            elif seen or (at < alive[0] and (not ran or column.module in ran)):
                parted.setdefault(reason, []).insert(0, column)
            else:
                idle.insert(0, column)
        first = table.columns[int(alive[0])]
        for reason, columns in parted.items():
            found.append(_lost_in_run(history, columns, reason, first, cuts, bool(ran)))
    return found, idle


def _reason(module: str, why: Mapping[str, str]) -> str:
    """Why a module, or one around it, recorded no graph."""
    while module:
        if module in why:
            return why[module]
        module = module.rpartition(".")[0]
    return ""


def _lost_in_run(
    history: History, columns: list[Column], reason: str, first: Column, cuts: list[Event],
    sure: bool,
) -> Lost:  # fmt: skip
    names = [column.name for column in columns]
    mine = [cut for cut in cuts if set(names) & set(cut.facts.get("lost", ()))]
    cut = mine[-1] if mine and not reason else None
    lines = [e.facts.get("cut_lines") or {} for e in history.of_kind("loss-graph")]
    operation, source = "", None
    if cut is not None:
        operation, source = str(cut.facts.get("operation", "")), cut.facts.get("source")
    elif not reason and lines and len(lines[-1]) == 1:
        operation, source = next(iter(lines[-1].items()))
    unreached = {n for e in history.of_kind("loss-graph") for n in e.facts.get("unreached") or ()}
    return Lost(
        names=tuple(names),
        modules=tuple(dict.fromkeys(c.module for c in reversed(columns))),
        reason=reason,
        behind=first.module or first.name,
        operation=operation,
        source=source,
        step=history.step,
        sure=sure or bool(unreached & set(names)) or cut is not None or bool(reason),
        copies=_are_copies(names, [c.name for c in history["gradient"].columns]),
    )


def _modules_that_ran(history: History) -> set[str]:
    """Modules whose output was measured, and those around them."""
    found: set[str] = set()
    for column in history["output"].columns:
        parts = column.module.split(".")
        found.update(".".join(parts[:depth]) for depth in range(1, len(parts) + 1))
    return found


def finding(lost: Lost, *, code: str, name: str, summary: str, exculpation: str) -> Finding:
    """A finding on lost parameters; a note where they are a copy by their names."""
    severity = Severity.ERROR if lost.sure else Severity.WARNING
    return Finding(
        code=code,
        name=name,
        severity=Severity.NOTE if lost.copies else severity,
        modules=lost.modules,
        source=lost.source,
        summary=summary,
        evidence=(
            Evidence(
                quantity="trainable parameters that took part and get no gradient",
                observed=float(len(lost.names)),
                limit=0.0,
                unit="parameters",
                module=lost.modules[0] if lost.modules else None,
                step=lost.step,
            ),
        ),
        confidence=1.0 if lost.sure else 0.9,
        weight=110.0 if lost.reason else 100.0,
        explains=tuple(each for each in EXPLAINS if each != name),
        exculpation=exculpation,
    )
