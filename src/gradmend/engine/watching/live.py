"""Rules over a growing run: when a finding begins, that it holds, when it clears."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from gradmend.engine.diagnose import rank
from gradmend.records.finding import Finding, Severity
from gradmend.records.history import Event, History
from gradmend.registry import remedies, rules

CLEARS_AFTER = 2
"""Judgements in a row without a finding before it counts as cleared: one may fall on a bad row."""
MOST_SPELLS = 200
"""Spells that are over and still remembered."""


@dataclass(kw_only=True)
class Spell:
    """A finding from the step it began to the step it cleared."""

    finding: Finding
    began: int
    last: int
    """The last step at which it held."""
    cleared: int | None = None
    missed: int = 0

    @property
    def open(self) -> bool:
        """Whether it still holds."""
        return self.cleared is None


class Live:
    """Judges a run again and again and keeps the spells of its findings.

    Args:
        tell: Gets an event when a finding begins or clears.
        fails: Gets the error of a rule that raised; the other rules go on.
    """

    def __init__(self, tell: Callable[[Event], None], fails: Callable[[Exception], None]) -> None:
        self.spells: list[Spell] = []
        self._tell, self._fails = tell, fails

    @property
    def open(self) -> list[Spell]:
        """The findings that hold now."""
        return [spell for spell in self.spells if spell.open]

    def judge(self, history: History) -> list[Spell]:
        """Ask every rule; returns the spells that have just begun."""
        step = history.step
        found = {finding.name: finding for finding in judged(history, self._fails)}
        begun: list[Spell] = []
        for spell in self.open:
            finding = found.pop(spell.finding.name, None)
            if finding is not None:
                spell.finding, spell.last, spell.missed = finding, step, 0
                continue
            spell.missed += 1
            if spell.missed >= CLEARS_AFTER:
                spell.cleared = step
                self._tell(_event("finding-clears", spell.finding, step))
        for finding in found.values():
            spell = Spell(finding=finding, began=step, last=step)
            self.spells = [
                *self.open,
                *[s for s in self.spells if not s.open][-MOST_SPELLS:],
                spell,
            ]
            begun.append(spell)
            self._tell(_event("finding-begins", finding, step))
        return begun

    def worst(self) -> Severity | None:
        """The worst severity that holds now."""
        return max((s.finding.severity for s in self.open), key=lambda s: s.rank, default=None)


def judged(history: History, fails: Callable[[Exception], None]) -> list[Finding]:
    """Findings of every rule over a run, explained and ranked."""
    findings: list[Finding] = []
    for rule in rules():
        try:
            findings += rule.over(history)
        except Exception as error:  # a rule's own mistake must not silence the others
            fails(error)
    return ranked(findings)


def ranked(findings: Iterable[Finding]) -> list[Finding]:
    """Mark what one finding explains of another, name their remedies, order them."""
    best: dict[str, Finding] = {}
    for finding in findings:
        known = best.get(finding.name)
        if known is None or finding.severity.rank > known.severity.rank:
            best[finding.name] = finding
    return rank(
        replace(f, remedies=tuple(r.name for r in remedies() if f.name in r.treats))
        for f in best.values()
    )


def _event(kind: str, finding: Finding, step: int) -> Event:
    return Event(
        step=step,
        kind=kind,
        where=finding.modules[0] if finding.modules else "",
        text=finding.summary,
        facts={"code": finding.code, "name": finding.name, "severity": finding.severity.value},
    )
