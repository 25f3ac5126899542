"""From a run's history to a report: findings of the run and of the looks taken in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Any

import numpy as np

from gradmend.engine.watching.live import judged, ranked
from gradmend.records.finding import Evidence, Finding, Severity
from gradmend.records.history import Event, History
from gradmend.records.report import Report
from gradmend.records.trace import Run, Trace
from gradmend.records.watched import FirstBadValue, Spell, Watched
from gradmend.theory.guessing import is_worse_than_a_guess
from gradmend.theory.windows import FEWEST

SETTLED = ("NUM101",)
"""Findings of one look that no training disproves: numbers that are none."""
EXACT = ("INI103", "INI104", "ACT105", *SETTLED)
"""Findings of one look that are facts and no estimates: a loss may fall in spite of them."""
HALF = 0.5
"""Of the first loss: a run that is below it learns well (our choice). On 104 healthy trainings of
fit families (benchmarks/confusion.py) nothing had to be taken back at all."""
BEGINNING = ("INI", "NRM1", "RES1")
"""Codes of findings about how the network began: a later look finds other weights."""
FAR = 5.0
"""Times its limit from which a finding about the data stands beside a loss that falls (our choice:
raw pixels have an rms of 50 to 150, where the limit is 10)."""
CONSTANT = 1e-8
"""Share of the last output's energy that differs between samples, below which they all get the
same: a ten-thousandth of its size (our choice)."""
FALL = 0.05
"""Share of the first loss by which it must have fallen to say that a model learns (our choice)."""


@dataclass(frozen=True, slots=True)
class Look:
    """A full look taken during a run."""

    step: int
    trace: Trace
    findings: tuple[Finding, ...]


def report_of(
    history: History,
    looks: Sequence[Look] = (),
    fails: Callable[[Exception], None] | None = None,
    *,
    first: Sequence[Finding] | None = None,
) -> Report:
    """The report on a run, from its record alone.

    Args:
        history: The run.
        looks: Full looks that are still in memory; their findings are in the history too.
        fails: Gets the error of a rule that raised; such errors become notes where not given.
        first: What the looks at the first step say where they were judged again, with more known
            than then; instead of what the history holds of them.
    """
    broken: list[str] = []

    def note(error: Exception) -> None:
        broken.append(f"a rule failed: {type(error).__name__}: {error}")

    found = judged(history, fails or note)
    watched = _watched(history)
    watched = replace(watched, notes=(*watched.notes, *broken))
    seen = _look_findings(history) if first is None else [*first, *_later_findings(history)]
    doubted = any(f.severity is not Severity.NOTE for f in found)
    if watched.learns and not doubted and not is_worse_than_a_guess(history):
        began = _loss_of_a_constant(history)
        seen = [_in_the_light_of_learning(finding, watched, began) for finding in seen]
    trace, after = _traces(history, looks)
    return Report(
        trace=trace,
        after=after,
        findings=tuple(ranked([*found, *seen])),
        watched=watched,
        made_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _in_the_light_of_learning(finding: Finding, watched: Watched, began: float) -> Finding:
    """A look tells what hinders a gradient; a training that learns well has disproved it.

    One that learns a little has disproved a part: a fault that halves the pace lets a loss fall.
    What it fell before ``began``, while all samples got one output, took no gradient through it.
    """
    if finding.code in EXACT or _worse_than_a_guess(finding, watched) or _far_out_of_scale(finding):
        return finding
    first, last = watched.loss_first, watched.loss_last
    if first is not None and last is not None and began - last <= FALL * abs(began) < math.inf:
        return finding
    if first is None or last is None or last <= HALF * min(first, began):
        return replace(finding, severity=Severity.NOTE)
    if finding.severity is Severity.ERROR:
        return replace(finding, severity=Severity.WARNING)
    begun = finding.code.startswith(BEGINNING)
    return finding if begun else replace(finding, severity=Severity.NOTE)


def _loss_of_a_constant(history: History) -> float:
    """The loss when the outputs last were the same for all samples since the beginning.

    A regression falls from any height as the last bias finds the targets' mean.

    Returns:
        Infinity where they differed from the first, or that is not known.
    """
    table, losses = history["output"], history["step"]
    if not table.columns or len(losses.columns) != 1:
        return math.inf
    last = int(np.argmax([column.order for column in table.columns]))
    steps, spread = table.series("spread_share", last)
    alike = int(np.argmin(np.append(spread < CONSTANT, False)))
    if not alike:
        return math.inf
    known, values = losses.series("loss", 0)
    near = values[(known <= steps[alike - 1]) & np.isfinite(values)][-FEWEST:]
    return float(np.median(near)) if len(near) else math.inf


def _far_out_of_scale(finding: Finding) -> bool:
    """Data as far beyond their limit as raw pixels are: a loss that falls falls in spite of it."""
    return finding.code.startswith("DAT") and any(
        item.limit is not None and item.limit > 1.0 and item.observed >= FAR * item.limit
        for item in finding.evidence
    )


def _worse_than_a_guess(finding: Finding, watched: Watched) -> bool:
    """A loss that fell from a height has not learned before it is below that of a guess."""
    last = watched.loss_last
    return last is not None and any(
        item.unit == "nats" and item.limit is not None and last > item.limit
        for item in finding.evidence
    )


def _traces(history: History, looks: Sequence[Look]) -> tuple[Trace, Trace | None]:
    """The first look, as far as it is known, and the newest one's books where it was another."""
    run, books = _run(history), history.books
    if not books:
        return (looks[-1].trace if looks else Trace(run=run)), None
    first = next((look.trace for look in looks if look.step == books[0].step), None)
    trace = replace(first or Trace(run=run), ledger=books[0].ledger)
    if len(books) == 1:
        return trace, None
    return trace, Trace(run=replace(run, step=books[-1].step), ledger=books[-1].ledger)


def _run(history: History) -> Run:
    run = history.run
    optimizers = history["step"].columns
    losses = history["step"]["loss"]
    known = losses[~np.isnan(losses)] if losses.size else losses
    return Run(
        model=", ".join(run.models) or run.name,
        torch=run.torch,
        device=run.device,
        parameters=sum(c.size for c in history["gradient"].columns if c.facts.get("registered")),
        loss=float(known[-1]) if known.size else None,
        optimizer=optimizers[0].kind if optimizers else None,
        step=run.steps,
        seconds=run.seconds,
    )


def _look_findings(history: History) -> list[Finding]:
    """Findings of the last look; what an earlier one said has been looked at again.

    A look at numbers that are none can judge nothing else, so the one before stands beside it;
    and how the weights began is told by the first look alone.
    """
    looks = [_findings_of(look) for look in history.of_kind("look")]
    kept: list[Finding] = []
    for look in reversed(looks):
        kept += look
        if not any(finding.code in SETTLED for finding in look):
            break
    for finding in looks[0] if looks else []:
        if finding.code.startswith(BEGINNING):
            kept.append(finding)
    return list({finding.name: finding for finding in reversed(kept)}.values())


def _later_findings(history: History) -> list[Finding]:
    """Findings of the last look, unless it was at the first step; how it began aside."""
    last = max(history.of_kind("look"), key=lambda event: event.step, default=None)
    if last is None or last.step == 0:
        return []
    return [f for f in _findings_of(last) if not f.code.startswith(BEGINNING)]


def _findings_of(look: Event) -> list[Finding]:
    found = [_finding(plain, look.step) for plain in look.facts.get("findings", ())]
    return [finding for finding in found if finding is not None]


def _finding(plain: Any, step: int) -> Finding | None:
    """A finding from its plain form; ``None`` where a file from elsewhere holds something else."""
    try:
        return Finding(
            code=str(plain["code"]),
            name=str(plain["name"]),
            severity=Severity(plain["severity"]),
            modules=tuple(str(m) for m in plain["modules"]),
            summary=str(plain["summary"]),
            evidence=tuple(
                Evidence(
                    quantity=str(e["quantity"]),
                    observed=_number(e["observed"]),
                    limit=None if e.get("limit") is None else float(e["limit"]),
                    unit=str(e.get("unit", "1")),
                    module=e.get("module"),
                    step=step,
                )
                for e in plain.get("evidence", ())
            ),
            source=plain.get("source"),
            confidence=float(plain.get("confidence", 1.0)),
            weight=_number(plain.get("weight", 0.0)),
            explains=tuple(str(name) for name in plain.get("explains", ())),
            exculpation=str(plain.get("exculpation", "")),
            symptom=bool(plain.get("symptom", False)),
        )
    except (KeyError, TypeError, ValueError, AttributeError):
        return None


def _number(value: Any) -> float:
    return math.nan if value is None else float(value)


def _watched(history: History) -> Watched:
    run, steps = history.run, history["step"]
    loss_first, loss_last, learns = _losses(history)
    still_steps, still_parameters = _still(history)
    crash = next((e.text for e in history.of_kind("crash")), "")
    stopped = next((e.text for e in history.of_kind("stopped")), "")
    return Watched(
        name=run.name,
        command=run.command,
        models=run.models,
        status=run.status,
        steps=run.steps,
        seconds=run.seconds,
        overhead_seconds=run.overhead_seconds,
        setup_seconds=run.setup_seconds,
        budget=run.budget,
        rank=run.rank,
        ranks=run.ranks,
        loss_first=loss_first,
        loss_last=loss_last,
        learns=learns,
        still_steps=still_steps,
        still_seconds=still_steps * run.seconds,
        still_parameters=still_parameters,
        clipped_steps=_clipped(history),
        skipped_steps=_mean(steps["skipped"]) or 0.0,
        first_bad=_first_bad(history),
        crash=crash,
        stopped=stopped,
        spells=_spells(history),
        notes=tuple(dict.fromkeys(e.text for e in history.of_kind("note"))),
    )


def _losses(history: History) -> tuple[float | None, float | None, bool | None]:
    """First and last median of the loss, and whether it fell by more than its noise.

    The optimizer with the most losses counts; a GAN's losses tell nothing of learning.
    """
    losses = history["step"]["loss"]
    if not losses.size:
        return None, None, None
    column = losses[:, int(np.argmax((~np.isnan(losses)).sum(axis=0)))]
    known = column[np.isfinite(column)]
    if not len(known):
        return None, None, None
    window = max(1, min(20, len(known) // 5))
    first, last = float(np.median(known[:window])), float(np.median(known[-window:]))
    given = column[~np.isnan(history["step"]["backwards"]).all(axis=1)]
    if len(given) and not np.isfinite(given[-window:]).any():
        return first, math.nan, False  # the last ones are no numbers
    if len(known) < 10 or losses.shape[1] > 1:
        return first, last, None
    tail = known[-2 * window :]
    noise = float(np.median(np.abs(tail - np.median(tail)))) * 1.4826 / math.sqrt(window)
    return first, last, first - last > max(FALL * abs(first), 3 * noise)


def _still(history: History) -> tuple[float, float]:
    """Share of steps, and of weights, in which nothing moved by a single bit."""
    moved = history["step"]["unchanged_share"]
    known = moved[~np.isnan(moved).all(axis=1)] if moved.size else moved
    steps = float(np.mean(np.nanmin(known, axis=1) >= 1.0)) if len(known) else 0.0
    updates = history["update"]
    unchanged = updates["unchanged_share"]
    if not unchanged.size:
        return steps, 0.0
    measured = ~np.isnan(unchanged)
    frozen = measured.any(axis=0) & ~((unchanged < 1.0) & measured).any(axis=0)
    sizes = np.array([column.size for column in updates.columns], dtype=float)
    mine = np.array([column.facts.get("optimizer") is not None for column in updates.columns])
    total = float(sizes[mine].sum())
    return steps, float(sizes[frozen & mine].sum()) / total if total else 0.0


def _clipped(history: History) -> float | None:
    steps = history["step"]
    asked = ~np.isnan(steps["clip_limit"])
    factor = steps["clip_factor"][asked] if asked.size else np.zeros(0)
    known = factor[~np.isnan(factor)]
    return float(np.mean(known < 1.0)) if known.size else None


def _mean(values: Any) -> float | None:
    known = values[~np.isnan(values)] if values.size else values
    return float(known.mean()) if known.size else None


def _first_bad(history: History) -> FirstBadValue | None:
    event = next(history.of_kind("non-finite"), None)
    if event is None:
        return None
    facts = event.facts
    return FirstBadValue(
        step=event.step,
        direction=str(facts.get("direction", "")),
        module=event.where,
        operation=str(facts.get("operation") or ""),
        source=facts.get("source") or facts.get("line"),
        last_good=int(facts.get("last_good", -1)),
        batch=tuple(int(n) for n in facts.get("batch") or ()),
        replayed=bool(facts.get("replayed")),
        why=str(facts.get("why") or event.text or ""),
    )


def _spells(history: History) -> tuple[Spell, ...]:
    spells: list[Spell] = []
    for event in history.of_kind("finding-begins", "finding-clears"):
        name = str(event.facts.get("name", ""))
        if event.kind == "finding-begins":
            code, severity = str(event.facts.get("code", "")), str(event.facts.get("severity", ""))
            spells.append(Spell(code=code, name=name, severity=severity, began=event.step))
            continue
        for at, spell in enumerate(spells):
            if spell.name == name and spell.cleared is None:
                spells[at] = replace(spell, cleared=event.step)
    return tuple(spells)
